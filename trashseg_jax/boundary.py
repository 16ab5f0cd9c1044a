"""Boundary IoU (Cheng et al. 2021): how well a prediction follows the edges of the classes.

The edge of a large object may be off by many pixels before its IoU tells; that of the pixels near
its boundary does.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, Integer, UInt8

from trashseg_jax import metrics

NO_CLASS = 255

Map = UInt8[np.ndarray, "h w"]


def count_overlaps(
    label: Map, prediction: Map, *, num_classes: int, share: float
) -> Int64[np.ndarray, "k 2"]:
    """Returns how many pixels truth and prediction share near a class's boundary, and cover.

    Of either map these are the pixels of the class within a distance (`distance_of`) of another
    class or of the image's edge: the paper's (G_d ∩ G) and (P_d ∩ P), their intersection and their
    union. A pixel whose label is no class has none in the prediction either: it counts nowhere,
    makes no boundary, and whatever is predicted there changes nothing.
    """
    ignored = label >= num_classes
    distance = distance_of(label.shape, share)
    truth, found = (np.where(ignored, np.uint8(NO_CLASS), one) for one in (label, prediction))
    near_truth, near_found = (near_boundary(one, distance) & ~ignored for one in (truth, found))
    shared = near_truth & near_found & (truth == found)
    chosen = truth[shared], truth[near_truth], found[near_found]
    hit, *both = (np.bincount(one, minlength=num_classes) for one in chosen)
    return np.stack([hit, sum(both) - hit], -1)


def distance_of(shape: tuple[int, ...], share: float) -> int:
    """Returns that share of an image's diagonal in whole pixels, at least 1."""
    return max(round(share * math.hypot(*shape)), 1)


def near_boundary(classes: Map, distance: int) -> Bool[np.ndarray, "h w"]:
    """Returns which pixels have another class, or the image's edge, within so many pixels.

    Distances are Chebyshev's, as in the authors' code: a class's mask without its erosion by a
    square. In place of one erosion a class, the smallest and the largest class of the square around
    each pixel are compared. NO_CLASS differs from nothing.
    """
    near = np.ones(classes.shape, bool)
    if min(classes.shape) <= 2 * distance:
        return near
    lowest = over_squares(np.minimum, classes, 2 * distance + 1)
    known = np.where(classes == NO_CLASS, np.uint8(0), classes)  # the largest class never is this
    highest = over_squares(np.maximum, known, 2 * distance + 1)
    near[distance:-distance, distance:-distance] = lowest < highest
    return near


def over_squares(reduce: Callable[..., Any], values: Map, side: int) -> UInt8[np.ndarray, "_ _"]:
    """Reduces each square of that side that lies in the map."""
    return over_rows(reduce, over_rows(reduce, values, side).T, side).T


def over_rows(reduce: Callable[..., Any], values: Map, count: int) -> UInt8[np.ndarray, "_ _"]:
    """Reduces each `count` rows that follow each other, by windows of twice the size each time."""
    covered = 1
    while 2 * covered <= count:
        values = reduce(values[:-covered], values[covered:])
        covered *= 2
    rest = count - covered
    return reduce(values[: len(values) - rest], values[rest:])


def summarize(per_image: Integer[np.ndarray, "n k 2"], *, classes: Sequence[str]) -> dict[str, Any]:
    """Returns `boundary_iou` by class and their mean, from the images' `count_overlaps`.

    A class without a pixel near a boundary in truth and prediction is None, and left out.
    """
    hit, union = per_image.sum(0, dtype=np.int64).T
    scores = metrics.ratio(hit, union)
    by_class = {name: metrics.number(v) for name, v in zip(classes, scores, strict=True)}
    return {"boundary_miou": metrics.mean(scores), "boundary_iou": by_class}
