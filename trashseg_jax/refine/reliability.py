"""How far probabilities can be believed: calibration errors, Brier score, likelihood."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int64, Integer, UInt8

BINS = 15  # as in Guo et al. 2017
Probs = Float[np.ndarray, "n k"]
Labels = Integer[np.ndarray, "n"]


class Bins(NamedTuple):
    """What was said and what was true, by bins of equal width from 0 to 1.

    Of an empty bin the means are 0.
    """

    counts: Integer[np.ndarray, "m"]
    said: Float[np.ndarray, "m"]  # the mean probability
    true: Float[np.ndarray, "m"]  # the share of those to which it happened


def bin_up(said: Float[np.ndarray, "n"], true: Any, *, bins: int = BINS) -> Bins:
    """Puts probabilities into bins [i / m, (i + 1) / m), 1 into the last one."""
    place = np.minimum((said * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    sums = (np.bincount(place, values, bins) for values in (said, true))
    return Bins(counts, *(total / np.maximum(counts, 1) for total in sums))


def error(bins: Bins) -> float:
    """Expected calibration error: the mean of |true - said|, by how many a bin has."""
    gaps = np.abs(bins.true - bins.said)
    return float((bins.counts * gaps).sum() / max(bins.counts.sum(), 1))


def top_label(probs: Probs, labels: Labels, *, bins: int = BINS) -> Bins:
    """Bins of the probability of the class that is predicted (Guo et al. 2017)."""
    return bin_up(probs.max(1), probs.argmax(1) == labels, bins=bins)


def class_errors(probs: Probs, labels: Labels, *, bins: int = BINS) -> Float[np.ndarray, "k"]:
    """Each class's calibration error over all pixels; the mean is the static one.

    "Static" is Nixon et al. 2019's word, "class-wise" Kull et al.'s of the same year.
    """
    columns = range(probs.shape[1])
    return np.array([error(bin_up(probs[:, c], labels == c, bins=bins)) for c in columns])


def count_confidence(
    predictions: UInt8[np.ndarray, "n"],
    confidence: UInt8[np.ndarray, "n"],
    right: Any,
    *,
    num_classes: int,
) -> Int64[np.ndarray, "k 256 2"]:
    """Counts pixels by the class that is predicted, its probability in 255ths, and if it is right.

    Counts of several images add up.
    """
    cells = (predictions.astype(np.int64) * 256 + confidence) * 2 + right
    return np.bincount(cells, minlength=num_classes * 512).reshape(num_classes, 256, 2)


def bin_counts(counts: Int64[np.ndarray, "256 2"], *, bins: int = BINS) -> Bins:
    """Returns the same bins as `bin_up`, of a class's counts, or those of several, added."""
    said = np.arange(256) / 255
    place = np.minimum((said * bins).astype(int), bins - 1)
    both = counts.sum(1)
    number = np.bincount(place, both, bins).astype(int)
    sums = (np.bincount(place, values, bins) for values in (said * both, counts[:, 1]))
    return Bins(number, *(total / np.maximum(number, 1) for total in sums))


def brier(probs: Probs, labels: Labels) -> float:
    """The mean of sum_c (p_c - [c = y])^2, from 0 to 2 (Brier 1950)."""
    truth = probs[np.arange(len(labels)), labels]
    return float(((probs**2).sum(1) - 2 * truth + 1).mean())


def log_loss(probs: Probs, labels: Labels) -> float:
    """The mean of -log p_y, p no less than the smallest float32."""
    truth = probs[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(truth, np.finfo(np.float32).tiny)).mean())
