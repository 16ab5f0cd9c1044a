"""Boundary IoU against closed forms and one erosion a class."""

import math

import numpy as np
import pytest
from scipy import ndimage

from trashseg_jax import boundary, metrics

RNG = np.random.default_rng(0)
K = 4


def blobs(shape=(40, 31), ignored=0.0):
    """Pieces of K classes, and some of no class."""
    coarse = RNG.normal(size=(K + 1, *shape))
    smooth = np.stack([ndimage.gaussian_filter(one, 3) for one in coarse])
    smooth[K] -= np.quantile(smooth[K] - smooth[:K].max(0), 1 - ignored) if ignored else np.inf
    label = smooth.argmax(0).astype(np.uint8)
    label[label == K] = 255
    return label


def count(label, prediction, *, share=0.05, num_classes=K):
    return boundary.count_overlaps(label, prediction, num_classes=num_classes, share=share)


def brute_force(label, prediction, distance):
    """A class at a time: its mask without its erosion, for which ignored pixels are of it too."""
    ignored, square = label == 255, np.ones((3, 3), bool)

    def near(classes, k):
        whole = (classes == k) | ignored
        inner = ndimage.binary_erosion(whole, square, iterations=distance, border_value=0)
        return whole & ~inner & ~ignored

    both = [(near(label, k), near(prediction, k)) for k in range(K)]
    return [[(a & b).sum(), (a | b).sum()] for a, b in both]


def square(top, left, side, shape=(60, 70)):
    label = np.zeros(shape, np.uint8)
    label[top : top + side, left : left + side] = 1
    return label


@pytest.mark.parametrize("shape", [(40, 31), (9, 40), (1, 5)])
@pytest.mark.parametrize("ignored", [0.0, 0.2])
@pytest.mark.parametrize("share", [0.0001, 0.05, 0.09, 0.2])
def test_counts_equal_one_erosion_a_class(shape, ignored, share):
    for _ in range(5):
        label, prediction = blobs(shape, ignored), blobs(shape)
        distance = max(round(share * math.hypot(*shape)), 1)
        expected = brute_force(label, prediction, distance)
        np.testing.assert_array_equal(count(label, prediction, share=share), expected)


def test_blobs_have_edges_between_classes_and_ignored_pixels():
    label = blobs((40, 31), 0.2)
    assert set(np.unique(label)) == {*range(K), 255}
    assert 0.1 < (label == 255).mean() < 0.3


@pytest.mark.parametrize("distance", [1, 3, 5])
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_two_squares_share_their_rings(distance, shift):
    """With side s, the ring of width d has s^2 - (s - 2d)^2 pixels.

    What two of them share is the overlap of the squares, s (s - t), less the inner squares, of
    which the second adds t columns to the first: (s - 2d) (s - 2d + t). It holds for t <= d.
    """
    side, shift = 20, min(shift, distance)
    share = distance / math.hypot(60, 70)
    inner = side - 2 * distance
    hit = side * (side - shift) - inner * (inner + shift)
    union = 2 * (side**2 - inner**2) - hit
    found = count(square(20, 20, side), square(20, 20 + shift, side), share=share, num_classes=2)
    assert found[1].tolist() == [hit, union]


def test_the_image_s_edge_is_a_boundary():
    """A square in a corner has the ring of one in the middle, and so has a whole image."""
    for label, side in ((square(0, 0, 20), 20), (np.ones((60, 60), np.uint8), 60)):
        near = boundary.near_boundary(label, 4)
        assert near[label == 1].sum() == side**2 - (side - 8) ** 2


def test_distance_is_a_share_of_the_diagonal_and_at_least_a_pixel():
    assert boundary.distance_of((512, 512), 0.02) == 14  # 724.08 * 0.02 = 14.48
    assert boundary.distance_of((300, 400), 0.02) == 10
    assert boundary.distance_of((30, 40), 0.001) == 1


def test_a_perfect_prediction_has_one_whatever_it_says_where_the_label_is_ignored():
    label = blobs(ignored=0.2)
    for fill in (0, K - 1, blobs()):
        figures = summarize(count(label, np.where(label == 255, fill, label).astype(np.uint8)))
        assert figures["boundary_miou"] == 1.0
        assert set(figures["boundary_iou"].values()) == {1.0}


def test_what_is_predicted_on_ignored_pixels_changes_nothing():
    label, prediction, other = blobs(ignored=0.2), blobs(), blobs()
    changed = np.where(label == 255, other, prediction)
    assert (changed != prediction).any()
    np.testing.assert_array_equal(count(label, changed), count(label, prediction))


def test_an_ignored_region_makes_no_boundary():
    """A wide ignored stripe inside a class: nothing along it counts."""
    label = np.zeros((40, 40), np.uint8)
    label[:, 15:25] = 255
    near = boundary.near_boundary(label, 3)
    frame = np.ones_like(near)
    frame[3:-3, 3:-3] = False
    np.testing.assert_array_equal(near, frame)


def test_counts_follow_the_classes_wherever_their_numbers_go():
    label, prediction = blobs(ignored=0.1), blobs()
    order = RNG.permutation(K).astype(np.uint8)
    renamed = np.where(label == 255, 255, order[label % K]).astype(np.uint8)
    found = count(renamed, order[prediction])
    np.testing.assert_array_equal(found[order], count(label, prediction))


def test_truth_and_prediction_may_change_places():
    label, prediction = blobs(), blobs()
    np.testing.assert_array_equal(count(label, prediction), count(prediction, label))


def test_turned_and_mirrored_images_count_alike():
    label, prediction = blobs(ignored=0.1), blobs()
    expected = count(label, prediction)
    for turn in (np.transpose, np.fliplr, np.rot90):
        turned = (np.ascontiguousarray(turn(one)) for one in (label, prediction))
        np.testing.assert_array_equal(count(*turned), expected)


def test_as_far_as_the_image_reaches_it_is_the_iou():
    label, prediction = blobs(ignored=0.1), blobs()
    confusion = metrics.count_confusion(label[None], prediction[None], num_classes=K)
    hit, union = count(label, prediction, share=1.0).T
    np.testing.assert_array_equal(hit / union, metrics.iou(confusion[0]))


def test_a_shifted_edge_costs_more_here_than_in_the_iou():
    """A large square, off by two pixels of its 50."""
    label, prediction = square(5, 5, 50), square(5, 7, 50)
    hit, union = count(label, prediction, num_classes=2)[1]
    confusion = metrics.count_confusion(label[None], prediction[None], num_classes=2)[0]
    assert metrics.iou(confusion)[1] == 48 / 52
    assert hit / union < 0.7


def summarize(*per_image):
    return boundary.summarize(np.stack(per_image), classes=tuple("abcd"))


def test_figures_by_hand():
    """Sums over the images before ratios; a class in neither is left out of the mean."""
    first = np.array([[1, 2], [0, 4], [0, 0], [2**40, 2**40]])
    second = np.array([[3, 6], [0, 1], [0, 0], [0, 2**40]])
    figures = summarize(first, second)
    assert figures["boundary_iou"] == {"a": 4 / 8, "b": 0.0, "c": None, "d": 0.5}
    assert figures["boundary_miou"] == (0.5 + 0 + 0.5) / 3


def test_of_no_image_and_of_ignored_ones_it_is_undefined():
    label = np.full((8, 8), 255, np.uint8)
    none = np.zeros((0, K, 2), int)
    for per_image in (none, count(label, blobs((8, 8)))[None]):
        figures = boundary.summarize(per_image, classes=tuple("abcd"))
        assert figures == {"boundary_miou": None, "boundary_iou": dict.fromkeys("abcd")}
