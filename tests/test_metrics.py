import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from trashseg_jax import metrics

RNG = np.random.default_rng(0)
K = 5


def random_maps(shape=(3, 6, 7)):
    labels = RNG.integers(0, K, shape).astype(np.uint8)
    labels[RNG.random(shape) < 0.2] = 255
    return labels, RNG.integers(0, K, shape).astype(np.uint8)


def brute_force(label, prediction):
    counts = np.zeros((K, K), int)
    for truth, hit in zip(label.ravel(), prediction.ravel(), strict=True):
        if truth != 255:
            counts[truth, hit] += 1
    return counts


@pytest.mark.parametrize("by_pixel", [True, False])
def test_confusion_matrix_equals_counting_pixel_by_pixel(by_pixel):
    """As CPUs and as accelerators count; labels that are no class lie on either side of them."""
    labels, predictions = random_maps()
    labels = np.where(labels == 255, RNG.choice([-1, K, 255], labels.shape), labels.astype(int))
    actual = metrics.confusion_matrix(
        jnp.asarray(labels), jnp.asarray(predictions), num_classes=K, by_pixel=by_pixel
    )
    labels[(labels < 0) | (labels >= K)] = 255
    expected = [brute_force(*pair) for pair in zip(labels, predictions, strict=True)]
    np.testing.assert_array_equal(actual, expected)


def test_counts_on_the_host_equal_those_on_the_device():
    labels, predictions = random_maps()
    expected = metrics.confusion_matrix(
        jnp.asarray(labels), jnp.asarray(predictions), num_classes=K, by_pixel=True
    )
    actual = metrics.count_confusion(labels, predictions, num_classes=K)
    np.testing.assert_array_equal(actual, expected)


def test_confusion_matrix_iou_and_dice_equal_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    labels, predictions = random_maps()
    truth, hit = labels[labels != 255], predictions[labels != 255]
    confusion = metrics.count_confusion(labels, predictions, num_classes=K).sum(0)
    classes = range(K)
    expected = sklearn.confusion_matrix(truth, hit, labels=classes)
    np.testing.assert_array_equal(confusion, expected)
    expected = sklearn.jaccard_score(truth, hit, labels=classes, average=None)
    np.testing.assert_allclose(metrics.iou(confusion), expected, rtol=1e-12)
    expected = sklearn.f1_score(truth, hit, labels=classes, average=None)
    np.testing.assert_allclose(metrics.dice(confusion), expected, rtol=1e-12)


def test_iou_and_dice_are_set_sizes():
    label, prediction = random_maps((6, 7))
    confusion = brute_force(label, prediction)
    for k in range(K):
        truth = label == k
        predicted = (prediction == k) & (label != 255)
        hit = (truth & predicted).sum()
        assert metrics.iou(confusion)[k] == hit / (truth | predicted).sum()
        assert metrics.dice(confusion)[k] == 2 * hit / (truth.sum() + predicted.sum())


def test_class_in_neither_is_undefined_and_class_never_hit_is_zero():
    confusion = np.array([[4, 0, 0], [2, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(metrics.iou(confusion), [4 / 6, 0, np.nan])
    figures = summarize(confusion[None])
    assert figures["iou"] == {"a": 4 / 6, "b": 0.0, "c": None}
    assert figures["miou"] == (4 / 6 + 0) / 2


def test_counts_beyond_32_bits_stay_exact():
    confusion = np.array([[2**40, 1], [0, 2**40]])
    np.testing.assert_allclose(metrics.iou(confusion), 2**40 / (2**40 + 1), rtol=1e-15)


def test_common_mean_leaves_out_rare_classes():
    confusion = np.array([[98, 0, 0], [0, 2, 0], [1, 0, 0]])  # shares .97, .02, .01
    figures = summarize(confusion[None], common_share=0.015)
    assert figures["miou_common"] == (98 / 99 + 1) / 2
    assert figures["miou"] == (98 / 99 + 1 + 0) / 3


def test_figures_by_hand():
    """Truth 6, 3 and 1 of ten pixels; predicted 5, 5 and 0."""
    figures = summarize(np.array([[[4, 2, 0], [0, 3, 0], [1, 0, 0]]]), common_share=0.3)
    assert figures["pixel_accuracy"] == 7 / 10
    assert figures["pixel_share"] == {"a": 0.6, "b": 0.3, "c": 0.1}
    assert figures["iou"] == {"a": 4 / 7, "b": 3 / 5, "c": 0}
    assert figures["mean_dice"] == pytest.approx((8 / 11 + 6 / 8 + 0) / 3)
    # A class with exactly the share counts.
    assert figures["miou_common"] == pytest.approx((4 / 7 + 3 / 5) / 2)


def test_per_image_mean_weighs_images_alike():
    perfect = np.diag([10, 0, 0])
    wrong = np.array([[0, 0, 1000], [0, 0, 0], [0, 0, 0]])
    assert summarize(np.stack([perfect, wrong]))["miou_per_image"] == (1 + 0) / 2


def test_sums_do_not_depend_on_how_images_are_batched():
    parts = RNG.integers(0, 50, (6, 3, 3))
    assert summarize(parts)["confusion"] == parts.sum(0).tolist()


def test_everything_ignored_is_undefined_not_an_error():
    figures = summarize(np.zeros((2, 3, 3), int))
    assert figures["miou"] is None
    assert figures["pixel_accuracy"] is None


def resample_mean(parts, drawn):
    """The mean over the whole set's classes; one that was not drawn keeps its IoU."""
    whole, scores = metrics.iou(parts.sum(0)), metrics.iou(parts[list(drawn)].sum(0))
    return np.nanmean(np.where(np.isnan(scores), whole, scores))


@pytest.mark.parametrize("rare", [False, True])
def test_interval_is_that_of_all_resamples_where_they_can_be_listed(rare):
    """Three images, 27 resamples alike in probability; the rare class is in the first alone."""
    parts = RNG.integers(1, 50, (3, K, K))
    if rare:
        parts[1:, 4] = parts[1:, :, 4] = 0
        parts[:, 3] = parts[:, :, 3] = 0  # and one that is in none
    means = [resample_mean(parts, drawn) for drawn in itertools.product(range(3), repeat=3)]
    # The lowest has a probability of 1/27 or more, the highest too: beyond the quantiles.
    actual = metrics.bootstrap_interval(parts, resamples=20_000)
    assert actual == pytest.approx([min(means), max(means)])


def test_interval_equals_a_loop_over_the_resamples():
    parts = RNG.integers(0, 50, (9, K, K)) * (RNG.random((9, K, 1)) < 0.3)
    parts[:, 2] = parts[:, :, 2] = 0
    draws = np.random.default_rng(0)
    means = []
    for _ in range(300):
        counts = draws.multinomial(9, np.full(9, 1 / 9))
        means.append(resample_mean(parts, np.repeat(np.arange(9), counts)))
    actual = metrics.bootstrap_interval(parts, resamples=300)
    assert actual == pytest.approx(np.quantile(means, (0.025, 0.975)))


def rarely_hit(classes):
    """An image a class, and one pixel of it: all missed but those of every tenth class."""
    parts = np.zeros((classes, classes + 1, classes + 1), int)
    for c in range(1, classes + 1):
        parts[c - 1, 0, 0] = 1000
        parts[c - 1, c, c if c % 10 == 0 else 0] = 1
    return parts


def large_missed_and_small_hit(classes):
    """Each class in two images: a thousand pixels missed, one hit. A resample of one is 0 or 1."""
    parts = np.zeros((2 * classes, classes + 1, classes + 1), int)
    for c in range(1, classes + 1):
        parts[2 * c - 2, c, 0] = 1000
        parts[2 * c - 1, c, c] = 1
    return parts


@pytest.mark.parametrize("make", [rarely_hit, large_missed_and_small_hit])
@pytest.mark.parametrize("classes", [2, 60])
def test_interval_contains_its_mean_however_rare_the_classes(make, classes):
    parts = make(classes)
    names = tuple(map(str, range(classes + 1)))
    figures = metrics.summarize(parts, classes=names, common_share=0.0, resamples=500)
    low, high = figures["miou_interval"]
    assert low <= figures["miou"] <= high


def test_interval_of_one_image_is_its_own_mean():
    parts = RNG.integers(1, 50, (1, K, K))
    mean = metrics.iou(parts[0]).mean()
    assert metrics.bootstrap_interval(parts, resamples=10) == pytest.approx([mean, mean])


def test_interval_of_nothing_is_undefined():
    for parts in (np.zeros((0, K, K), int), np.zeros((3, K, K), int)):
        assert metrics.bootstrap_interval(parts, resamples=10) is None
        assert metrics.difference_interval(parts, parts, resamples=10) is None


def test_interval_of_a_difference_is_that_of_the_same_resamples_of_both():
    before, after = RNG.integers(1, 50, (2, 9, K, K))
    draws = np.random.default_rng(0)
    differences = []
    for _ in range(300):
        drawn = np.repeat(np.arange(9), draws.multinomial(9, np.full(9, 1 / 9)))
        differences.append(resample_mean(after, drawn) - resample_mean(before, drawn))
    actual = metrics.difference_interval(before, after, resamples=300)
    assert actual == pytest.approx(np.quantile(differences, (0.025, 0.975)))
    assert metrics.difference_interval(before, before, resamples=300) == [0, 0]


def test_interval_is_left_out_where_no_resamples_are_asked_for():
    parts = RNG.integers(0, 50, (6, 3, 3))
    figures = summarize(parts, resamples=10)
    assert figures.pop("miou_interval")
    assert figures.pop("miou_common_interval")
    assert summarize(parts) == figures


def summarize(per_image, common_share=0.0, resamples=0):
    return metrics.summarize(
        per_image, classes=("a", "b", "c"), common_share=common_share, resamples=resamples
    )


def test_a_classes_interval_is_that_of_its_own_resamples():
    parts = RNG.integers(0, 50, (9, K, K)) * (RNG.random((9, K, 1)) < 0.5)
    parts[:, 2] = parts[:, :, 2] = 0
    intervals = metrics.iou_intervals(parts, resamples=300)
    assert np.isnan(intervals[2]).all()
    for label in (0, 1, 3, 4):
        alone = np.arange(K) == label
        expected = metrics.bootstrap_interval(parts, resamples=300, among=alone)
        assert intervals[label].tolist() == pytest.approx(expected)


def test_the_common_classes_interval_is_that_of_their_mean():
    parts = RNG.integers(1, 50, (9, K, K))
    parts[:, 3, :] = 0
    parts[0, 3, 3] = 1
    figures = metrics.summarize(
        parts, classes=[str(i) for i in range(K)], common_share=0.01, resamples=200
    )
    common = np.arange(K) != 3
    expected = metrics.bootstrap_interval(parts, resamples=200, among=common)
    assert figures["miou_common_interval"] == expected
    assert expected[0] <= figures["miou_common"] <= expected[1]


def test_a_classes_difference_is_paired():
    """A run that is right in one more pixel of each image differs for certain."""
    before = np.tile(np.array([[50, 10], [20, 30]]), (12, 1, 1)) * RNG.integers(1, 9, (12, 1, 1))
    after = before + np.array([[1, -1], [0, 0]])
    low, high = metrics.iou_difference_intervals(before, after, resamples=200).T
    change = metrics.iou(after.sum(0)) - metrics.iou(before.sum(0))
    assert (low > 0).all()
    assert (low <= change).all()
    assert (change <= high).all()
