"""Which of a split's images a page shows, and why."""

import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Integer

from trashseg_jax import metrics

WORST, BEST, MEDIAN = 10, 4, 4  # by the mean of the image's own IoU
CELLS = 8  # the largest errors of the data set
SPREAD = 12  # over the whole split, the same ones for all runs
BY_CLASS = 2  # of each class its worst and its best images

Confusion = Integer[np.ndarray, "n k k"]


def spread(count: int) -> list[int]:
    """Returns up to SPREAD of `count` places, as far apart as possible."""
    return np.unique(np.linspace(0, count - 1, SPREAD).astype(int)).tolist()


def choose_images(per_image: Confusion, *, most: int) -> list[int]:
    """Returns up to `most` places, the most important first.

    They are the worst, best and median images, those of `spread`, those that contribute most to the
    largest errors, and of each class in turn the worst and best that have it. An image without a
    valid pixel is only there if it is one of `spread`.
    """
    ranked = rank_images(per_image)
    wanted = itertools.chain(
        ranked[:WORST],
        ranked[-BEST:][::-1],
        median_of(ranked),
        spread(len(per_image)),
        _largest_errors(per_image),
        _by_class(per_image),
    )
    return list(itertools.islice(dict.fromkeys(wanted), most))


def rank_images(per_image: Confusion) -> list[int]:
    """Returns the places of the images with a valid pixel, those with the lowest IoU first."""
    means = mean_ious(per_image)
    order = np.argsort(means, kind="stable")  # NaN comes last
    return order[: int((~np.isnan(means)).sum())].tolist()


def mean_ious(per_image: Confusion) -> np.ndarray:
    """Returns each image's mean IoU over the classes that it has; NaN without a valid pixel."""
    scores = metrics.iou(per_image)
    known = ~np.isnan(scores)
    total = np.where(known, scores, 0).sum(1)
    return np.where(known.any(1), total / np.maximum(known.sum(1), 1), np.nan)


def median_of(ranked: list[int]) -> list[int]:
    first = max(len(ranked) // 2 - MEDIAN // 2, 0)
    return ranked[first : first + MEDIAN]


def _largest_errors(per_image: Confusion) -> Iterator[int]:
    """Yields for each of the largest cells off the diagonal the image that has most of it."""
    total = per_image.sum(0, dtype=np.int64)
    np.fill_diagonal(total, 0)
    for cell in np.argsort(-total, axis=None, kind="stable")[:CELLS]:
        truth, predicted = np.unravel_index(cell, total.shape)
        if total[truth, predicted]:
            yield int(per_image[:, truth, predicted].argmax())


def _by_class(per_image: Confusion) -> Iterator[int]:
    """Yields of each class that is in the truth one image after the other, the class in turn."""
    scores, there = metrics.iou(per_image), per_image.sum(2) > 0
    orders = []
    for label in range(scores.shape[1]):
        places = np.flatnonzero(there[:, label])
        places = places[np.argsort(scores[places, label], kind="stable")].tolist()
        orders.append([*places[:BY_CLASS], *places[-BY_CLASS:][::-1]])
    for turn in itertools.zip_longest(*orders):
        yield from (place for place in turn if place is not None)
