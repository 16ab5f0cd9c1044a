"""Confident learning per pixel and per object (Northcutt, Jiang and Chuang 2021, section 3.1).

A class's threshold is the mean probability that the model gives it over the pixels labelled so. A
pixel's label is doubtful where the model's most probable class is another one, and reaches its
threshold. (In the paper it is the most probable of those that reach theirs. A class that the model
hardly ever finds has a threshold near 0, and would claim every pixel that the model is unsure of.)
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, UInt8
from scipy.ndimage import binary_dilation, binary_erosion

from trashseg_jax.data.pieces import find_pieces
from trashseg_jax.data.taxonomy import IGNORE_LABEL

NONE = 255  # the most probable class does not reach its threshold
ROUNDING = 1e-6  # so that a mean of equal probabilities is reached by each of them
DOUBTFUL = 0.5  # what has a larger share of doubtful pixels is doubtful itself
TOUCHING = 0.25  # of a piece's surroundings: with more of its class in them it is a part of that
NEVER = np.inf  # the threshold of a class that no pixel is labelled

Labels = UInt8[np.ndarray, "h w"]
Probs = Float[np.ndarray, "h w k"]
Mask = Bool[np.ndarray, "h w"]


class Thresholds:
    """Sums up each class's probability over the pixels labelled so, image after image."""

    def __init__(self, num_classes: int):
        self._sums, self._counts = np.zeros(num_classes), np.zeros(num_classes)

    def add(self, labels: Labels, probs: Probs) -> None:
        valid = labels != IGNORE_LABEL
        own, num_classes = labels[valid], len(self._sums)
        known = np.take_along_axis(probs[valid], own[:, None].astype(int), 1)[:, 0]
        self._sums += np.bincount(own, known.astype(np.float64), num_classes)
        self._counts += np.bincount(own, minlength=num_classes)

    @property
    def values(self) -> Float64[np.ndarray, "k"]:
        means = self._sums / np.maximum(self._counts, 1)
        return np.where(self._counts > 0, means, NEVER)


class Verdict(NamedTuple):
    """What the model makes of some pixels of one label."""

    score: float  # its mean probability of the label, 0 to 1: the less, the more doubtful
    share: float  # of the pixels, those that are doubtful
    suggested: int  # the confident class of most of these; NONE where there are none


class Opinion(NamedTuple):
    """What a model sees in an image: probabilities, the most probable classes, where it is sure.

    `confident` are the most probable classes that reach their thresholds, NONE elsewhere.
    """

    probs: Probs
    classes: Labels
    confident: Labels


def form_opinion(probs: Probs, thresholds: Float64[np.ndarray, "k"]) -> Opinion:
    """Returns the opinion that probabilities with these thresholds are."""
    classes = probs.argmax(-1)
    highest = np.take_along_axis(probs, classes[..., None], -1)[..., 0]
    confident = np.where(highest >= thresholds[classes] - ROUNDING, classes, NONE)
    return Opinion(probs, classes.astype(np.uint8), confident.astype(np.uint8))


def find_doubtful(labels: Labels, confident: Labels) -> Mask:
    """Returns where the confident class is not the label; ignored pixels are not doubtful."""
    return (confident != NONE) & (confident != labels) & (labels != IGNORE_LABEL)


def judge(pixels: Mask, label: int, opinion: Opinion) -> Verdict:
    """Judges those pixels, at least one, all of which have that label."""
    found = opinion.confident[pixels]
    others = found[(found != NONE) & (found != label)]
    suggested = int(np.bincount(others).argmax()) if len(others) else NONE
    score = float(opinion.probs[..., label][pixels].mean(dtype=np.float64))
    return Verdict(score, len(others) / len(found), suggested)


def find_missing(
    labels: Labels, opinion: Opinion, *, share: float, width: int
) -> list[tuple[int, Mask]]:
    """Returns class and pixels of objects that are seen where nothing is annotated.

    They are connected, have at least such a share of the image, are as wide as `width` at some
    place, and the model is sure of most of their pixels. What runs along an object of its class is
    no other one: the model sees its border there.
    """
    found = []
    unlabelled = np.where(labels == 0, opinion.classes, 0)
    for k in sorted({*np.unique(unlabelled).tolist()} - {0}):
        for (rows, columns), piece in find_pieces(unlabelled == k):
            sure = (opinion.confident[rows, columns][piece] == k).mean() > DOUBTFUL
            if not sure or piece.sum() < share * labels.size or not _is_wide(piece, width):
                continue
            mask = np.zeros(labels.shape, bool)
            mask[rows, columns] = piece
            around = binary_dilation(mask, iterations=2) & ~mask
            if (labels[around] == k).sum() <= TOUCHING * around.sum():
                found.append((k, mask))
    return found


def _is_wide(piece: Mask, width: int) -> bool:
    inner = np.pad(piece, 1)  # outside the image there is nothing
    return bool(binary_erosion(inner, np.ones((3, 3), bool), iterations=max(width // 2, 1)).any())
