"""What a run's log tells over its steps."""

import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple


class Series(NamedTuple):
    """Values at steps, in their order; where one is missing or not finite there is none."""

    steps: tuple[int, ...]
    values: tuple[float | int, ...]


class History(NamedTuple):
    """The curves of a run; of one without a log all are empty."""

    loss: Series
    grad_norm: Series
    learning_rate: Series
    images_per_second: Series
    eval_loss: Series
    miou: Series
    iou: Mapping[str, Series]  # by class


def read_history(log: Path) -> History:
    """Reads log.jsonl; a last line that was cut off is left out."""
    entries = []
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    for line in lines:
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    names = dict.fromkeys(name for entry in entries for name in entry.get("iou", {}))
    numbers = {
        field: _series((entry["step"], entry.get(field)) for entry in entries)
        for field in History._fields
        if field != "iou"
    }
    iou = {
        name: _series((entry["step"], entry.get("iou", {}).get(name)) for entry in entries)
        for name in names
    }
    return History(**numbers, iou=iou)


def _series(points: Iterable[tuple[int, float | int | None]]) -> Series:
    known = [(step, value) for step, value in points if value is not None]
    return Series(tuple(step for step, _ in known), tuple(value for _, value in known))


def thin(series: Series, *, most: int) -> Series:
    """Returns at most that many points: each the mean of as many that follow one another.

    A mean's step is the middle one's; the first and the last step stay.
    """
    count = len(series.steps)
    if count <= most:
        return series
    edges = [round(i * count / most) for i in range(most + 1)]
    parts = list(itertools.pairwise(edges))
    steps = [series.steps[(first + last - 1) // 2] for first, last in parts]
    steps[0], steps[-1] = series.steps[0], series.steps[-1]
    means = [sum(series.values[a:b]) / (b - a) for a, b in parts]
    return Series(tuple(steps), tuple(means))


def smooth(series: Series, *, window: float) -> Series:
    """Returns the exponential moving average over a window of that many points, without its bias.

    As Adam corrects its averages: the first value is the first one's own.
    """
    decay, total, weight, values = 1 - 1 / max(window, 1.0), 0.0, 0.0, []
    for value in series.values:
        total, weight = decay * total + value, decay * weight + 1
        values.append(total / weight)
    return Series(series.steps, tuple(values))
