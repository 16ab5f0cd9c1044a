"""A picture of the trials: their scores in order, and over each parameter."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trashseg_jax.errors import InputError
from trashseg_jax.report.files import write_bytes

PARAMETERS = (
    *("iterations", "gaussian_sxy", "gaussian_compat"),
    *("bilateral_sxy", "bilateral_srgb", "bilateral_compat", "strength", "temperature"),
)
LOGARITHMIC = ("sxy", "srgb", "compat", "temperature")
COLORS = {"even": "#0072b2", "odd": "#d55e00", "all": "#555555"}


class Tried(NamedTuple):
    """A trial, by its number and the values that it stands for."""

    number: int
    score: float  # of a part of the images, where it was given up
    given_up: bool
    values: Mapping[str, float]


def save_trials(path: Path, studies: Mapping[str, Sequence[Tried]], *, title: str) -> None:
    """Draws the trials of each study, by the images that it was fitted on."""
    try:
        import matplotlib
    except ImportError as error:
        raise InputError(
            f'matplotlib cannot be imported ({error}); "pip install -r requirements-tune.txt" '
            "installs what tuning needs"
        ) from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 3, figsize=(12, 9), layout="constrained")
    first, *others = axes.ravel()
    for images, trials in studies.items():
        draw_order(first, trials, images)
        for axis, name in zip(others, PARAMETERS, strict=True):
            draw_slice(axis, trials, name, images)
    whole = [one.score for trials in studies.values() for one in trials if not one.given_up]
    for axis in (first, *others):
        axis.set_ylim(*score_limits(whole))
        axis.grid(alpha=0.3)
    first.set(xlabel="trial; line: the best so far, tick: given up", ylabel="mIoU on its images")
    figure.legend(title=f"{title}, fitted on images", loc="outside upper center", ncols=3)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=90)
    pyplot.close(figure)
    write_bytes(path, content.getvalue())


def draw_order(axis: Any, trials: Sequence[Tried], images: str) -> None:
    """The trials, and the best so far; of one that was given up only that it was there."""
    color = COLORS[images]
    whole = [one for one in trials if not one.given_up]
    numbers, scores = [one.number for one in whole], [one.score for one in whole]
    axis.scatter(numbers, scores, s=14, color=color)
    axis.step(numbers, np.maximum.accumulate(scores), where="post", color=color, label=images)
    given_up = [one.number for one in trials if one.given_up]
    at_bottom = {"marker": "|", "s": 20, "transform": axis.get_xaxis_transform()}
    axis.scatter(given_up, [0.02] * len(given_up), color=color, **at_bottom)


def draw_slice(axis: Any, trials: Sequence[Tried], name: str, images: str) -> None:
    """The scores over one parameter, of the trials that have it and were tried to the end."""
    from matplotlib.ticker import LogLocator, NullLocator

    chosen = [one for one in trials if name in one.values and not one.given_up]
    values = [one.values[name] for one in chosen]
    axis.scatter(values, [one.score for one in chosen], s=12, color=COLORS[images])
    axis.set_xlabel(name)
    if name.endswith(LOGARITHMIC) and values:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_locator(NullLocator())


def score_limits(scores: Sequence[float]) -> tuple[float, float]:
    """Leaves out the worst tenth, beside which no difference could be seen."""
    low, high = np.quantile(scores, 0.1), max(scores)
    margin = max(0.05 * (high - low), 1e-3)
    return float(low - margin), float(high + margin)
