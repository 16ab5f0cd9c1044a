"""What tuning is worth: each half of the images judged by what the other half asked for."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from trashseg_jax import boundary, calibrate, metrics
from trashseg_jax.calibrate import HALVES, of_half
from tuning.candidates import Candidate
from tuning.store import Store

RAW, CALIBRATED, DEFAULT, TUNED = "raw", "calibrated", "default CRF", "tuned CRF"
# What is compared: the second less the first.
GAINS = (
    *((RAW, CALIBRATED), (RAW, DEFAULT), (RAW, TUNED)),
    *((CALIBRATED, DEFAULT), (CALIBRATED, TUNED), (DEFAULT, TUNED)),
)
TOTALS = {"miou": "mIoU", "boundary_miou": "boundary mIoU", "pixel_accuracy": "pixel acc."}
ANSWERS = {
    RAW: "no CRF: no gain over the raw predictions is beyond noise",
    CALIBRATED: "no CRF: its gain over the calibrated predictions is not beyond noise",
    DEFAULT: "the config's own CRF: what tuning gains over it is not beyond noise",
    TUNED: "the tuned CRF: its gain on held-out images is beyond noise",
}

Confusion = Int64[np.ndarray, "n k k"]
Maps = UInt8[np.ndarray, "n s s"]


class Column(NamedTuple):
    """What is counted of each image under a candidate."""

    confusion: Confusion
    boundary: Int64[np.ndarray, "n k 2"] | None = None  # boundary.count_overlaps, if asked for


def cross(
    maps_of: Callable[[Candidate, Sequence[int]], Maps],
    by_half: Mapping[str, Candidate],
    count: int,
) -> Maps:
    """Returns all images' classes, each by the candidate of the half that it is not of."""
    even, odd = (np.flatnonzero(of_half(half, count)) for half in HALVES)
    of_odd, of_even = maps_of(by_half["even"], odd.tolist()), maps_of(by_half["odd"], even.tolist())
    found = np.empty((count, *of_even.shape[1:]), of_even.dtype)
    found[even], found[odd] = of_even, of_odd
    return found


def count_maps(stored: Store, maps: Maps, *, boundary_share: float) -> Column:
    """Counts all images' classes against their labels, and along boundaries if share is not 0."""
    num_classes = stored.log_probs.shape[-1]
    confusion = metrics.count_confusion(np.asarray(stored.labels), maps, num_classes=num_classes)
    if not boundary_share:
        return Column(confusion)
    overlaps = [
        boundary.count_overlaps(
            label[:height, :width],
            found[:height, :width],
            num_classes=num_classes,
            share=boundary_share,
        )
        for label, found, (height, width) in zip(
            np.asarray(stored.labels), maps, stored.sizes.tolist(), strict=True
        )
    ]
    return Column(confusion, np.stack(overlaps))


def choose(columns: Mapping[str, Column]) -> str:
    """Returns which column to keep.

    From the simplest on, each has to beat what is kept so far by more than noise: 95 % of the
    resamples of the images show a gain. So none is kept that is worse than the raw predictions.
    """
    kept = RAW
    for name in (CALIBRATED, DEFAULT, TUNED):
        if name in columns and _is_gain(columns[kept], columns[name]):
            kept = name
    return kept


def _is_gain(before: Column, after: Column) -> bool:
    interval = gain(before, after)["interval"]
    return interval is not None and interval[0] > 0


def describe(columns: Mapping[str, Column], classes: Sequence[str]) -> dict[str, Any]:
    """Returns the figures of each column, and what one gains over another."""
    return {
        "columns": {name: figures(column, classes) for name, column in columns.items()},
        "gains": {
            f"{after} - {before}": gain(columns[before], columns[after])
            for before, after in GAINS
            if before in columns and after in columns
        },
    }


def figures(column: Column, classes: Sequence[str]) -> dict[str, Any]:
    """Returns scores; the mIoU is over the classes in the truth, as all that is compared is."""
    confusion = column.confusion.sum(0)
    scores = map(metrics.number, metrics.iou(confusion))
    along = column.boundary
    return {
        "miou": miou(column.confusion),
        "miou_interval": metrics.bootstrap_interval(column.confusion, resamples=metrics.RESAMPLES),
        "iou": dict(zip(classes, scores, strict=True)),
        "pixel_accuracy": metrics.pixel_accuracy(confusion),
        **({} if along is None else boundary.summarize(along, classes=classes)),
    }


def gain(before: Column, after: Column) -> dict[str, Any]:
    """Returns what the second one's mIoU is more, of the same resamples of the images."""
    both = before.confusion, after.confusion
    return {
        "miou": miou(both[1]) - miou(both[0]),
        "interval": metrics.difference_interval(*both, resamples=metrics.RESAMPLES),
    }


def miou(per_image: Confusion) -> float:
    return float(calibrate.mean_iou(per_image.sum(0)[None])[0])


def describe_halves(
    columns: Mapping[str, Column], fitted: Mapping[str, tuple[Candidate, float]]
) -> dict[str, Any]:
    """Returns by half what it asked for, what that scored on it, and on the other one.

    `fitted` has each half's candidate, and its mIoU on the images that it was tried on.
    """
    count = len(columns[RAW].confusion)
    halves = {}
    for half, (candidate, score) in fitted.items():
        others = ~of_half(half, count)
        held_out = {name: miou(column.confusion[others]) for name, column in columns.items()}
        halves[half] = {"candidate": candidate.describe(), "miou": score, "held_out": held_out}
    return halves


def format_table(figures: Mapping[str, Any]) -> str:
    """Returns an engine's figures as a table for the terminal: a column a candidate."""
    columns = figures["columns"]
    classes = columns[RAW]["iou"]
    width = max(map(len, [*classes, *TOTALS.values()]))
    lines = [" " * width + "".join(f"  {name:>11}" for name in columns)]
    for name in classes:
        values = [one["iou"][name] for one in columns.values()]
        cells = ["absent" if value is None else f"{value:.4f}" for value in values]
        lines.append(f"{name:<{width}}" + "".join(f"  {cell:>11}" for cell in cells))
    for key, title in TOTALS.items():
        if key not in columns[RAW]:
            continue
        cells = "".join(f"  {one[key]:>11.4f}" for one in columns.values())
        lines.append(f"{title:<{width}}{cells}")
    for name, one in figures["gains"].items():
        interval = "{:+.4f} to {:+.4f}".format(*one["interval"])
        lines.append(f"{name}: mIoU {one['miou']:+.4f}, 95 % of resamples {interval}")
    return "\n".join(lines)
