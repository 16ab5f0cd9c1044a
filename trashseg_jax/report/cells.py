"""The confusion matrix's cells, and the images that each owes most to."""

from typing import Any

import numpy as np
from jaxtyping import Integer

TOP = 5  # images of a cell
MOST_CELLS = 2500  # that have their images; the others, with fewer pixels, do without


def top_images(per_image: Integer[np.ndarray, "n k k"]) -> dict[str, list[tuple[int, int]]]:
    """Returns for each cell off the diagonal (place, pixels) of the images with most of it.

    Cells are called "TRUTH-PREDICTED", by the classes' numbers.
    """
    number = per_image.shape[1]
    image, truth, predicted = np.nonzero(per_image)
    wrong = truth != predicted
    image, cell = image[wrong], (truth * number + predicted)[wrong]
    pixels = per_image[image, cell // number, cell % number].astype(np.int64)
    totals = np.bincount(cell, pixels, number**2)
    kept = np.argsort(-totals, kind="stable")[:MOST_CELLS]
    order = np.lexsort((image, -pixels, cell))
    image, cell, pixels = image[order], cell[order], pixels[order]
    first, last = (np.searchsorted(cell, kept, side) for side in ("left", "right"))
    return {
        f"{one // number}-{one % number}": [
            (int(image[at]), int(pixels[at])) for at in range(a, min(a + TOP, b))
        ]
        for one, a, b in zip(kept.tolist(), first.tolist(), last.tolist(), strict=True)
        if b > a
    }


def shares(confusion: Integer[np.ndarray, "k k"], *, axis: int) -> list[list[int]]:
    """Returns each cell in hundredths of its row (axis 1) or column (axis 0), -1 where it is 0.

    What is there and less than half a hundredth is 0.
    """
    total = np.maximum(confusion.sum(axis, keepdims=True), 1)
    rounded = np.rint(100 * confusion / total).astype(int)
    return np.where(confusion > 0, rounded, -1).tolist()


def describe_image(confusion: Integer[np.ndarray, "k k"], *, iou: float) -> dict[str, Any]:
    """Returns what a page tells of an image: its classes' scores and its largest error."""
    hit, truth, predicted = np.diagonal(confusion), confusion.sum(1), confusion.sum(0)
    union = truth + predicted - hit
    there = np.flatnonzero(union).tolist()
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    largest = int(wrong.argmax())
    worst = divmod(largest, len(confusion)) if wrong.any() else None
    valid = int(confusion.sum())
    return {
        "iou": None if np.isnan(iou) else round(float(iou), 4),
        "accuracy": round(float(hit.sum() / valid), 4) if valid else None,
        "classes": [
            [i, round(float(hit[i] / union[i]), 4), int(truth[i]), int(predicted[i])] for i in there
        ],
        "error": None if worst is None else [*worst, round(float(wrong.max() / valid), 4)],
    }
