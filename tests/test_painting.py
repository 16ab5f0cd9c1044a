import itertools

import numpy as np
import pytest
from fixtures_coco import box, compressed, holds, uncompressed

from trashseg_jax.data import painting
from trashseg_jax.data.taxonomy import IGNORE_LABEL
from trashseg_jax.errors import InputError


def annotation(label, segmentation, *, annotation_id=1, ignored=False):
    return painting.Annotation(annotation_id, label, segmentation, ignored)


def paint(height, width, *annotations, paint_order="area"):
    size = {"height": height, "width": width}
    return painting.paint(annotations, **size, paint_order=paint_order).classes


def rows(*lines):
    """Returns the label map drawn with one digit per pixel; "#" is IGNORE_LABEL."""
    digits = {str(digit): digit for digit in range(10)} | {"#": IGNORE_LABEL}
    return np.array([[digits[character] for character in line] for line in lines], np.uint8)


def test_a_box_covers_the_pixels_whose_centres_it_holds():
    label = paint(4, 6, annotation(3, [box(1, 1, 3, 2)]))
    expected = rows(
        "000000",
        "033300",
        "033300",
        "000000",
    )
    np.testing.assert_array_equal(label, expected)
    assert label.dtype == np.uint8


def test_a_triangle_covers_the_pixels_whose_centres_it_holds():
    # Hypotenuse x + y = 4.6: of the centres (x + .5, y + .5) those with x + y < 3.6 lie inside.
    label = paint(5, 5, annotation(1, [[0, 0, 4.6, 0, 0, 4.6]]))
    expected = rows(
        "11110",
        "11100",
        "11000",
        "10000",
        "00000",
    )
    np.testing.assert_array_equal(label, expected)


def test_a_concave_polygon_leaves_its_notch_free():
    label = paint(4, 5, annotation(2, [[0, 0, 5, 0, 5, 4, 4, 4, 4, 2, 1, 2, 1, 4, 0, 4]]))
    expected = rows(
        "22222",
        "22222",
        "20002",
        "20002",
    )
    np.testing.assert_array_equal(label, expected)


def test_an_image_without_annotations_is_background():
    label = paint(2, 3)
    np.testing.assert_array_equal(label, np.zeros((2, 3)))


def test_polygons_of_one_annotation_are_united_where_they_overlap_too():
    label = paint(3, 6, annotation(5, [box(0, 0, 3, 2), box(1, 1, 3, 2), box(5, 0, 1, 1)]))
    expected = rows(
        "555005",
        "555500",
        "055500",
    )
    np.testing.assert_array_equal(label, expected)


def test_a_polygon_that_reaches_outside_on_all_four_sides_is_clipped():
    cross = [box(-3, 1, 11, 1), box(2, -3, 1, 9)]
    label = paint(4, 5, annotation(1, cross))
    expected = rows(
        "00100",
        "11111",
        "00100",
        "00100",
    )
    np.testing.assert_array_equal(label, expected)


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        ([box(0, 0, 5, 4)], False),  # on the border is inside
        ([box(1, 1, 1, 1), box(4, 3, 1.5, 1)], True),
        ([box(-9, -9, 2, 2)], True),
        ({"size": [4, 5], "counts": [0, 20]}, False),
    ],
)
def test_an_annotation_reaches_outside_if_a_vertex_does(segmentation, expected):
    one = annotation(1, segmentation)
    assert painting.reaches_outside(one, height=4, width=5) == expected


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
    label = paint(size, size, annotation(1, [triangle]))
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
    label = paint(11, 13, annotation(1, [box(x, y, width, height)]))
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
    label = paint(3, 4, *annotations, paint_order=paint_order)
    np.testing.assert_array_equal(label, rows("1111", "1221", "1111"))


@pytest.mark.parametrize(
    "annotations", [(BIG_DETAILED, SMALL_SIMPLE), (SMALL_SIMPLE, BIG_DETAILED)]
)
def test_order_area_paints_the_larger_mask_first(annotations):
    label = paint(3, 4, *annotations, paint_order="area")
    np.testing.assert_array_equal(label, rows("1111", "1221", "1111"))


@pytest.mark.parametrize(
    "annotations", [(BIG_DETAILED, SMALL_SIMPLE), (SMALL_SIMPLE, BIG_DETAILED)]
)
def test_order_reference_paints_the_shorter_first_polygon_first(annotations):
    label = paint(3, 4, *annotations, paint_order="reference")
    np.testing.assert_array_equal(label, rows("1111", "1111", "1111"))


def test_order_area_counts_only_pixels_inside_the_image():
    mostly_outside = annotation(1, [box(-20, 0, 22, 3)])  # 2x3 pixels in the image
    label = paint(3, 4, mostly_outside, annotation(2, [box(0, 0, 4, 2)]))
    np.testing.assert_array_equal(label, rows("1122", "1122", "1100"))


@pytest.mark.parametrize("paint_order", ["area", "reference"])
def test_equals_are_painted_in_annotation_order(paint_order):
    first, second = annotation(1, [box(0, 0, 2, 1)]), annotation(2, [box(1, 0, 2, 1)])
    label = paint(1, 3, first, second, paint_order=paint_order)
    np.testing.assert_array_equal(label, rows("122"))
    label = paint(1, 3, second, first, paint_order=paint_order)
    np.testing.assert_array_equal(label, rows("112"))


def test_order_reference_ranks_an_rle_by_its_number_of_runs():
    rle = {"size": [1, 3], "counts": [0, 3]}  # two runs: fewer than a polygon's 8 numbers
    label = paint(
        1, 3, annotation(1, [box(0, 0, 2, 1)]), annotation(2, rle), paint_order="reference"
    )
    np.testing.assert_array_equal(label, rows("112"))


@pytest.mark.parametrize("encode", [uncompressed, compressed])
def test_an_rle_paints_what_its_polygon_paints(encode):
    polygons = [[2, 1, 30, 4, 25.5, 18, 9, 15], box(33, 0, 7, 20)]
    expected = paint(20, 40, annotation(1, polygons))
    label = paint(20, 40, annotation(1, encode(expected)))
    np.testing.assert_array_equal(label, expected)


@pytest.mark.parametrize("encode", [uncompressed, compressed])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (37, 53)])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_an_rle_of_any_mask_paints_that_mask(encode, shape, density):
    mask = (np.random.default_rng(0).random(shape) < density).astype(np.uint8)
    label = paint(*shape, annotation(1, encode(mask)))
    np.testing.assert_array_equal(label, mask)


def test_a_compressed_rle_with_runs_of_many_digits_paints_its_mask():
    mask = np.zeros((700, 900), np.uint8)  # runs of up to 630,000 pixels: four characters
    mask[:, 400:800] = 1
    mask[3, 2] = 1
    label = paint(700, 900, annotation(1, compressed(mask)))
    np.testing.assert_array_equal(label, mask)


def test_runs_of_zero_length_in_an_rle_paint_nothing():
    label = paint(1, 4, annotation(1, {"size": [1, 4], "counts": [0, 0, 1, 0, 0, 2, 1, 0]}))
    np.testing.assert_array_equal(label, rows("0110"))


@pytest.mark.parametrize("paint_order", ["area", "reference"])
def test_an_ignored_area_counts_nowhere_except_where_objects_are_annotated(paint_order):
    area = annotation(3, {"size": [3, 4], "counts": [0, 9, 3]}, ignored=True)
    label = paint(3, 4, SMALL_SIMPLE, area, paint_order=paint_order)
    np.testing.assert_array_equal(label, rows("###0", "#220", "###0"))


@pytest.mark.parametrize("paint_order", ["area", "reference"])
def test_an_ignored_area_lies_below_objects_even_if_smaller_and_more_detailed(paint_order):
    area = annotation(2, SMALL.segmentation, ignored=True)
    label = paint(3, 4, BIG, area, paint_order=paint_order)
    np.testing.assert_array_equal(label, rows("1111", "1111", "1111"))


def test_an_ignored_category_paints_255_in_its_turn_and_background_paints_0():
    ignored = annotation(IGNORE_LABEL, [box(1, 0, 2, 2)])
    label = paint(3, 4, BIG, ignored, annotation(0, [box(0, 2, 2, 1)]))
    np.testing.assert_array_equal(label, rows("1##1", "1##1", "0011"))


@pytest.mark.parametrize(
    ("segmentation", "named"),
    [
        ([[1, 1, 3, 3]], "4 numbers"),
        ([[1e5, -1e5, -1e5, 1e5] * 20], "outline is 8000000 pixels long"),
        ({"size": [3, 4], "counts": [0, 13]}, "a run of 13"),
        ({"size": [3, 4], "counts": b"0<"}, "counts are b'0<'"),  # a json has no bytes
    ],
)
def test_a_bad_segmentation_is_refused_before_pycocotools_sees_it(segmentation, named):
    """All that a json may hold is in test_malformed.py."""
    with pytest.raises(InputError) as error:
        paint(3, 4, annotation(1, segmentation, annotation_id=77))
    assert "annotation 77" in str(error.value)
    assert named in str(error.value)
