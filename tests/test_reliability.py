"""Calibration errors and scores: against brute force, scikit-learn and closed forms."""

import numpy as np
import pytest

from trashseg_jax.refine import reliability

RNG = np.random.default_rng(0)
PROBS = RNG.dirichlet(np.full(4, 0.5), 2000)
LABELS = RNG.integers(0, 4, 2000)


def brute_force(said, true, *, bins):
    """The definition: the sum over bins of their share times |mean true - mean said|."""
    found = 0.0
    for i in range(bins):
        upper = np.inf if i == bins - 1 else (i + 1) / bins
        inside = [(s, t) for s, t in zip(said, true, strict=True) if i / bins <= s < upper]
        if inside:
            gap = np.mean([t for _, t in inside]) - np.mean([s for s, _ in inside])
            found += len(inside) / len(said) * abs(gap)
    return found


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_top_label_error_is_its_definition(bins):
    found = reliability.error(reliability.top_label(PROBS, LABELS, bins=bins))
    hits = [row.argmax() == y for row, y in zip(PROBS, LABELS, strict=True)]
    expected = brute_force([max(row) for row in PROBS], hits, bins=bins)
    assert found == pytest.approx(expected, abs=1e-12)


def test_class_errors_are_their_definition():
    found = reliability.class_errors(PROBS, LABELS, bins=10)
    expected = [brute_force(PROBS[:, c], c == LABELS, bins=10) for c in range(4)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_bins_agree_with_scikit_learn():
    calibration_curve = pytest.importorskip("sklearn.calibration").calibration_curve
    true, said = calibration_curve(LABELS == 2, PROBS[:, 2], n_bins=15)
    bins = reliability.bin_up(PROBS[:, 2], LABELS == 2, bins=15)
    filled = bins.counts > 0
    np.testing.assert_allclose(bins.true[filled], true)
    np.testing.assert_allclose(bins.said[filled], said)


def test_brier_score_and_log_loss_agree_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    assert reliability.log_loss(PROBS, LABELS) == pytest.approx(metrics.log_loss(LABELS, PROBS))
    by_class = [metrics.brier_score_loss(c == LABELS, PROBS[:, c]) for c in range(4)]
    assert reliability.brier(PROBS, LABELS) == pytest.approx(sum(by_class))


def test_brier_score_is_its_definition():
    expected = ((PROBS - np.eye(4)[LABELS]) ** 2).sum(1).mean()
    assert reliability.brier(PROBS, LABELS) == pytest.approx(expected)


def test_probabilities_that_come_true_have_no_error_and_those_that_lie_all_of_it():
    probs = np.tile([0.75, 0.25], (400, 1))
    labels = np.arange(400) % 4 == 0  # a quarter is of class 1
    bins = reliability.top_label(probs, labels.astype(int))
    assert reliability.error(bins) == pytest.approx(0, abs=1e-12)
    sure = np.tile([1.0, 0.0], (400, 1))
    assert reliability.error(reliability.top_label(sure, np.ones(400, int))) == 1
    assert reliability.brier(sure, np.ones(400, int)) == 2
    assert reliability.bin_up(sure[:, 0], labels, bins=5).counts.tolist() == [0, 0, 0, 0, 400]


def test_an_impossible_label_costs_much_and_not_everything():
    assert 50 < reliability.log_loss(np.array([[1.0, 0.0]]), np.array([1])) < 100


def test_counts_of_several_images_give_the_bins_of_all_their_pixels():
    """Probabilities that are whole 255ths, so that nothing is rounded."""
    rng = np.random.default_rng(3)
    confidence = rng.integers(0, 256, 600).astype(np.uint8)
    predictions = rng.integers(0, 4, 600).astype(np.uint8)
    right = rng.random(600) < confidence / 255
    halves = [
        reliability.count_confidence(predictions[i], confidence[i], right[i], num_classes=4)
        for i in (slice(0, 250), slice(250, 600))
    ]
    counts = halves[0] + halves[1]
    for label in range(4):
        of_one = predictions == label
        expected = reliability.bin_up(confidence[of_one] / 255, right[of_one])
        found = reliability.bin_counts(counts[label])
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other)
