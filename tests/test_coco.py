import io
import itertools
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from fixtures_coco import box, write_coco_folder
from PIL import Image
from pycocotools import mask as mask_utils

from trashseg_jax.data import coco
from trashseg_jax.data.taxonomy import IGNORE_LABEL, ClassMap, load_class_map
from trashseg_jax.errors import InputError

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
RECYCLE_TRASH = load_class_map("recycle_trash")


def annotation(label, segmentation, *, annotation_id=1, crowd=False):
    return coco.Annotation(annotation_id, label, segmentation, crowd)


def record(height, width, *annotations):
    return coco.Record(0, "a.png", Path("a.png"), height, width, annotations)


def paint(height, width, *annotations, paint_order="area"):
    return coco.paint(record(height, width, *annotations), paint_order=paint_order)


def rows(*lines):
    """Returns the label map drawn with one digit per pixel; "#" is IGNORE_LABEL."""
    digits = {str(digit): digit for digit in range(10)} | {"#": IGNORE_LABEL}
    return np.array([[digits[character] for character in line] for line in lines], np.uint8)


# Painting


def test_a_box_covers_the_pixels_whose_centres_it_holds():
    label, clipped = paint(4, 6, annotation(3, [box(1, 1, 3, 2)]))
    expected = rows(
        "000000",
        "033300",
        "033300",
        "000000",
    )
    np.testing.assert_array_equal(label, expected)
    assert label.dtype == np.uint8
    assert clipped == 0


def test_a_triangle_covers_the_pixels_whose_centres_it_holds():
    # Hypotenuse x + y = 4.6: of the centres (x + .5, y + .5) those with x + y < 3.6 lie inside.
    label, _ = paint(5, 5, annotation(1, [[0, 0, 4.6, 0, 0, 4.6]]))
    expected = rows(
        "11110",
        "11100",
        "11000",
        "10000",
        "00000",
    )
    np.testing.assert_array_equal(label, expected)


def test_a_concave_polygon_leaves_its_notch_free():
    label, _ = paint(4, 5, annotation(2, [[0, 0, 5, 0, 5, 4, 4, 4, 4, 2, 1, 2, 1, 4, 0, 4]]))
    expected = rows(
        "22222",
        "22222",
        "20002",
        "20002",
    )
    np.testing.assert_array_equal(label, expected)


def test_an_image_without_annotations_is_background():
    label, clipped = paint(2, 3)
    np.testing.assert_array_equal(label, np.zeros((2, 3)))
    assert clipped == 0


def test_polygons_of_one_annotation_are_united_where_they_overlap_too():
    label, _ = paint(3, 6, annotation(5, [box(0, 0, 3, 2), box(1, 1, 3, 2), box(5, 0, 1, 1)]))
    expected = rows(
        "555005",
        "555500",
        "055500",
    )
    np.testing.assert_array_equal(label, expected)


def test_a_polygon_that_reaches_outside_on_all_four_sides_is_clipped_and_counted():
    cross = [box(-3, 1, 11, 1), box(2, -3, 1, 9)]
    label, clipped = paint(4, 5, annotation(1, cross))
    expected = rows(
        "00100",
        "11111",
        "00100",
        "00100",
    )
    np.testing.assert_array_equal(label, expected)
    assert clipped == 1


def test_only_annotations_with_a_vertex_outside_count_as_clipped():
    inside = annotation(1, [box(0, 0, 5, 4)])  # on the border is inside
    beyond = annotation(2, [box(1, 1, 1, 1), box(4, 3, 1.5, 1)])
    outside = annotation(3, [box(-9, -9, 2, 2)])
    label, clipped = paint(4, 5, inside, beyond, outside)
    assert clipped == 2
    assert 3 not in label


def holds(polygon, x, y):
    """Whether a point lies in a polygon: an odd number of edges cross the ray to its right."""
    corners = list(zip(polygon[::2], polygon[1::2], strict=True))
    inside = False
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
            inside = not inside
    return inside


def distance(polygon, x, y):
    """Returns a point's distance to the nearest edge."""
    corners = np.array(polygon, float).reshape(-1, 2)
    edges = np.roll(corners, -1, 0) - corners
    offsets = np.array([x, y]) - corners
    along = np.clip((offsets * edges).sum(1) / (edges**2).sum(1), 0, 1)
    return np.linalg.norm(offsets - along[:, None] * edges, axis=1).min()


@pytest.mark.parametrize("seed", range(20))
def test_painting_equals_point_in_polygon_at_pixel_centres(seed):
    rng = np.random.default_rng(seed)
    size = 16
    triangle = rng.uniform(-size / 2, 1.5 * size, 6).tolist()  # often outside the image
    label, _ = paint(size, size, annotation(1, [triangle]))
    for y, x in itertools.product(range(size), repeat=2):
        # pycocotools rounds corners and edges to fifths of a pixel: each moves by up to 0.1 in x
        # and in y, so what is nearer to an edge than 0.2 * sqrt(2) may fall on either side.
        if distance(triangle, x + 0.5, y + 0.5) > 0.2 * 2**0.5:
            assert label[y, x] == holds(triangle, x + 0.5, y + 0.5), (x, y, triangle)


@pytest.mark.parametrize("seed", range(10))
def test_boxes_on_the_grid_are_painted_exactly(seed):
    rng = np.random.default_rng(seed)
    x, y = (int(value) for value in rng.integers(-6, 12, 2))
    width, height = (int(value) for value in rng.integers(1, 14, 2))
    label, _ = paint(11, 13, annotation(1, [box(x, y, width, height)]))
    expected = np.zeros((11, 13))
    expected[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)] = 1
    np.testing.assert_array_equal(label, expected)


BIG = annotation(1, [box(0, 0, 4, 3)])  # 8 numbers
SMALL = annotation(2, [[1, 1, 3, 1, 3, 2, 2, 2, 1, 2]])  # 10 numbers, on BIG
SMALL_SIMPLE = annotation(2, [box(1, 1, 2, 1)])
BIG_DETAILED = annotation(1, [[0, 0, 2, 0, 4, 0, 4, 3, 0, 3]])


@pytest.mark.parametrize("annotations", [(BIG, SMALL), (SMALL, BIG)])
@pytest.mark.parametrize("paint_order", ["area", "reference"])
def test_both_orders_leave_a_small_detailed_object_on_top(annotations, paint_order):
    label, _ = paint(3, 4, *annotations, paint_order=paint_order)
    np.testing.assert_array_equal(label, rows("1111", "1221", "1111"))


@pytest.mark.parametrize(
    "annotations", [(BIG_DETAILED, SMALL_SIMPLE), (SMALL_SIMPLE, BIG_DETAILED)]
)
def test_order_area_paints_the_larger_mask_first(annotations):
    label, _ = paint(3, 4, *annotations, paint_order="area")
    np.testing.assert_array_equal(label, rows("1111", "1221", "1111"))


@pytest.mark.parametrize(
    "annotations", [(BIG_DETAILED, SMALL_SIMPLE), (SMALL_SIMPLE, BIG_DETAILED)]
)
def test_order_reference_paints_the_shorter_first_polygon_first(annotations):
    label, _ = paint(3, 4, *annotations, paint_order="reference")
    np.testing.assert_array_equal(label, rows("1111", "1111", "1111"))


def test_order_area_counts_only_pixels_inside_the_image():
    mostly_outside = annotation(1, [box(-20, 0, 22, 3)])  # 2x3 pixels in the image
    label, _ = paint(3, 4, mostly_outside, annotation(2, [box(0, 0, 4, 2)]))
    np.testing.assert_array_equal(label, rows("1122", "1122", "1100"))


@pytest.mark.parametrize("paint_order", ["area", "reference"])
def test_equals_are_painted_in_annotation_order(paint_order):
    first, second = annotation(1, [box(0, 0, 2, 1)]), annotation(2, [box(1, 0, 2, 1)])
    label, _ = paint(1, 3, first, second, paint_order=paint_order)
    np.testing.assert_array_equal(label, rows("122"))
    label, _ = paint(1, 3, second, first, paint_order=paint_order)
    np.testing.assert_array_equal(label, rows("112"))


def test_order_reference_ranks_an_rle_by_its_number_of_runs():
    rle = {"size": [1, 3], "counts": [0, 3]}  # two runs: fewer than a polygon's 8 numbers
    label, _ = paint(
        1, 3, annotation(1, [box(0, 0, 2, 1)]), annotation(2, rle), paint_order="reference"
    )
    np.testing.assert_array_equal(label, rows("112"))


def test_an_unknown_paint_order_is_refused():
    with pytest.raises(InputError, match="'random'; it must be one of area, reference"):
        paint(3, 4, BIG, paint_order="random")


def uncompressed(mask):
    """Returns the run lengths of 0, 1, 0, ... down the columns of a mask."""
    counts, value = [0], 0
    for pixel in mask.ravel(order="F"):
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def compressed(mask):
    """Returns pycocotools' RLE with its counts as text, as it stands in a json."""
    rle = mask_utils.encode(np.asfortranarray(mask))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


@pytest.mark.parametrize("encode", [uncompressed, compressed])
def test_an_rle_paints_what_its_polygon_paints(encode):
    polygons = [[2, 1, 30, 4, 25.5, 18, 9, 15], box(33, 0, 7, 20)]
    expected, _ = paint(20, 40, annotation(1, polygons))
    label, clipped = paint(20, 40, annotation(1, encode(expected)))
    np.testing.assert_array_equal(label, expected)
    assert clipped == 0


@pytest.mark.parametrize("encode", [uncompressed, compressed])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (37, 53)])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_an_rle_of_any_mask_paints_that_mask(encode, shape, density):
    mask = (np.random.default_rng(0).random(shape) < density).astype(np.uint8)
    label, _ = paint(*shape, annotation(1, encode(mask)))
    np.testing.assert_array_equal(label, mask)


def test_a_compressed_rle_with_runs_of_many_digits_paints_its_mask():
    mask = np.zeros((700, 900), np.uint8)  # runs of up to 630,000 pixels: four characters
    mask[:, 400:800] = 1
    mask[3, 2] = 1
    label, _ = paint(700, 900, annotation(1, compressed(mask)))
    np.testing.assert_array_equal(label, mask)


def test_runs_of_zero_length_in_an_rle_paint_nothing():
    label, _ = paint(1, 4, annotation(1, {"size": [1, 4], "counts": [0, 0, 1, 0, 0, 2, 1, 0]}))
    np.testing.assert_array_equal(label, rows("0110"))


@pytest.mark.parametrize("paint_order", ["area", "reference"])
def test_a_crowd_is_ignored_except_where_objects_are_annotated(paint_order):
    crowd = annotation(3, {"size": [3, 4], "counts": [0, 9, 3]}, crowd=True)
    label, _ = paint(3, 4, SMALL_SIMPLE, crowd, paint_order=paint_order)
    np.testing.assert_array_equal(label, rows("###0", "#220", "###0"))


@pytest.mark.parametrize("paint_order", ["area", "reference"])
def test_a_crowd_lies_below_objects_even_if_smaller_and_more_detailed(paint_order):
    crowd = annotation(2, SMALL.segmentation, crowd=True)
    label, _ = paint(3, 4, BIG, crowd, paint_order=paint_order)
    np.testing.assert_array_equal(label, rows("1111", "1111", "1111"))


def test_an_ignored_category_paints_255_in_its_turn_and_background_paints_0():
    ignored = annotation(IGNORE_LABEL, [box(1, 0, 2, 2)])
    label, _ = paint(3, 4, BIG, ignored, annotation(0, [box(0, 2, 2, 1)]))
    np.testing.assert_array_equal(label, rows("1##1", "1##1", "0011"))


BAD_SEGMENTATIONS = {
    "no segmentation": (None, "missing"),
    "no polygon": ([], "[]"),
    "empty RLE": ({}, "{}"),
    "text": ("1 2 3", "'1 2 3'"),
    "flat list": ([1, 1, 3, 1, 3, 3], "the polygon 1"),
    "two points": ([[1, 1, 3, 3]], "4 numbers"),
    "two points, and a good polygon": ([box(0, 0, 2, 2), [1, 1, 3, 3]], "4 numbers"),
    "odd number": ([[1, 1, 3, 1, 3, 3, 1]], "7 numbers"),
    "empty polygon": ([[]], "0 numbers"),
    "NaN": ([[1, 1, 3, 1, 3, float("nan")]], "nan"),
    "infinity": ([[1, 1, 3, 1, 3, float("-inf")]], "-inf"),
    "far away": ([[1, 1, 3, 1, 3, 100_001]], "100001"),
    "huge integer": ([[1, 1, 3, 1, 3, 10**400]], "characters)"),
    "number as text": ([[1, 1, 3, 1, 3, "3"]], "'3'"),
    "null": ([[1, 1, 3, 1, 3, None]], "missing"),
    "true": ([[1, 1, 3, 1, 3, True]], "True"),
    "point pairs": ([[[1, 1], [3, 1], [3, 3]]], "[1, 1]"),
    "RLE without size": ({"counts": [0, 12]}, "missing"),
    "RLE without counts": ({"size": [3, 4]}, "missing"),
    "RLE of another size": ({"size": [4, 3], "counts": [0, 12]}, "[4, 3]"),
    "RLE too short": ({"size": [3, 4], "counts": [0, 11]}, "sum to 11"),
    "RLE too long": ({"size": [3, 4], "counts": [0, 13]}, "sum to 13"),
    "RLE of nothing": ({"size": [3, 4], "counts": []}, "sum to 0"),
    "RLE with a negative run": ({"size": [3, 4], "counts": [5, -2, 9]}, "-2"),
    "RLE with a fraction": ({"size": [3, 4], "counts": [0.5, 11.5]}, "0.5"),
    "RLE of a number": ({"size": [3, 4], "counts": 12}, "12"),
    "compressed RLE too short": ({"size": [3, 4], "counts": "0;"}, "sum to 11"),
    "compressed RLE too long": ({"size": [3, 4], "counts": "0=0"}, "sum to 13"),
    "compressed RLE, negative run": ({"size": [3, 4], "counts": "5N9"}, "-2"),
    "compressed RLE that breaks off": ({"size": [3, 4], "counts": "0P"}, "'0P'"),
    "compressed RLE without end": ({"size": [3, 4], "counts": "o" * 99}, "no compressed RLE"),
    "compressed RLE of other characters": ({"size": [3, 4], "counts": "0 é"}, "'0 é'"),
}


IN_AN_ANNOTATION = [k for k, (v, _) in BAD_SEGMENTATIONS.items() if isinstance(v, list | dict)]


@pytest.mark.parametrize("case", IN_AN_ANNOTATION)
def test_painting_refuses_a_bad_segmentation_before_pycocotools_sees_it(case):
    segmentation, named = BAD_SEGMENTATIONS[case]
    with pytest.raises(InputError) as error:
        paint(3, 4, annotation(1, segmentation, annotation_id=77))
    assert "a.png: annotation 77" in str(error.value)
    assert named in str(error.value)


# Images


def write_one(folder, name, image, segmentation=None):
    """Writes a folder of one image with a Paper annotation, and returns its record."""
    annotations = []
    if segmentation:
        annotations = [{"file_name": name, "category": "Paper", "segmentation": segmentation}]
    json_file = write_coco_folder(folder, images={name: image}, annotations=annotations)
    records, _ = coco.read_coco(json_file, folder, RECYCLE_TRASH, skip_bad=False)
    return records[0]


def load(one_record):
    return coco.load_example(one_record, num_classes=11, paint_order="area")


def encode(image, image_format, **options):
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def decode(data):
    image = Image.open(io.BytesIO(data))
    return image.format, np.asarray(image)


SMOOTH = np.stack(np.broadcast_arrays(*np.ogrid[0:160:16, 0:240:16], 128), -1).astype(np.uint8)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 50, "subsampling": 2}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_plain_jpeg_keeps_its_bytes(tmp_path, mode, options):
    data = encode(Image.fromarray(SMOOTH).convert(mode), "JPEG", **options)
    assert load(write_one(tmp_path, "a.jpg", data)).image == data


ROTATIONS = {  # how the camera's sensor saw the upright image: Exif 2.3, table 6
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[:, ::-1],
}


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", ROTATIONS)
def test_exif_rotation_is_applied_so_that_image_and_polygons_agree(
    tmp_path, orientation, image_format
):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[0:8, 0:8] = 255  # the upper left corner is white, and annotated as Paper
    stored = Image.fromarray(np.ascontiguousarray(ROTATIONS[orientation](upright)))
    exif = Image.Exif()
    exif[coco.EXIF_ORIENTATION] = orientation
    data = encode(stored, image_format, exif=exif)
    example = load(write_one(tmp_path, f"a.{image_format}", data, [box(0, 0, 8, 8)]))
    actual_format, pixels = decode(example.image)
    assert actual_format == image_format
    assert Image.open(io.BytesIO(example.image)).getexif().get(coco.EXIF_ORIENTATION, 1) == 1
    assert example.label.shape == pixels.shape[:2] == (16, 24)
    np.testing.assert_array_equal(example.label == 2, pixels[..., 1] > 128)


def test_a_size_that_forgets_the_exif_rotation_is_refused(tmp_path):
    exif = Image.Exif()
    exif[coco.EXIF_ORIENTATION] = 6
    good = write_one(tmp_path, "a.jpg", encode(Image.fromarray(SMOOTH), "JPEG", exif=exif))
    bad = coco.Record(0, "a.jpg", good.path, good.width, good.height, ())
    with pytest.raises(InputError, match=r"a\.jpg: is 10 wide and 15 high .* says 15 and 10"):
        load(bad)


GREY = SMOOTH[..., 1]
ALPHA = np.dstack([SMOOTH, np.arange(150, dtype=np.uint8).reshape(10, 15)])
PALETTE = Image.fromarray(np.repeat(np.arange(10, dtype=np.uint8), 15).reshape(10, 15), "P")
PALETTE.putpalette([17 * value % 256 for value in range(30)])
PALETTE_RGB = (17 * np.arange(30) % 256).reshape(10, 3)[np.repeat(np.arange(10), 15)]
STEPS16 = (np.arange(150, dtype=np.uint32) * 65535 // 149).astype(np.uint16).reshape(10, 15)
CASES = {
    "RGB": ("PNG", Image.fromarray(SMOOTH), {}, SMOOTH),
    "RGBA, alpha dropped": ("PNG", Image.fromarray(ALPHA), {}, SMOOTH),
    "grey": ("PNG", Image.fromarray(GREY), {}, GREY[..., None]),
    "grey with alpha": ("PNG", Image.fromarray(ALPHA[..., 1::2]), {}, GREY[..., None]),
    "grey with a transparent value": (
        "PNG",
        Image.fromarray(GREY),
        {"transparency": 16},
        GREY[..., None],
    ),
    "palette": ("PNG", PALETTE, {}, PALETTE_RGB.reshape(10, 15, 3)),
    "palette with alpha": (
        "PNG",
        PALETTE,
        {"transparency": bytes(range(10))},
        PALETTE_RGB.reshape(10, 15, 3),
    ),
    "GIF": ("GIF", PALETTE, {}, PALETTE_RGB.reshape(10, 15, 3)),
    "16-bit grey PNG": ("PNG", Image.fromarray(STEPS16), {}, (STEPS16 // 257)[..., None]),
    "16-bit grey TIFF": ("TIFF", Image.fromarray(STEPS16), {}, (STEPS16 // 257)[..., None]),
    "black and white": ("PNG", Image.fromarray(GREY > 99), {}, 255 * (GREY > 99)[..., None]),
    "BMP": ("BMP", Image.fromarray(SMOOTH), {}, SMOOTH),
    "WebP": ("WEBP", Image.fromarray(SMOOTH), {"lossless": True}, SMOOTH),
    "CMYK TIFF": (
        "TIFF",
        Image.fromarray(np.dstack([255 - SMOOTH, np.zeros_like(GREY)]), "CMYK"),
        {},
        SMOOTH,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_lossless_image_becomes_an_rgb_png_of_its_colours(tmp_path, case):
    image_format, image, options, expected = CASES[case]
    data = encode(image, image_format, **options)
    actual_format, pixels = decode(load(write_one(tmp_path, "a.img", data)).image)
    assert (actual_format, pixels.shape, pixels.dtype) == ("PNG", (10, 15, 3), np.uint8)
    np.testing.assert_array_equal(pixels, np.broadcast_to(expected, pixels.shape))


def test_a_png_is_stored_without_transparency(tmp_path):
    data = encode(Image.fromarray(GREY), "PNG", transparency=16)
    stored = load(write_one(tmp_path, "a.png", data)).image
    assert "transparency" not in Image.open(io.BytesIO(stored)).info


def test_a_cmyk_jpeg_becomes_an_rgb_jpeg_without_chroma_subsampling(tmp_path):
    cmyk = Image.fromarray(np.dstack([255 - SMOOTH, np.zeros_like(GREY)]), "CMYK")
    data = encode(cmyk, "JPEG", quality=98)
    stored = load(write_one(tmp_path, "a.jpg", data)).image
    image = Image.open(io.BytesIO(stored))
    assert (image.format, image.mode) == ("JPEG", "RGB")
    assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3
    np.testing.assert_allclose(np.asarray(image), SMOOTH, atol=12, rtol=0)  # two JPEG roundings


def test_a_jpeg_without_its_end_marker_is_refused_even_if_pillow_reads_it(tmp_path):
    one = write_one(tmp_path, "a.jpg", GOOD_JPEG)
    one.path.write_bytes(GOOD_JPEG[:-2] + bytes(64))
    Image.open(one.path).load()  # raises nothing
    with pytest.raises(InputError, match=r"a\.jpg: .*end marker"):
        load(one)


def test_a_jpeg_with_bytes_behind_its_end_keeps_them(tmp_path):
    data = encode(Image.fromarray(SMOOTH), "JPEG") + b"\xff\xda the film of a motion photo"
    assert load(write_one(tmp_path, "a.jpg", data)).image == data


def test_a_jpeg_with_broken_exif_is_upright(tmp_path):
    data = encode(Image.fromarray(SMOOTH), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    assert load(write_one(tmp_path, "a.jpg", data)).image == data


GOOD_JPEG = encode(Image.fromarray(SMOOTH), "JPEG")
GOOD_PNG = encode(Image.fromarray(SMOOTH), "PNG")


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (GOOD_JPEG[: len(GOOD_JPEG) // 2], "Truncated File Read"),
        (GOOD_JPEG[:-9], "truncated"),
        (GOOD_JPEG[:30], "Truncated File Read"),
        (GOOD_PNG[:-30], "image file is truncated"),
        (GOOD_PNG[:45] + b"\0\0\0" + GOOD_PNG[48:], "broken data stream"),
        (b"", "cannot identify"),
        (b"<html>\n404\n</html>", "cannot identify"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 15 10\n", "cannot identify"),
        (encode(Image.fromarray(np.ones((10, 15), np.float32)), "TIFF"), "type F"),
    ],
)
def test_an_image_that_cannot_be_decoded_is_refused_in_one_line(tmp_path, data, named):
    one = write_one(tmp_path, "a.jpg", GOOD_JPEG)
    one.path.write_bytes(data)
    with pytest.raises(InputError) as error:
        load(one)
    assert str(one.path) in str(error.value)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_an_image_removed_after_reading_is_refused(tmp_path):
    one = write_one(tmp_path, "a.jpg", GOOD_JPEG)
    one.path.unlink()
    with pytest.raises(InputError, match=r"a\.jpg: is absent"):
        load(one)


def test_an_image_of_another_size_is_refused(tmp_path):
    one = write_one(tmp_path, "a.jpg", GOOD_JPEG)
    one.path.write_bytes(encode(Image.fromarray(SMOOTH[:, :-1]), "JPEG"))
    with pytest.raises(InputError, match=r"a\.jpg: is 14 wide and 10 high .* says 15 and 10"):
        load(one)


@pytest.mark.parametrize("size", [(14_900, 12_000), (2**16, 2**16)])  # below, above Pillow's limit
def test_an_image_of_too_many_pixels_is_refused_before_decoding(tmp_path, size):
    one = write_one(tmp_path, "a.png", GOOD_PNG)
    header = b"IHDR" + size[0].to_bytes(4, "big") + size[1].to_bytes(4, "big") + GOOD_PNG[24:29]
    bomb = GOOD_PNG[:12] + header + zlib.crc32(header).to_bytes(4, "big") + GOOD_PNG[33:]
    one.path.write_bytes(bomb)
    with pytest.raises(InputError, match=r"a\.png: .*pixels"):
        load(one)


def test_counts_are_those_of_the_label_map_and_the_annotations(tmp_path):
    annotations = [
        {"file_name": "a.png", "category": "Paper", "segmentation": [box(0, 0, 4, 2)]},
        {"file_name": "a.png", "category": "Paper", "segmentation": [box(3, 0, 2, 2)]},
        {"file_name": "a.png", "category": "Metal", "segmentation": [box(-2, 3, 4, 1)]},
        {"file_name": "a.png", "category": "UNKNOWN", "segmentation": [box(9, 0, 1, 2)]},
        {
            "file_name": "a.png",
            "category": "Glass",
            "segmentation": [box(0, 9, 15, 1)],
            "iscrowd": 1,
        },
    ]
    categories = ["UNKNOWN", "Glass", "Metal", "Paper"]  # ids mean nothing
    json_file = write_coco_folder(
        tmp_path, images={"a.png": SMOOTH}, annotations=annotations, categories=categories
    )
    (one,), _ = coco.read_coco(json_file, tmp_path, RECYCLE_TRASH, skip_bad=False)
    example = load(one)
    expected_pixels = np.zeros(11)
    expected_pixels[[0, 2, 4]] = [150 - 10 - 2 - 2 - 15, 10, 2]  # 2 and 15 pixels are ignored
    np.testing.assert_array_equal(example.pixel_counts, expected_pixels)
    np.testing.assert_array_equal(example.annotation_counts, [0, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0])
    assert (example.label == IGNORE_LABEL).sum() == 17
    assert example.clipped == 1
    assert example.record is one


@pytest.mark.parametrize("label", [-1, 11, 254])
def test_a_label_out_of_range_is_refused(tmp_path, label):
    one = write_one(tmp_path, "a.png", SMOOTH)
    wrong = annotation(label, [box(0, 0, 2, 2)], annotation_id=77)
    bad = coco.Record(0, "a.png", one.path, one.height, one.width, (wrong,))
    with pytest.raises(InputError, match=rf"a\.png: annotation 77 has the label {label}"):
        load(bad)


def test_features_are_the_example_with_its_label_as_png(tmp_path):
    one = write_one(tmp_path, "a.jpg", GOOD_JPEG, [box(0, 0, 8, 8)])
    example = load(one)
    features = coco.load_features(one, num_classes=11, paint_order="area", skip_bad=False)
    assert features["image"] == GOOD_JPEG
    assert (features["id"], features["file_name"], features["clipped"]) == (0, "a.jpg", 0)
    np.testing.assert_array_equal(decode(features["label"])[1], example.label)
    np.testing.assert_array_equal(features["pixel_counts"], example.pixel_counts)


def test_a_bad_image_gives_a_line_under_skip_bad_and_raises_without(tmp_path):
    one = write_one(tmp_path, "a.jpg", GOOD_JPEG)
    one.path.write_bytes(b"")
    problem = coco.load_features(one, num_classes=11, paint_order="area", skip_bad=True)
    assert str(one.path) in problem
    with pytest.raises(InputError, match="skip_bad=True"):
        coco.load_features(one, num_classes=11, paint_order="area", skip_bad=False)


# The json


def good_folder(folder):
    """Writes three images with an annotation each, and returns the json's path and content."""
    names = ["b/2.png", "a/1.png", "a/3.png"]
    annotations = [
        {"file_name": name, "category": "Paper", "segmentation": [box(0, 0, 2, 2)]}
        for name in names
    ]
    images = dict.fromkeys(names, np.zeros((3, 4, 3), np.uint8))
    json_file = write_coco_folder(folder, images=images, annotations=annotations)
    return json_file, json.loads(json_file.read_text())


def read(json_file, **options):
    options = {"skip_bad": False} | options
    return coco.read_coco(json_file, json_file.parent, RECYCLE_TRASH, **options)


def test_records_keep_the_order_of_the_json(tmp_path):
    json_file, _ = good_folder(tmp_path)
    records, problems = read(json_file)
    assert [one.file_name for one in records] == ["b/2.png", "a/1.png", "a/3.png"]
    assert [one.annotations[0].id for one in records] == [1, 2, 3]
    assert records[0].path == tmp_path / "b" / "2.png"
    assert (records[0].height, records[0].width) == (3, 4)
    assert problems == []


def test_categories_count_by_name_whatever_their_ids(tmp_path):
    json_file, content = good_folder(tmp_path)
    content["categories"] = [{"id": 0, "name": "Battery"}, {"id": 7, "name": "UNKNOWN"}]
    for item, category_id in zip(content["annotations"], [0, 7, 0], strict=True):
        item["category_id"] = category_id
    json_file.write_text(json.dumps(content))
    records, _ = read(json_file)
    assert [one.annotations[0].label for one in records] == [9, IGNORE_LABEL, 9]


def test_a_class_map_may_have_other_classes(tmp_path):
    json_file = write_coco_folder(
        tmp_path,
        images={"a.png": SMOOTH},
        annotations=[{"file_name": "a.png", "category": "tin", "segmentation": [box(0, 0, 2, 2)]}],
        categories=["tin"],
    )
    class_map = ClassMap(("Ground", "Can"), {"tin": 1})
    (one,), _ = coco.read_coco(json_file, tmp_path, class_map, skip_bad=False)
    example = coco.load_example(one, num_classes=2, paint_order="area")
    np.testing.assert_array_equal(example.pixel_counts, [146, 4])


def test_an_image_without_annotations_is_a_record(tmp_path):
    json_file, content = good_folder(tmp_path)
    json_file.write_text(json.dumps(content | {"annotations": []}))
    assert [one.annotations for one in read(json_file)[0]] == [(), (), ()]


def test_a_byte_order_mark_and_korean_file_names_are_accepted(tmp_path):
    name = "배치 1/쓰레기.png"
    json_file = write_coco_folder(tmp_path, images={name: SMOOTH})
    text = json.dumps(json.loads(json_file.read_text()), ensure_ascii=False)
    json_file.write_text(text, encoding="utf-8-sig")
    assert [one.file_name for one in read(json_file)[0]] == [name]


def test_an_annotation_without_iscrowd_is_no_crowd(tmp_path):
    json_file, content = good_folder(tmp_path)
    del content["annotations"][0]["iscrowd"]
    content["annotations"][1]["iscrowd"] = 1
    json_file.write_text(json.dumps(content))
    assert [one.annotations[0].crowd for one in read(json_file)[0]] == [False, True, False]


def test_annotation_ids_may_recur_in_another_image_as_in_taco(tmp_path):
    json_file, content = good_folder(tmp_path)
    content["annotations"][1]["id"] = 1
    json_file.write_text(json.dumps(content))
    assert [one.annotations[0].id for one in read(json_file)[0]] == [1, 1, 3]


def test_absent_images_are_no_matter_without_check_images(tmp_path):
    json_file, _ = good_folder(tmp_path)
    (tmp_path / "a" / "1.png").unlink()
    assert len(read(json_file, check_images=False)[0]) == 3


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "is not json"),
        (b'{"images": [', "is not json"),
        (b"\xff\xfe{}", "is not json"),
        (b"[" * 100_000, "is not json"),
        (b"[1, 2]", "[1, 2]"),
        (b"null", "missing"),
        (b"{}", '"images" is missing'),
    ],
)
def test_a_file_that_is_no_coco_is_refused(tmp_path, data, named):
    json_file = tmp_path / "train.json"
    json_file.write_bytes(data)
    with pytest.raises(InputError) as error:
        read(json_file, skip_bad=True)
    assert str(json_file) in str(error.value)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_a_json_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: can't be read \(No such file"):
        read(tmp_path / "none.json")


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    json_file, _ = good_folder(tmp_path)
    with pytest.raises(InputError, match="elsewhere: is no folder"):
        coco.read_coco(json_file, tmp_path / "elsewhere", RECYCLE_TRASH, skip_bad=True)


def replace(part, index, field, value):
    def change(content):
        content[part][index][field] = value

    return change


def remove(part, index, field):
    def change(content):
        del content[part][index][field]

    return change


def set_part(part, value):
    def change(content):
        content[part] = value

    return change


STRUCTURAL_FAULTS = [
    (set_part("images", None), '"images" is missing'),
    (set_part("annotations", {}), '"annotations" is {}'),
    (set_part("categories", "Paper"), "\"categories\" is 'Paper'"),
    (set_part("images", []), '"images" is []'),
    (set_part("images", [7]), "images[0] is 7"),
    (remove("images", 1, "id"), "images[1].id is missing"),
    (remove("images", 1, "file_name"), "images[1].file_name is missing"),
    (remove("annotations", 2, "category_id"), "annotations[2].category_id is missing"),
    (replace("images", 2, "height", "512"), "images[2].height is '512'"),
    (replace("images", 2, "width", 512.5), "images[2].width is 512.5"),
    (replace("images", 2, "id", True), "images[2].id is True"),
    (replace("images", 2, "id", 2**63), "images[2].id is 9223372036854775808"),
    (replace("images", 0, "file_name", 3), "images[0].file_name is 3"),
    (replace("annotations", 0, "image_id", [0]), "annotations[0].image_id is [0]"),
    (replace("annotations", 0, "iscrowd", 2), "annotations[0].iscrowd is 2"),
    (replace("categories", 3, "name", 4), "categories[3].name is 4"),
    (replace("categories", 3, "name", "Papier"), "category 'Papier' is not in the class map"),
    (replace("categories", 3, "id", 1), "categories has the id 1 2 times"),
    (replace("images", 2, "id", 0), "images has the id 0 2 times"),
]


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize(("change", "named"), STRUCTURAL_FAULTS)
def test_a_fault_of_the_structure_is_refused_even_under_skip_bad(tmp_path, change, named, skip_bad):
    json_file, content = good_folder(tmp_path)
    change(content)
    json_file.write_text(json.dumps(content))
    with pytest.raises(InputError) as error:
        read(json_file, skip_bad=skip_bad)
    assert str(json_file) in str(error.value)
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def repeat_annotation(content):
    content["annotations"].append(dict(content["annotations"][1]))


IMAGE_FAULTS = {
    "absent": (replace("images", 1, "file_name", "a/9.png"), "a/9.png"),
    "a folder": (replace("images", 1, "file_name", "a"), "absent"),
    "absolute": (replace("images", 1, "file_name", "/etc/passwd"), "'/etc/passwd'"),
    "absolute on Windows": (replace("images", 1, "file_name", "C:\\a.png"), "absolute"),
    "climbs": (replace("images", 1, "file_name", "../1.png"), "'../1.png'"),
    "climbs late": (replace("images", 1, "file_name", "a/../../1.png"), "climbs"),
    "empty": (replace("images", 1, "file_name", ""), "empty"),
    "NUL": (replace("images", 1, "file_name", "a/1\0.png"), "'a/1\\x00.png'"),
    "line break": (replace("images", 1, "file_name", "a/1\n.png"), "'a/1\\n.png'"),
    "half a character": (replace("images", 1, "file_name", "a/\ud800.png"), "control"),
    "name too long": (replace("images", 1, "file_name", "a" * 9999), "characters)"),
    "height zero": (replace("images", 1, "height", 0), "height 0"),
    "width negative": (replace("images", 1, "width", -4), "width -4"),
    "too many pixels": (replace("images", 1, "width", 10**9), "1000000000"),
    "repeated annotation": (repeat_annotation, "annotation 2 of image 1"),
    "unknown category": (replace("annotations", 1, "category_id", 99), "category 99"),
    "segmentation left out": (remove("annotations", 1, "segmentation"), "missing"),
} | {
    case: (replace("annotations", 1, "segmentation", value), named)
    for case, (value, named) in BAD_SEGMENTATIONS.items()
}


@pytest.mark.parametrize("case", IMAGE_FAULTS)
def test_a_fault_of_an_image_is_refused_in_one_line(tmp_path, case):
    json_file, content = good_folder(tmp_path)
    change, named = IMAGE_FAULTS[case]
    change(content)
    json_file.write_text(json.dumps(content))
    with pytest.raises(InputError) as error:
        read(json_file)
    assert str(json_file) in str(error.value)
    assert "image 1" in str(error.value)
    assert named in str(error.value)
    assert "skip_bad=True" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", IMAGE_FAULTS)
def test_skip_bad_leaves_the_bad_image_out_and_says_so_once(tmp_path, case):
    json_file, content = good_folder(tmp_path)
    change, named = IMAGE_FAULTS[case]
    change(content)
    json_file.write_text(json.dumps(content))
    records, (problem,) = read(json_file, skip_bad=True)
    assert [one.id for one in records] == [0, 2]
    assert str(json_file) in problem
    assert named in problem


def test_an_image_with_several_faults_is_reported_once(tmp_path):
    json_file, content = good_folder(tmp_path)
    replace("images", 1, "height", 0)(content)
    replace("annotations", 1, "segmentation", [])(content)
    json_file.write_text(json.dumps(content))
    records, problems = read(json_file, skip_bad=True)
    assert ([one.id for one in records], len(problems)) == ([0, 2], 1)


def test_images_that_share_a_file_are_all_bad_for_either_may_lack_labels(tmp_path):
    json_file, content = good_folder(tmp_path)
    replace("images", 2, "file_name", "./a/1.png")(content)
    json_file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"image 1 \('a/1.png'\) .* 2 images"):
        read(json_file)
    records, problems = read(json_file, skip_bad=True)
    assert ([one.id for one in records], len(problems)) == ([0], 2)


def test_an_annotation_of_an_unlisted_image_is_refused_or_dropped(tmp_path):
    json_file, content = good_folder(tmp_path)
    content["annotations"][1]["image_id"] = 55
    json_file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="annotation 2 is of image 55, which is not listed"):
        read(json_file)
    records, (problem,) = read(json_file, skip_bad=True)
    assert [len(one.annotations) for one in records] == [1, 0, 1]
    assert "image 55" in problem


@pytest.mark.parametrize("link", ["file", "folder"])
def test_a_link_out_of_the_folder_is_refused_and_one_within_is_not(tmp_path, link):
    folder = tmp_path / "data"
    folder.mkdir()
    json_file, content = good_folder(folder)
    os.rename(folder / "a", tmp_path / "outside")
    (folder / "inside.png").symlink_to(folder / "b" / "2.png")
    if link == "folder":
        (folder / "a").symlink_to(tmp_path / "outside")
    else:
        (folder / "a").mkdir()
        for name in ("1.png", "3.png"):
            (folder / "a" / name).symlink_to(tmp_path / "outside" / name)
    replace("images", 0, "file_name", "inside.png")(content)
    json_file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="link that leads out of the data folder"):
        read(json_file)
    assert [one.file_name for one in read(json_file, skip_bad=True)[0]] == ["inside.png"]


def test_a_data_folder_that_is_itself_a_link_is_accepted(tmp_path):
    (tmp_path / "data").mkdir()
    good_folder(tmp_path / "data")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert len(read(tmp_path / "link" / "train.json")[0]) == 3


def test_skip_bad_with_no_good_image_left_is_refused(tmp_path):
    json_file, _ = good_folder(tmp_path)
    for path in tmp_path.glob("*/*.png"):
        path.unlink()
    with pytest.raises(InputError, match=r"no image is left to use; .*b/2\.png"):
        read(json_file, skip_bad=True)


def test_worker_processes_import_neither_jax_nor_tensorflow():
    code = (
        "import sys, trashseg_jax.data.coco; "
        "print({name.split('.')[0] for name in sys.modules} & {'jax', 'flax', 'tensorflow'})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


# Real data, where it is present


def read_real(json_file, class_map, **options):
    path = REAL_DATA / json_file
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    options = {"skip_bad": False} | options
    records, problems = coco.read_coco(path, path.parent, load_class_map(class_map), **options)
    return len(records), sum(len(one.annotations) for one in records), problems


def test_tacos_official_annotations_are_read():
    expected = (1500, 4784, [])
    assert read_real("taco_annotations_full.json", "taco", check_images=False) == expected


@pytest.mark.parametrize(
    ("json_file", "class_map", "images", "annotations"),
    [
        ("taco_mini/annotations.json", "taco", 369, 1082),
        ("aistage_mini/train.json", "recycle_trash", 400, 942),
        ("aistage_mini/val.json", "recycle_trash", 20, 168),
    ],
)
def test_real_folders_are_read_without_a_fault(json_file, class_map, images, annotations):
    assert read_real(json_file, class_map) == (images, annotations, [])
