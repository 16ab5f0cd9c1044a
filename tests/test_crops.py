import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from trashseg_jax.data.crops import decoding_window, object_box, random_box
from trashseg_jax.data.label_codec import decode_runs, encode_label

AREA, RATIO = (0.3, 0.5), (0.5, 2.0)


def draw(shape=(2000, 3000), *, count=1000, seed=0, area=AREA, ratio=RATIO):
    boxes = [random_box(shape, seed=seed, position=p, area=area, ratio=ratio) for p in range(count)]
    return np.array(boxes).T


def test_boxes_lie_within_the_image_and_reach_all_of_it():
    top, left, height, width = draw(count=3000)
    assert top.min() >= 0
    assert left.min() >= 0
    below, beside = 2000 - top - height, 3000 - left - width
    assert below.min() >= 0
    assert beside.min() >= 0
    # A box has 1,000 pixels or so of room: 3,000 draws come within a few of either end.
    assert max(top.min(), left.min(), below.min(), beside.min()) < 10


def test_every_place_where_a_box_fits_is_as_likely():
    """Of 3x3 in 4x5 pixels: two rows times three columns. Chi-square, 5 degrees of freedom."""
    share = 9 / 20
    top, left, height, width = draw((4, 5), count=1200, area=(share, share), ratio=(1.0, 1.0))
    assert set(height) == set(width) == {3}
    counts = np.bincount(3 * top + left, minlength=6)
    assert len(counts) == 6
    assert ((counts - 200) ** 2 / 200).sum() < 20.52  # its 99.9 % quantile


def test_boxes_may_be_as_high_or_as_wide_as_the_image():
    """Of 4x4 in 4x6 pixels and in 6x4: drawn, not the one in the middle where none fits."""
    share = 16 / 24
    for shape, axis in (((4, 6), 1), ((6, 4), 0)):
        corner = draw(shape, count=40, area=(share, share), ratio=(1.0, 1.0))[axis]
        assert set(corner) == {0, 1, 2}


def test_ten_boxes_are_tried():
    """Of 2^-0.1 of a square one in ten fits in: those of a logarithm within a tenth of its range.

    So 0.9^10 of the images fall back to the whole, within 4 standard deviations of 1,000.
    """
    share = 2**-0.1
    _, _, height, width = draw((1000, 1000), area=(share, share))
    fallen = np.mean((height == 1000) & (width == 1000))
    assert abs(fallen - 0.9**10) < 4 * np.sqrt(0.35 * 0.65 / 1000)


@pytest.mark.parametrize(
    ("shape", "area"), [((3000, 3000), (0.1, 0.4)), ((2000, 3000), (0.1, 0.3))]
)
def test_area_is_uniform_and_so_is_the_logarithm_of_the_ratio(shape, area):
    """All such boxes fit in, so none is drawn again. By Kolmogorov and Smirnov's statistic."""
    _, _, height, width = draw(shape, count=2000, area=area)
    share = (height * width / np.prod(shape) - area[0]) / (area[1] - area[0])
    aspect = (np.log(width / height) / np.log(2) + 1) / 2
    for uniform in (share, aspect):
        expected = np.arange(2000) / 2000
        distance = np.abs(np.sort(uniform) - expected).max()
        assert distance < 1.95 / np.sqrt(2000)  # passed by 999 in 1,000 uniform samples
    assert abs(np.corrcoef(share, aspect)[0, 1]) < 4 / np.sqrt(2000)


def torchvision_fallback(height, width, ratio):
    """The end of RandomResizedCrop.get_params, from torchvision's source."""
    in_ratio = width / height
    if in_ratio < min(ratio):
        w = width
        h = round(w / min(ratio))
    elif in_ratio > max(ratio):
        h = height
        w = round(h * max(ratio))
    else:
        w = width
        h = height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("shape", [(10, 1000), (1001, 10), (101, 100), (7, 8), (3, 2), (1, 1)])
def test_boxes_that_cannot_fit_are_torchvisions_middle_of_the_image(shape):
    """None of more than the image's area does."""
    boxes = draw(shape, count=5, area=(2.0, 3.0), ratio=(0.9, 1.1)).T
    assert np.all(boxes == torchvision_fallback(*shape, (0.9, 1.1)))


def test_panorama_is_cut_to_its_middle_not_squashed():
    assert np.all(draw((10, 1000), count=5, area=(0.9, 1.0)).T == [0, 490, 10, 20])
    assert np.all(draw((1000, 1), count=5, area=(0.9, 1.0), ratio=(3.0, 4.0)).T == [499, 0, 1, 1])


def test_seed_and_position_decide():
    np.testing.assert_array_equal(draw(count=30), draw(count=30))
    assert np.all(np.any(draw(count=30) != draw(count=30, seed=1), axis=0))
    assert len(np.unique(draw(count=30), axis=1).T) == 30


def test_smallest_images_have_boxes():
    top, left, height, width = draw((1, 3), count=50, area=(0.1, 1.0))
    assert set(height) == {1}
    assert set(top) == {0}
    assert np.all((width >= 1) & (left + width <= 3))


def test_window_has_two_more_columns_where_there_are_any():
    assert decoding_window((5, 10, 20, 30), 100) == (5, 8, 20, 34)
    assert decoding_window((5, 1, 20, 99), 100) == (5, 0, 20, 100)


# Boxes around objects.


def move(label, box, *, seed=0, position=0, probability=1.0):
    runs = decode_runs(encode_label(np.asarray(label, np.uint8)))
    return object_box(box, runs, seed=seed, position=position, probability=probability)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.data())
def test_moved_box_keeps_its_size_lies_within_the_image_and_holds_an_object(data):
    shape = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    label = data.draw(
        arrays.arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 0, 1, 7, 255]))
    )
    size = tuple(data.draw(st.integers(1, length)) for length in shape)
    before = (0, 0, *size)
    top, left, *moved = box = move(label, before, position=data.draw(st.integers(0, 10**9)))
    assert tuple(moved) == size
    part = label[top : top + size[0], left : left + size[1]]
    assert part.shape == size
    if np.any((label > 0) & (label < 255)):
        assert np.any((part > 0) & (part < 255))
    else:
        assert box == before


def test_each_class_is_as_likely_and_within_it_each_pixel():
    """A box of one pixel shows the pixel drawn. Chi-square, 6 degrees of freedom.

    Class 1 has a pixel, class 2 two, class 3 four, in runs that the others part.
    """
    label = [[0, 3, 3, 0, 255], [1, 2, 0, 3, 0], [0, 0, 3, 2, 255]]
    drawn = [move(label, (0, 0, 1, 1), position=p)[:2] for p in range(2400)]
    places = {(1, 0): 800}
    places |= dict.fromkeys([(1, 1), (2, 3)], 400)
    places |= dict.fromkeys([(0, 1), (0, 2), (1, 3), (2, 2)], 200)
    assert set(drawn) == places.keys()
    assert sum((drawn.count(p) - n) ** 2 / n for p, n in places.items()) < 22.46  # 99.9 % quantile


def test_every_place_of_the_box_that_holds_the_pixel_is_as_likely():
    """Of 2x3 around a pixel in the second row's corner: two rows times one column."""
    label = np.zeros((4, 5))
    label[1, 0] = 1
    drawn = [move(label, (2, 2, 2, 3), position=p) for p in range(400)]
    assert set(drawn) == {(0, 0, 2, 3), (1, 0, 2, 3)}
    assert abs(drawn.count((0, 0, 2, 3)) - 200) < 4 * 10  # standard deviation: sqrt(400 / 4)


def test_a_share_of_the_boxes_is_moved_and_the_others_stay():
    label = np.zeros((8, 8))
    label[7, 7] = 1
    moved = [move(label, (0, 0, 2, 2), position=p, probability=0.25) for p in range(400)]
    assert set(moved) == {(0, 0, 2, 2), (6, 6, 2, 2)}
    assert abs(moved.count((6, 6, 2, 2)) - 100) < 4 * np.sqrt(400 * 0.25 * 0.75)


def test_seed_and_position_decide_where_an_object_is_looked_for():
    label = np.ones((50, 50))

    def boxes(seed):
        return [move(label, (0, 0, 5, 5), seed=seed, position=p) for p in range(20)]

    assert boxes(0) == boxes(0)
    assert len(set(boxes(0)) | set(boxes(1))) > 30
