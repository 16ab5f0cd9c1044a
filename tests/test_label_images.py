import struct
import zlib

import numpy as np
import pytest
from fixtures_pieces import draw_spiral, flood_pieces
from PIL import Image, ImageOps

from trashseg_jax.data import class_runs, label_images
from trashseg_jax.data.taxonomy import IGNORE_LABEL, ClassMap
from trashseg_jax.errors import InputError

VALUES = ClassMap(("Ground", "Can", "Bag"), {}, values={0: 0, 1: 1, 3: 2, 255: IGNORE_LABEL})
COLORS = ClassMap(
    ("Ground", "Can", "Bag"), {}, colors={0: 0, 0xC00080: 1, 0x0080C0: 2, 0xFFFFFF: IGNORE_LABEL}
)
INDEX = np.array([[0, 1, 3], [3, 255, 0]], np.uint8)
CLASSES = np.array([[0, 1, 2], [2, 255, 0]], np.uint8)
RGB = np.array([[0, 0, 0], [192, 0, 128], [0, 128, 192], [255, 255, 255]], np.uint8)
IN_COLOR = RGB[[[0, 1, 2], [2, 3, 0]]]


def save(path, pixels, mode=None):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.convert(mode or image.mode).save(path)
    return path


def in_palette(index, colors):
    """Returns an image in palette mode."""
    image = Image.fromarray(index)
    image.putpalette(np.array(colors, np.uint8).tobytes())
    return image


def png(rows, *, width, depth, kind):
    """Returns a PNG of packed rows, of a depth and colour type that Pillow doesn't write."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


# Which pixels are which class


@pytest.mark.parametrize(
    "pixels",
    [
        INDEX,
        INDEX.astype(np.uint16),
        in_palette(INDEX, np.arange(768).reshape(256, 3) % 251),
        np.stack([INDEX, np.full_like(INDEX, 255)], -1),  # grey and alpha
        np.stack([INDEX] * 3, -1),  # grey, written three times
    ],
    ids=["8 bit", "16 bit", "palette", "alpha", "grey as RGB"],
)
def test_values_are_read_whatever_they_are_stored_as(tmp_path, pixels):
    path = save(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(label_images.read_label(path, VALUES), CLASSES)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_values_of_few_bits_are_those_of_the_file_not_stretched_to_255(tmp_path, depth):
    index = np.array([0, 1, 1, 0, 1, 0, 0, 1]) if depth == 1 else np.array([0, 1, 3, 0, 3, 3, 1, 0])
    bits = (index[:, None] >> np.arange(depth)[::-1] & 1).ravel()
    path = tmp_path / "a.png"
    path.write_bytes(png([np.packbits(bits).tolist()], width=8, depth=depth, kind=0))
    expected = [[VALUES.values[value] for value in index.tolist()]]
    np.testing.assert_array_equal(label_images.read_label(path, VALUES), expected)


def test_values_of_16_bits_may_be_large(tmp_path):
    path = save(tmp_path / "a.png", np.array([[26001, 7]], np.uint16))
    class_map = ClassMap(("Ground", "Can"), {}, values={26001: 1, 7: 0})
    np.testing.assert_array_equal(label_images.read_label(path, class_map), [[1, 0]])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_are_read_whatever_they_are_stored_as(tmp_path, mode):
    palette = in_palette(CLASSES, np.resize(RGB, (256, 3)))  # 255 is the fourth colour, white
    path = save(tmp_path / "a.png", palette if mode == "P" else IN_COLOR, mode)
    np.testing.assert_array_equal(label_images.read_label(path, COLORS), CLASSES)


def test_grey_and_black_and_white_have_colours_where_the_map_has_no_values(tmp_path):
    expected = [[0, IGNORE_LABEL]]
    for mode in ("L", "1"):
        path = save(tmp_path / "a.png", np.array([[0, 255]], np.uint8), mode)
        np.testing.assert_array_equal(label_images.read_label(path, COLORS), expected)


def test_black_may_be_transparent_and_other_colours_may_not(tmp_path):
    alpha = np.array([[0, 255, 255], [255, 255, 90]], np.uint8)
    path = save(tmp_path / "a.png", np.dstack([IN_COLOR, alpha]))
    np.testing.assert_array_equal(label_images.read_label(path, COLORS), CLASSES)
    save(path, np.dstack([IN_COLOR, alpha[::-1]]))
    with pytest.raises(InputError, match=r"a\.png: has 2 transparent pixels"):
        label_images.read_label(path, COLORS)


# What is refused


def refusal(path, class_map=VALUES):
    with pytest.raises(InputError) as error:
        label_images.read_label(path, class_map)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_unknown_values_are_named_with_their_pixels_the_most_frequent_first(tmp_path):
    pixels = np.zeros((5, 6), np.uint8)
    pixels[0], pixels[1, :3], pixels[2, 0], pixels[3, :2] = 7, 9, 200, 8
    message = refusal(save(tmp_path / "a.png", pixels))
    assert "the value 7 (6 pixels), the value 9 (3 pixels), the value 8 (2 pixels)" in message
    assert "and 1 more values, not in the class map" in message
    assert '"values"' in message


def test_unknown_colours_are_named_with_their_pixels(tmp_path):
    pixels = IN_COLOR.copy()
    pixels[0] = (192, 0, 129)
    message = refusal(save(tmp_path / "a.png", pixels), COLORS)
    assert "the colour #c00081 (3 pixels), not in the class map" in message
    assert '"colors"' in message


@pytest.mark.parametrize("class_map", [COLORS, VALUES], ids=["colours", "values"])
def test_a_smoothed_label_gets_the_likely_cause(tmp_path, class_map):
    label = Image.new("RGB" if class_map is COLORS else "L", (40, 40))
    label.paste("#c00080" if class_map is COLORS else 255, (11, 7, 23, 31))
    smooth = label.rotate(20, Image.Resampling.BICUBIC).resize((64, 64), Image.Resampling.BICUBIC)
    assert "anti-aliased" in refusal(save(tmp_path / "a.png", smooth), class_map)


def test_colours_need_colors_in_the_map_and_16_bits_values(tmp_path):
    path = save(tmp_path / "a.png", IN_COLOR)
    assert 'the class map has no "colors"' in refusal(path)
    assert '"values"' in refusal(save(path, INDEX.astype(np.uint16)), COLORS)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_jpeg_is_no_label_whatever_its_name(tmp_path, name):
    Image.fromarray(INDEX).save(tmp_path / name, "JPEG")
    assert "is a JPEG, whose compression changes values" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "is not a PNG"),
        (b"BM" + b"\0" * 90, "is not a PNG"),
        (b"\x89PNG\r\n\x1a\n", "can't be read"),
        (png([[0] * 12], width=2, depth=16, kind=2), "16 bits a channel"),
        (png([range(9)] * 40, width=9, depth=8, kind=0)[:55], "can't be read"),
    ],
)
def test_what_is_not_a_whole_png_is_refused(tmp_path, content, named):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert named in refusal(path)
    assert "No such file" in refusal(tmp_path / "b.png")


# Labels of rotated photographs


def write_photo(path, *, width, height, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (width, height)).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_label_may_be_of_the_photograph_as_shown_or_as_stored(tmp_path, orientation):
    photo = write_photo(tmp_path / "a.jpg", width=5, height=3, orientation=orientation)
    stored = np.arange(15, dtype=np.uint8).reshape(3, 5)
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = orientation
    shown = np.asarray(ImageOps.exif_transpose(image))
    assert shown.shape == (5, 3)
    for label in (stored, shown):
        upright = label_images.turn_upright(label, tmp_path / "a.png", photo, height=5, width=3)
        np.testing.assert_array_equal(upright, shown)


@pytest.mark.parametrize(
    ("orientation", "width", "height"), [(2, 5, 3), (3, 5, 3), (4, 5, 3), (6, 4, 4), (8, 4, 4)]
)
def test_a_label_whose_size_cannot_tell_is_refused(tmp_path, orientation, width, height):
    photo = write_photo(tmp_path / "a.jpg", width=width, height=height, orientation=orientation)
    label = np.zeros((height, width), np.uint8)
    with pytest.raises(InputError, match=r"a\.png: may belong to .*a\.jpg as it is shown or"):
        label_images.turn_upright(label, tmp_path / "a.png", photo, height=height, width=width)


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("shape", [(3, 4), (6, 10), (4, 3)])
def test_a_label_of_another_size_is_refused_with_both(tmp_path, orientation, shape):
    photo = write_photo(tmp_path / "a.jpg", width=5, height=3, orientation=orientation)
    size = {"height": 5, "width": 3} if orientation == 6 else {"height": 3, "width": 5}
    expected = rf"a\.png: is {shape[1]} wide and {shape[0]} high; .*a\.jpg is {size['width']} wide"
    with pytest.raises(InputError, match=expected):
        label_images.turn_upright(np.zeros(shape, np.uint8), tmp_path / "a.png", photo, **size)


# Pieces


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (23, 31), (60, 50)])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_objects_are_the_pieces_that_flooding_finds(shape, share):
    rng = np.random.default_rng(0)
    classes = np.where(rng.random(shape) < share, rng.integers(0, 4, shape), 0).astype(np.uint8)
    classes[rng.random(shape) < 0.05] = IGNORE_LABEL
    expected = [flood_pieces(classes == k) for k in range(1, 4)]
    assert label_images.count_objects(classes, num_classes=4).tolist() == [0, *expected]


@pytest.mark.parametrize("strip", [1, 2, 7, 256])
def test_a_spiral_is_one_piece(monkeypatch, strip):
    monkeypatch.setattr(class_runs, "STRIP", strip)
    classes = draw_spiral()
    assert flood_pieces(classes == 1) == 1
    assert label_images.count_objects(classes, num_classes=2).tolist() == [0, 1]
