"""Runs the six experiments over several seeds and sets their table beside the reference's.

    python scripts/reproduce_table.py --dataset=demo --seeds=3
    python scripts/reproduce_table.py --dataset=aistage --data_dir=FOLDER --seeds=3

Each training has its own folder under --out: started again, the script goes on where it was
interrupted. The sixth experiment is the third one's network with a CRF behind it, so it is an
evaluation of that run and no training of its own. What follows a lone `--` goes to every run:
`-- --config.data.image_size=128`. Writes table.md, table.html and table.json into --out.
"""

import argparse
import html
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trashseg_jax import settings
from trashseg_jax.report.files import write_text

ROOT = Path(__file__).resolve().parent.parent


class Experiment(NamedTuple):
    """A row of the reference's table: its config, and whether its CRF figures are meant."""

    title: str
    config: str
    refined: bool
    reference: tuple[float, ...]  # IoU of the eleven classes, published


CLASSES = (
    *("Background", "General trash", "Paper", "Paper pack", "Metal", "Glass", "Plastic"),
    *("Styrofoam", "Plastic bag", "Battery", "Clothing"),
)
# fmt: off
EXPERIMENTS = (
    Experiment("reference U-Net", "reference", False,
        (.9472, .3215, .6834, .2977, .2478, .4147, .3806, .5683, .7865, 0, .2970)),
    Experiment("focal", "focal", False,
        (.9411, .3232, .6823, .3066, .2617, .4105, .3398, .5991, .7805, 0, .3476)),
    Experiment("focal, balanced alpha", "focal_balanced", False,
        (.9321, .3059, .6511, .2650, .2548, .3026, .3004, .5791, .7449, .6648, .2286)),
    Experiment("dilated", "dilated", False,
        (.9413, .3164, .6711, .1828, .3001, .3042, .3140, .6276, .7797, 0, .2567)),
    Experiment("dilated, focal", "dilated_focal", False,
        (.9108, .2568, .5211, .1715, .2372, .3014, .2004, .3829, .6843, .4051, .2373)),
    Experiment("CRF, focal, balanced alpha", "focal_balanced", True,
        (.8933, .2986, .5106, .2364, .1952, .3568, .2525, .5125, .6614, .2326, .1018)),
)
# fmt: on
DATA_NOTES = {
    "demo": "rendered scenes, a small network and a short run: only directions can be compared.",
    "aistage": "the reference trained on 2,617 and scored on 655 images of the competition.",
    "taco": "other photographs; sixty categories mapped onto the eleven classes.",
    "coco": "a data set of your own.",
}


class Score(NamedTuple):
    """Mean, sample standard deviation and number of the seeds that define a figure."""

    mean: float
    spread: float
    count: int


def main() -> None:
    options, extra = parse_arguments(sys.argv[1:])
    out = Path(settings.expand_home(options.out or f"runs/table-{options.dataset}"))
    figures = {experiment: [] for experiment in EXPERIMENTS}
    for seed in range(options.seeds):
        for experiment in EXPERIMENTS:
            workdir = out / f"{experiment.config}-seed{seed}"
            config = f"--config=configs/{experiment.config}.py:{options.dataset}"
            flags = [config, *run_flags(options, seed), *extra]
            figures[experiment].append(run_experiment(experiment, workdir, flags))
    write_tables(out, figures, dataset=options.dataset)
    print((out / "table.md").read_text())


def parse_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the script's options, and what comes after `--`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", choices=DATA_NOTES, default="demo")
    parser.add_argument("--data_dir", help="the folder of aistage, taco or coco")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="training steps in place of the config's")
    parser.add_argument("--out", help="the runs' folder; default runs/table-DATASET")
    at = list(arguments).index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:at])
    if options.seeds < 1:
        parser.error(f"--seeds={options.seeds}: must be at least 1")
    if options.dataset != "demo" and not options.data_dir:
        parser.error(f"--dataset={options.dataset} needs --data_dir=FOLDER")
    return options, list(arguments[at + 1 :])


def run_flags(options: argparse.Namespace, seed: int) -> list[str]:
    flags = [f"--config.seed={seed}"]
    if options.data_dir:
        flags.append(f"--config.data.dir={options.data_dir}")
    if options.steps:
        flags.append(f"--config.train.steps={options.steps}")
    return flags


def run_experiment(experiment: Experiment, workdir: Path, flags: list[str]) -> dict[str, Any]:
    """Trains, or scores with the CRF, unless that is done already; returns the row's figures."""
    metrics = workdir / "metrics.json"
    key = "crf" if experiment.refined else "iou"
    if not metrics.exists() or key not in json.loads(metrics.read_text()):
        mode = ["--mode=evaluate", "--config.crf.enabled=True"] if experiment.refined else []
        command = [sys.executable, "-m", "trashseg_jax.main", f"--workdir={workdir.resolve()}"]
        subprocess.run([*command, *flags, *mode], cwd=ROOT, check=True)
    figures = json.loads(metrics.read_text())
    return figures["crf"] if experiment.refined else figures


# The figures.

Column = dict[str, Score | None]


def score(values: Sequence[float | None]) -> Score | None:
    """Returns the statistics of the defined values, None where there is none."""
    defined = [value for value in values if value is not None]
    if not defined:
        return None
    spread = statistics.stdev(defined) if len(defined) > 1 else 0.0
    return Score(statistics.mean(defined), spread, len(defined))


def rarest_class(figures: dict[str, Any]) -> str:
    """Returns the class with the smallest share of the true pixels."""
    share = figures["pixel_share"]
    return min(share, key=share.get)


def mean_without(iou: dict[str, float | None], name: str) -> float | None:
    """Returns the mean IoU over the defined classes other than `name`."""
    values = [value for key, value in iou.items() if key != name and value is not None]
    return statistics.mean(values) if values else None


def measured_column(seeds: Sequence[dict[str, Any]], rarest: str) -> Column:
    """Returns scores by row name: the classes, mIoU, mIoU without the rarest class."""
    rows = {name: score([f["iou"][name] for f in seeds]) for name in seeds[0]["iou"]}
    rows["mIoU"] = score([f["miou"] for f in seeds])
    rows[f"mIoU without {rarest}"] = score([mean_without(f["iou"], rarest) for f in seeds])
    return rows


def reference_column(experiment: Experiment, rarest: str) -> dict[str, float | None]:
    """Returns the published scores under the same row names."""
    iou: dict[str, float | None] = dict(zip(CLASSES, experiment.reference, strict=True))
    mean = statistics.mean(experiment.reference)
    return {**iou, "mIoU": mean, f"mIoU without {rarest}": mean_without(iou, rarest)}


def move(after: Score | None, before: Score | None) -> tuple[float, bool] | None:
    """Returns the difference of two means, and whether it exceeds twice its standard error.

    One seed alone has no spread: then nothing can be said to exceed it.
    """
    if after is None or before is None:
        return None
    error = math.hypot(
        after.spread / math.sqrt(after.count), before.spread / math.sqrt(before.count)
    )
    difference = after.mean - before.mean
    known = after.count > 1 and before.count > 1
    return difference, known and abs(difference) > 2 * error


def findings(columns: dict[Experiment, Column]) -> list[str]:
    """Says for each experiment which rows moved against the first, and which by more than noise."""
    (_, base), *others = columns.items()
    lines = []
    for experiment, rows in others:
        moves = {name: move(rows[name], base[name]) for name in base}
        clear = [f"{n} {m[0]:+.3f}" for n, m in moves.items() if m and m[1]]
        vague = [f"{n} {m[0]:+.3f}" for n, m in moves.items() if m and not m[1] and m[0]]
        lines.append(
            f"{experiment.title}: beyond the spread over seeds {', '.join(clear) or 'nothing'}; "
            f"within it {', '.join(vague) or 'nothing'}."
        )
    return lines


def interval_note(figures: dict[Experiment, list[dict[str, Any]]]) -> str:
    """Says between what mIoUs 95 % of the resamples of the scored images lie."""
    ranges = []
    for experiment, seeds in figures.items():
        low, high = (statistics.mean(f["miou_interval"][i] for f in seeds) for i in (0, 1))
        ranges.append(f"{experiment.title} {low:.3f} to {high:.3f}")
    count = next(iter(figures.values()))[0]["num_images"]
    return (
        f"mIoU of 95 % of the resamples of the {count} images, mean of the seeds: "
        f"{'; '.join(ranges)}."
    )


# The files.


def write_tables(
    out: Path, figures: dict[Experiment, list[dict[str, Any]]], *, dataset: str
) -> None:
    """Writes table.md, table.html and table.json from each experiment's figures by seed."""
    rarest = rarest_class(next(iter(figures.values()))[0])
    columns = {e: measured_column(seeds, rarest) for e, seeds in figures.items()}
    header = ["class"]
    for experiment in columns:
        header += [experiment.title, "published"]
    rows = [header]
    for name in next(iter(columns.values())):
        row = [name]
        for experiment, measured in columns.items():
            published = reference_column(experiment, rarest).get(name)
            row += [format_score(measured[name]), format_published(published)]
        rows.append(row)
    seeds = len(next(iter(figures.values())))
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
    notes = [
        f"Data: {dataset}, {spread}. {DATA_NOTES[dataset]}",
        f"Against {next(iter(columns)).title}, a move counts beyond twice its standard error.",
        *findings(columns),
        interval_note(figures),
    ]
    content = {
        e.title: {
            "measured": {name: s and s._asdict() for name, s in column.items()},
            "published": reference_column(e, rarest),
            "seeds": figures[e],
        }
        for e, column in columns.items()
    }
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "table.md", markdown(rows, notes))
    write_text(out / "table.html", page(rows, notes))
    write_text(out / "table.json", json.dumps(content, indent=2) + "\n")


def format_score(value: Score | None) -> str:
    if value is None:
        return "absent"
    return f"{value.mean:.4f}" + (f" ± {value.spread:.4f}" if value.count > 1 else "")


def format_published(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def markdown(rows: list[list[str]], notes: list[str]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join([*lines, "", *(f"{note}\n" for note in notes)])


def page(rows: list[list[str]], notes: list[str]) -> str:
    table = "".join(
        "<tr>" + "".join(f"<{tag}>{html.escape(cell)}" for cell in row)
        for tag, row in zip(["th", *["td"] * (len(rows) - 1)], rows, strict=True)
    )
    text = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    style = "body{font:15px sans-serif;margin:2em}td,th{padding:.15em .6em;text-align:left}"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Six experiments</title>'
        f"<style>{style}</style><h1>Six experiments</h1><table>{table}</table>{text}</html>\n"
    )


if __name__ == "__main__":
    main()
