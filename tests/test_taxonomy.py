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
