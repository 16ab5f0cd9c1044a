"""The page of several runs over the same images: figures, paired differences, curves, pictures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from trashseg_jax import metrics, settings
from trashseg_jax.data import taxonomy
from trashseg_jax.errors import InputError
from trashseg_jax.report import charts, choice, confusions, inks, pictures, table
from trashseg_jax.report.files import write_text
from trashseg_jax.report.history import History, read_history, smooth
from trashseg_jax.report.render import render

LISTED = 200  # images that have a row, those that differ most first
# Of the runs' curves, on light and on dark pages; the first one is the page's own.
CURVES = (
    ("", ""),
    ("#c2410c", "#ff9a5c"),
    ("#177245", "#5cc98c"),
    ("#8b2fb8", "#c98cf0"),
    ("#8a6a00", "#e3c04a"),
    ("#0f7f8c", "#56c8d4"),
)


class Run(NamedTuple):
    """What a run, or one of its evaluations, has left in its folder."""

    name: str
    figures: dict[str, Any]
    images: confusions.Confusions
    history: History
    pictures: dict[int, pictures.Picture]  # by place
    options: dict[str, Any]  # by dotted key


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Reads runs that were scored on the same images; raises InputError for others."""
    if len(folders) < 2:
        raise InputError("only one run is named; name two or more to compare")
    if len(folders) > len(CURVES):
        raise InputError(f"{len(folders)} runs are named; compare at most {len(CURVES)} at once")
    runs = [_read_run(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]
    for folder, run in zip(folders[1:], runs[1:], strict=True):
        _check_same(folders[0], runs[0], folder, run)
    return runs


def _names(folders: Sequence[Path]) -> list[str]:
    """Returns the folders' names, with as many of those above as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-depth:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    raise InputError(f"{folders[0]}: appears twice; name each run once")


def _read_run(folder: Path, name: str) -> Run:
    for file in ("metrics.json", confusions.FILE):
        if not (folder / file).is_file():
            raise InputError(
                f"{folder / file}: does not exist; name the folder of a run or of one of its "
                "evaluations, and score a run of an older version again with --mode=evaluate"
            )
    figures = json.loads((folder / "metrics.json").read_text())
    images = confusions.load_confusions(folder / confusions.FILE)
    log = folder / "log.jsonl"
    if not log.exists() and folder.parent.name == "evaluations":
        log = folder.parent.parent / "log.jsonl"
    drawn = {one.place: one for one in pictures.load_pictures(folder / pictures.FILE)}
    return Run(name, figures, images, read_history(log), drawn, _read_options(folder))


def _read_options(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    kept = {k: v for k, v in content.items() if k not in ("derived", "identity", "recipes")}
    return dict(settings.flatten(kept))


def _check_same(first: Path, one: Run, folder: Path, other: Run) -> None:
    """Raises InputError where figures of the two cannot be set side by side."""
    said = {
        "data set": [run.figures["dataset"] for run in (one, other)],
        "split": [run.figures["split"] for run in (one, other)],
        "resolution": [run.figures["resolution"] for run in (one, other)],
        "classes": [", ".join(run.images.classes) for run in (one, other)],
        "number of images": [len(run.images.names) for run in (one, other)],
    }
    for what, (here, there) in said.items():
        if here != there:
            raise InputError(
                f"{folder}: its {what} is {there}, and that of {first} is {here}; score both alike"
            )
    if one.images.names != other.images.names:
        raise InputError(
            f"{folder}: was scored on other images than {first}, of the same number; score both on "
            "the same split"
        )


def write_comparison(path: Path, runs: Sequence[Run]) -> None:
    """Writes the page; differences are against the first run."""
    write_text(path, render("comparison.html", **describe(runs)))


def describe(runs: Sequence[Run]) -> dict[str, Any]:
    """Returns what the template shows."""
    first = runs[0]
    names, classes = [run.name for run in runs], first.images.classes
    means = np.stack([choice.mean_ious(run.images.per_image) for run in runs], 1)
    curves = draw_curves(runs)
    page = {
        "names": names,
        "figures": first.figures,
        "rows": [describe_run(run, first) for run in runs],
        "summary": table.SUMMARY,
        "classes": class_rows(runs),
        "colors": inks.hex_colors(taxonomy.shown_colors(taxonomy.palette(len(classes)))),
        "charts": curves,
        "options": different_options(runs),
        "changed": changed_images(first.images.names, means),
        "shots": shared_pictures(runs, means),
    }
    return {**page, "data": {"charts": {one.key: one.to_json() for one in curves}}}


def describe_run(run: Run, first: Run) -> dict[str, Any]:
    """Returns a run's row: figures, and what its mIoU is above the first one's, with interval."""
    before, after = first.images.per_image, run.images.per_image
    interval = None
    if run is not first:
        interval = metrics.difference_interval(before, after, resamples=metrics.RESAMPLES)
    # Both over the classes in the truth, so that the interval is of this very difference.
    change = None if interval is None else _mean_iou(after) - _mean_iou(before)
    return {
        "name": run.name,
        "weights": table.describe_weights(run.figures),
        "figures": run.figures,
        "change": change,
        "interval": interval,
        "sure": is_clear(interval),
    }


def _mean_iou(per_image: np.ndarray) -> float:
    total = per_image.sum(0, dtype=np.int64)
    return float(metrics.iou(total)[total.sum(1) > 0].mean())


def is_clear(interval: Sequence[float] | None) -> bool:
    """Whether all of an interval lies on one side of 0."""
    return interval is not None and (interval[0] > 0 or interval[1] < 0)


def class_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns each class's IoU in each run, with its difference from the first and the interval."""
    first = runs[0].images.per_image
    bounds = [
        metrics.iou_difference_intervals(first, run.images.per_image, resamples=metrics.RESAMPLES)
        for run in runs[1:]
    ]
    rows = []
    for i, name in enumerate(runs[0].images.classes):
        base = runs[0].figures["iou"][name]
        cells = []
        for run, found in zip(runs[1:], bounds, strict=True):
            iou = run.figures["iou"][name]
            interval = None if np.isnan(found[i]).any() else found[i].tolist()
            change = None if iou is None or base is None else iou - base
            sure = is_clear(interval)
            cells.append({"iou": iou, "change": change, "interval": interval, "sure": sure})
        rows.append({"name": name, "iou": base, "others": cells})
    return rows


def draw_curves(runs: Sequence[Run]) -> list[charts.Chart]:
    """Returns the charts in which the runs' curves lie over each other."""
    window = charts.WINDOW
    kinds: dict[str, tuple[str, Any, tuple[float, float] | None]] = {
        "miou": ("Validation mIoU", lambda one: one.miou, (0.0, 1.0)),
        "loss": (
            "Training loss, smoothed",
            lambda one: smooth(one.loss, window=window * len(one.loss.steps)),
            None,
        ),
        "eval_loss": ("Validation loss", lambda one: one.eval_loss, None),
        "rate": ("Learning rate", lambda one: one.learning_rate, None),
    }
    drawn = [
        charts.make_chart(
            key,
            title,
            [
                charts.Line(run.name, read(run.history), *colors)
                for run, colors in zip(runs, CURVES, strict=False)
            ],
            legend=True,
            bounds=bounds,
        )
        for key, (title, read, bounds) in kinds.items()
    ]
    return [one for one in drawn if one]


def different_options(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Returns by key the options that are not the same in all runs."""
    keys = dict.fromkeys(key for run in runs for key in run.options)
    values = {key: [run.options.get(key) for run in runs] for key in keys}
    return {key: one for key, one in values.items() if any(v != one[0] for v in one)}


def changed_images(names: Sequence[str], means: Float[np.ndarray, "n r"]) -> list[dict[str, Any]]:
    """Returns the images whose IoU differs most between runs, the largest difference first."""
    known = np.flatnonzero(~np.isnan(means).any(1))
    order = known[np.argsort(-np.ptp(means[known], 1), kind="stable")][:LISTED]
    return [
        {
            "place": int(i),
            "name": names[i],
            "ious": means[i].tolist(),
            "range": float(np.ptp(means[i])),
        }
        for i in order
    ]


def shared_pictures(runs: Sequence[Run], means: Float[np.ndarray, "n r"]) -> list[dict[str, Any]]:
    """Returns the pictures that all runs have, those whose IoU differs most first."""
    places = set.intersection(*(set(run.pictures) for run in runs))
    spans = {place: float(np.nan_to_num(np.ptp(means[place]))) for place in places}
    return [
        {
            "first": runs[0].pictures[place],
            "all": [
                {"name": run.name, "picture": run.pictures[place], "iou": _number(means[place, i])}
                for i, run in enumerate(runs)
            ],
        }
        for place in sorted(places, key=lambda place: (-spans[place], place))
    ]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
