import json

import numpy as np
import pytest

from trashseg_jax.data import taxonomy
from trashseg_jax.data.taxonomy import CLASSES, IGNORE_LABEL, load_class_map
from trashseg_jax.errors import InputError

# The category names of TACO's official annotations.json, in the order of their ids.
TACO_CATEGORIES = (
    "Aluminium foil",
    "Battery",
    "Aluminium blister pack",
    "Carded blister pack",
    "Other plastic bottle",
    "Clear plastic bottle",
    "Glass bottle",
    "Plastic bottle cap",
    "Metal bottle cap",
    "Broken glass",
    "Food Can",
    "Aerosol",
    "Drink can",
    "Toilet tube",
    "Other carton",
    "Egg carton",
    "Drink carton",
    "Corrugated carton",
    "Meal carton",
    "Pizza box",
    "Paper cup",
    "Disposable plastic cup",
    "Foam cup",
    "Glass cup",
    "Other plastic cup",
    "Food waste",
    "Glass jar",
    "Plastic lid",
    "Metal lid",
    "Other plastic",
    "Magazine paper",
    "Tissues",
    "Wrapping paper",
    "Normal paper",
    "Paper bag",
    "Plastified paper bag",
    "Plastic film",
    "Six pack rings",
    "Garbage bag",
    "Other plastic wrapper",
    "Single-use carrier bag",
    "Polypropylene bag",
    "Crisp packet",
    "Spread tub",
    "Tupperware",
    "Disposable food container",
    "Foam food container",
    "Other plastic container",
    "Plastic glooves",
    "Plastic utensils",
    "Pop tab",
    "Rope & strings",
    "Scrap metal",
    "Shoe",
    "Squeezable tube",
    "Plastic straw",
    "Paper straw",
    "Styrofoam piece",
    "Unlabeled litter",
    "Cigarette",
)


def test_palette_begins_with_the_competitions_colours():
    expected = [(0, 0, 0), (192, 0, 128), (0, 128, 192), (0, 128, 64), (128, 0, 0), (64, 0, 128)]
    expected += [(64, 0, 192), (192, 128, 64), (192, 192, 128), (64, 64, 128), (128, 0, 192)]
    np.testing.assert_array_equal(taxonomy.palette(11), expected)


# Machado, Oliveira & Fernandes 2009, table 1, severity 1: linear RGB as these eyes see it.
VISIONS = {
    "all cones": np.eye(3),
    "no red cones": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green cones": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no blue cones": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def to_lab(colors, vision):
    """CIE L*a*b* (D65) of sRGB, as seen so."""
    srgb = np.asarray(colors) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(VISIONS[vision]), 0, 1)
    to_xyz = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
    xyz = seen @ np.transpose(to_xyz) / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def ciede2000(first, second):
    """Sharma, Wu & Dalal 2005, equations 2 to 22."""
    (l1, a1, b1), (l2, a2, b2) = np.moveaxis(first, -1, 0), np.moveaxis(second, -1, 0)

    def saturated(chroma):
        return np.sqrt(chroma**7 / (chroma**7 + 25.0**7))

    gain = 1.5 - 0.5 * saturated((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2)
    c1, c2 = np.hypot(gain * a1, b1), np.hypot(gain * a2, b2)
    h1, h2 = np.arctan2(b1, gain * a1), np.arctan2(b2, gain * a2)
    turn = np.where(c1 * c2 == 0, 0, (h2 - h1 + np.pi) % (2 * np.pi) - np.pi)
    hue = np.where(c1 * c2 == 0, h1 + h2, h1 + turn / 2) % (2 * np.pi)
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    cosines = np.cos([hue - np.pi / 6, 2 * hue, 3 * hue + np.pi / 30, 4 * hue - 0.35 * np.pi])
    t = 1 + np.tensordot([-0.17, 0.24, 0.32, -0.2], cosines, 1)
    by_light = (l2 - l1) / (1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2))
    by_chroma = (c2 - c1) / (1 + 0.045 * chroma)
    by_hue = 2 * np.sqrt(c1 * c2) * np.sin(turn / 2) / (1 + 0.015 * chroma * t)
    angle = np.pi / 3 * np.exp(-(((np.degrees(hue) - 275) / 25) ** 2))
    rotation = -2 * saturated(chroma) * np.sin(angle)
    return np.sqrt(by_light**2 + by_chroma**2 + by_hue**2 + rotation * by_chroma * by_hue)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((50, 2.5, 0), (61, -5, 29), 22.8977),
    ],
)
def test_colour_differences_are_those_of_the_published_table(first, second, expected):
    """Sharma, Wu & Dalal 2005, table 1, pairs 1, 17 and 18."""
    actual = ciede2000(np.array(first, float), np.array(second, float))
    assert actual == pytest.approx(expected, abs=1e-4)


def least_difference(colors, vision):
    lab = to_lab(colors, vision)
    first, second = np.triu_indices(len(colors), 1)
    return ciede2000(lab[first], lab[second]).min()


@pytest.mark.parametrize(("vision", "least"), [*((v, 17) for v in VISIONS), ("all cones", 29)])
def test_shown_colours_can_be_told_apart(vision, least):
    """The competition's least difference is 8.8, and 3.0 without red cones."""
    palette = taxonomy.palette(11)
    assert least_difference(palette, vision) < 9
    assert least_difference(taxonomy.shown_colors(palette), vision) > least


def test_a_palette_of_ones_own_is_shown_as_it_is():
    """That of more than eleven classes too: some of its colours are among those shown for these."""
    for own in (taxonomy.palette(11)[::-1], taxonomy.palette(60)):
        np.testing.assert_array_equal(taxonomy.shown_colors(own), own)


def test_palette_has_a_colour_of_its_own_for_each_of_255_classes():
    colors = taxonomy.palette(255)
    assert colors.shape == (255, 3)
    assert len(np.unique(colors, axis=0)) == 255
    np.testing.assert_array_equal(colors[:20], taxonomy.palette(20))


@pytest.mark.parametrize("num_classes", [0, -1, 256])
def test_palette_refuses_what_labels_cannot_hold(num_classes):
    with pytest.raises(InputError, match=str(num_classes)):
        taxonomy.palette(num_classes)


def test_recycle_trash_maps_every_class_name_onto_itself():
    class_map = load_class_map("recycle_trash")
    assert class_map.classes == CLASSES
    assert [class_map.label_of(name) for name in CLASSES] == list(range(11))


@pytest.mark.parametrize(
    ("spelling", "label"),
    [("Backgroud", 0), ("Paperpack", 3), ("Plasticbag", 8), ("UNKNOWN", IGNORE_LABEL)],
)
def test_recycle_trash_knows_the_spellings_of_other_editions(spelling, label):
    assert load_class_map("recycle_trash").label_of(spelling) == label


def test_taco_maps_its_60_categories_and_no_other():
    class_map = load_class_map("taco")
    assert set(class_map.categories) == set(TACO_CATEGORIES)
    assert len(TACO_CATEGORIES) == 60
    assert set(class_map.categories.values()) == {*range(1, 11), IGNORE_LABEL}


@pytest.mark.parametrize("name", ["  Paper pack ", "paper PACK"])
def test_names_match_whatever_their_case_and_outer_blanks(name):
    assert load_class_map("recycle_trash").label_of(name) == 3


def test_an_unknown_category_is_refused_with_the_nearest_name():
    with pytest.raises(InputError) as error:
        load_class_map("recycle_trash").label_of("Styrofaom")
    message = str(error.value)
    assert "'Styrofaom'" in message
    assert "did you mean 'Styrofoam'?" in message
    assert "--config.data.class_map" in message
    assert "\n" not in message


def write(folder, text):
    path = folder / "map.json"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_map_of_ones_own_chooses_classes_and_what_is_ignored(tmp_path):
    own = {
        "classes": ["Ground", "Can"],
        "categories": {"tin": "can", "mud": "Ground", "blurred": "Ignore"},
    }
    class_map = load_class_map(write(tmp_path, "\ufeff" + json.dumps(own)))  # with a BOM
    assert class_map.classes == ("Ground", "Can")
    assert class_map.categories == {"tin": 1, "mud": 0, "blurred": IGNORE_LABEL}


def test_a_map_without_classes_has_the_eleven(tmp_path):
    class_map = load_class_map(write(tmp_path, '{"categories": {"tin": "Metal"}}'))
    assert class_map.classes == CLASSES
    assert class_map.label_of("tin") == 4


@pytest.mark.parametrize(
    ("kind", "keys", "expected"),
    [
        ("values", {"7": "Metal"}, {7: 4, 0: 0, 255: 255}),
        ("values", {" 07": "Metal", "0": "Ignore", "255": "Paper"}, {7: 4, 0: 255, 255: 2}),
        ("values", {"65535": "Background"}, {65535: 0, 255: 255}),  # so 0 is not, and unknown
        ("colors", {"#C00080": "General trash"}, {0xC00080: 1, 0: 0}),
        ("colors", {"#ffffff": "Background", "#c00080": "ignore"}, {0xFFFFFF: 0, 0xC00080: 255}),
    ],
)
def test_values_and_colours_are_mapped_and_0_and_255_mean_what_they_do_elsewhere(
    tmp_path, kind, keys, expected
):
    class_map = load_class_map(write(tmp_path, json.dumps({kind: keys})))
    assert getattr(class_map, kind) == expected
    assert class_map.categories == {}


def test_recycle_trash_knows_the_competitions_values_and_colours():
    class_map = load_class_map("recycle_trash")
    assert class_map.values == {**{index: index for index in range(11)}, 255: IGNORE_LABEL}
    codes = [red << 16 | green << 8 | blue for red, green, blue in taxonomy.palette(11).tolist()]
    assert class_map.colors == {code: index for index, code in enumerate(codes)}


MANY = json.dumps([f"class {index}" for index in range(256)])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "is not json"),
        ('{"categories": ', "is not json"),
        ("[" * 100_000, "is not json"),
        ("[1]", "json list"),
        ("{}", '"categories"'),
        ('{"categories": {}}', '"categories"'),
        ('{"categories": ["tin"]}', '"categories"'),
        ('{"categories": {"tin": "Metall"}}', "'Metall'"),
        ('{"categories": {"tin": 4}}', "mapped to 4"),
        ('{"categories": {"tin": "Metal", "tin": "Glass"}}', "'tin' appears twice"),
        ('{"categories": {"tin": "Metal", "Tin ": "Glass"}}', "'Tin ' appears twice"),
        ('{"values": {}}', '"values"'),
        ('{"colors": ["#c00080"]}', '"colors"'),
        ('{"values": {"-1": "Metal"}}', "'-1'; it must be a whole number from 0 to 65535"),
        ('{"values": {"65536": "Metal"}}', "'65536'"),
        ('{"values": {"7.0": "Metal"}}', "'7.0'"),
        ('{"values": {"7": "Metal", "07": "Paper"}}', "'07' appears twice"),
        ('{"values": {"7": "Metall"}}', "did you mean 'Metal'"),
        ('{"colors": {"c00080": "Metal"}}', "'c00080'; it must be a colour like #c00080"),
        ('{"colors": {"#c0008": "Metal"}}', "'#c0008'"),
        ('{"colors": {"#c00080": "Metal", "#C00080": "Paper"}}', "'#C00080' appears twice"),
        ('{"colours": {"#c00080": "Metal"}}', "did you mean 'colors'?"),
        ('{"clases": ["a", "b"], "categories": {"a": "a"}}', "did you mean 'classes'?"),
        ('{"classes": "abc", "categories": {"a": "a"}}', '"classes"'),
        ('{"classes": [1, 2], "categories": {"a": "a"}}', '"classes"'),
        ('{"classes": ["a"], "categories": {"a": "a"}}', "1 names"),
        ('{"classes": ["a", "A"], "categories": {"a": "a"}}', "'A' appears twice"),
        ('{"classes": ["a", " "], "categories": {"a": "a"}}', "' '"),
        ('{"classes": ["a", "ignore"], "categories": {"a": "a"}}', "'ignore'"),
        ('{"classes": %s, "categories": {"a": "a"}}' % MANY, "256 names"),  # noqa: UP031
    ],
)
def test_a_wrong_class_map_is_refused_in_one_line(tmp_path, text, named):
    path = write(tmp_path, text)
    with pytest.raises(InputError) as error:
        load_class_map(path)
    assert path in str(error.value)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_a_class_map_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "map.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"map\.json: is not UTF-8"):
        load_class_map(str(path))


@pytest.mark.parametrize("name", ["tcao", "no/such/file.json", "", "a\0b", "."])
def test_a_class_map_that_is_not_there_is_refused(name):
    with pytest.raises(InputError) as error:
        load_class_map(name)
    assert repr(name) in str(error.value)
    assert "recycle_trash, taco" in str(error.value)


def test_a_mistyped_class_map_gets_the_nearest_name():
    with pytest.raises(InputError, match="did you mean 'taco'"):
        load_class_map("tcao")
