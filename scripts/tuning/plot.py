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
    """A trial: its number, its mIoU, whether it was given up, and the values it stands for."""

    number: int
    score: float
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
    limits = score_limits([one.score for trials in studies.values() for one in trials])
    for axis in (first, *others):
        axis.set_ylim(*limits)
        axis.grid(alpha=0.3)
    first.set(title=title, xlabel="trial; line: the best so far", ylabel="mIoU on its own images")
    first.legend(title="fitted on", loc="lower right")
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=90)
    pyplot.close(figure)
    write_bytes(path, content.getvalue())


def draw_order(axis: Any, trials: Sequence[Tried], images: str) -> None:
    """Points, hollow where a trial was given up, and the best of those that were not."""
    color = COLORS[images]
    for given_up, face in ((False, color), (True, "none")):
        chosen = [one for one in trials if one.given_up == given_up]
        numbers, scores = [one.number for one in chosen], [one.score for one in chosen]
        axis.scatter(numbers, scores, s=14, edgecolors=color, facecolors=face)
    whole = [-np.inf if one.given_up else one.score for one in trials]
    numbers = [one.number for one in trials]
    axis.step(numbers, np.maximum.accumulate(whole), where="post", color=color, label=images)


def draw_slice(axis: Any, trials: Sequence[Tried], name: str, images: str) -> None:
    """The scores over one parameter, of the trials that have it and were tried to the end."""
    chosen = [one for one in trials if name in one.values and not one.given_up]
    values = [one.values[name] for one in chosen]
    axis.scatter(values, [one.score for one in chosen], s=12, color=COLORS[images])
    axis.set_xlabel(name)
    if name.endswith(LOGARITHMIC) and all(value > 0 for value in values):
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("{x:g}")
        axis.tick_params(axis="x", which="both", labelsize=7)


def score_limits(scores: Sequence[float]) -> tuple[float, float]:
    """Leaves out the worst tenth, beside which no difference could be seen."""
    low, high = np.quantile(scores, 0.1), max(scores)
    margin = max(0.05 * (high - low), 1e-3)
    return float(low - margin), float(high + margin)
