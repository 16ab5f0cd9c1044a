"""The rows of the table of classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64, Integer

from trashseg_jax import metrics
from trashseg_jax.refine import reliability

Counts = Int64[np.ndarray, "k 256 2"]


def class_rows(
    figures: dict[str, Any],
    per_image: Integer[np.ndarray, "n k k"],
    confidence: Counts | None,
    *,
    colors: Sequence[str],
    published: dict[str, dict[str, float]],
) -> list[dict[str, Any]]:
    """Returns for each class the cells of its row; None where a figure is not defined.

    `published` are other experiments' IoU by class.
    """
    confusion = per_image.sum(0, dtype=np.int64)
    hit, truth, predicted = np.diagonal(confusion), confusion.sum(1), confusion.sum(0)
    intervals = metrics.iou_intervals(per_image, resamples=metrics.RESAMPLES)
    dice, images = metrics.dice(confusion), (per_image.sum(2) > 0).sum(0)
    rows = []
    for i, (name, iou) in enumerate(figures["iou"].items()):
        rows.append(
            {
                "name": name,
                "color": colors[i],
                "iou": iou,
                "interval": None if iou is None else intervals[i].tolist(),
                "refined": _of(figures.get("crf", {}).get("iou"), name),
                "boundary": _of(figures.get("boundary_iou"), name),
                "refined_boundary": _of(figures.get("crf", {}).get("boundary_iou"), name),
                "precision": _share(hit[i], predicted[i]),
                "recall": _share(hit[i], truth[i]),
                "dice": None if np.isnan(dice[i]) else float(dice[i]),
                "calibration": None if confidence is None else calibration_of(confidence[i]),
                "pixels": int(truth[i]),
                "share": figures["pixel_share"][name],
                "images": int(images[i]),
                "published": {title: iou_of[name] for title, iou_of in published.items()},
                "never_hit": bool(truth[i] and not hit[i]),
            }
        )
    return rows


def calibration_of(counts: Int64[np.ndarray, "256 2"]) -> dict[str, float] | None:
    """Returns the calibration error of the pixels counted, and confidence less precision.

    None where there is no pixel.
    """
    bins = reliability.bin_counts(counts)
    number = bins.counts.sum()
    if not number:
        return None
    gap = (bins.counts * (bins.said - bins.true)).sum() / number
    return {"error": reliability.error(bins), "gap": float(gap)}


def reliability_bars(confidence: Counts) -> list[dict[str, float]]:
    """Returns the bars of a reliability diagram over all classes, those that have pixels."""
    bins = reliability.bin_counts(confidence.sum(0))
    total = max(int(bins.counts.sum()), 1)
    return [
        {"said": float(said), "true": float(true), "share": count / total}
        for count, said, true in zip(*bins, strict=True)
        if count
    ]


def _of(values: dict[str, float | None] | None, name: str) -> float | None:
    return None if values is None else values[name]


def _share(part: Any, whole: Any) -> float | None:
    return float(part / whole) if whole else None
