"""Runs a suite of experiments over several seeds into one table.

    python scripts/reproduce_table.py --dataset=demo --seeds=3
    python scripts/reproduce_table.py --dataset=aistage --data_dir=FOLDER --seeds=3
    python scripts/reproduce_table.py --suite=ablation --dataset=aistage --data_dir=FOLDER

`six`, the suite that runs by default, is the reference's table, which is set beside it. `best` is
the recipe for two CPU cores, beside the reference's recipe on the same encoder; `ablation` is that
recipe with one thing left out, or put in, at a time.

Each training has its own folder under --out: started again, the script goes on where it was
interrupted. A run that it finds there and that was made with other settings is refused, or, with
--retrain, moved aside and trained anew: no mean is over runs of different settings. The sixth
experiment is the third one's network with a CRF behind it, so it is an evaluation of that run and
no training of its own. What follows a lone `--` goes to every run:
`-- --config.data.image_size=128`. Writes table.md, table.html and table.json into --out.
"""

import argparse
import html
import json
import math
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags as absl_flags
from ml_collections.config_flags import config_flags

from trashseg_jax import main as command_line
from trashseg_jax import settings
from trashseg_jax.configs import run as stored_run
from trashseg_jax.data.taxonomy import CLASSES
from trashseg_jax.errors import InputError
from trashseg_jax.report import reference
from trashseg_jax.report.files import write_text
from trashseg_jax.settings import Config

ROOT = Path(__file__).resolve().parent.parent


class Experiment(NamedTuple):
    """A column of the table: its config, and whether its CRF figures are meant."""

    title: str
    config: str
    refined: bool
    reference: tuple[float, ...] = ()  # IoU of the eleven classes, where they are published
    flags: tuple[str, ...] = ()  # what it changes in the config
    folder: str = ""  # of its runs, where the config does not name it


def vary(title: str, *flags: str) -> Experiment:
    """Returns the recipe `best_cpu` with the flags' changes."""
    return Experiment(title, "best_cpu", False, flags=flags, folder=title.replace(" ", "-"))


EXPERIMENTS = tuple(
    Experiment(title, config, refined, reference.IOU[title])
    for title, config, refined in (
        ("reference U-Net", "reference", False),
        ("focal", "focal", False),
        ("focal, balanced alpha", "focal_balanced", False),
        ("dilated", "dilated", False),
        ("dilated, focal", "dilated_focal", False),
        ("CRF, focal, balanced alpha", "focal_balanced", True),
    )
)
BEST = Experiment("best_cpu", "best_cpu", False)
SAME_ENCODER = (
    "--config.model.encoder=efficientnet_lite0",
    "--config.model.pretrained=package:efficientnet-lite0",
    "--config.data.normalize=inception",
    "--config.data.image_size=256",
    "--config.model.dtype=float32",
)
SUITES = {
    "six": EXPERIMENTS,
    "best": (
        Experiment(
            "reference's recipe, Lite0",
            "reference",
            False,
            flags=("--config.recipe=reference", *SAME_ENCODER),
            folder="reference-lite0",
        ),
        BEST,
    ),
    "ablation": (
        BEST,
        vary(
            "without ImageNet's weights",
            "--config.model.pretrained=",
            "--config.optimizer.encoder_rate=1.0",
        ),
        vary("without a rate of the encoder's own", "--config.optimizer.encoder_rate=1.0"),
        vary("without Dice", "--config.loss.region=none"),
        vary("with copy-paste", "--config.data.paste.probability=0.5"),
        vary("without object crops", "--config.data.augment.object_crops=0.0"),
        vary("without repeated images", "--config.data.sampling.name=uniform"),
        vary("without rotation", "--config.data.augment.rotation=0.0"),
        vary("without rising size", "--config.train.image_scales=(1.0,)"),
        vary("without average of weights", "--config.train.ema_decay=0.0"),
    ),
}
DATA_NOTES = {
    "demo": "rendered scenes, a small network and a short run: only directions can be compared.",
    "aistage": "the reference trained on 2,617 and scored on 655 images of the competition.",
    "taco": "other photographs; sixty categories mapped onto the eleven classes.",
    "coco": "a data set of your own.",
    "masks": "a data set of your own.",
}


# What no figure depends on: where things are kept, what is written on the way, what only waits,
# and whether there are figures after a CRF besides.
WITHOUT_EFFECT = (
    *("data.cache_dir", "train.log_every", "train.checkpoint_every", "train.keep_checkpoints"),
    *("crf.workers", "crf.timeout", "crf.enabled", "eval.tag"),
    # Calibrated figures are told by themselves: see find_figures.
    *(f"calibration.{key}" for key in ("method", "split", "images", "undo_focal", "pixels")),
    "eval.calibration",
)
SHOWN = 4  # differences that an error names


class Score(NamedTuple):
    """Mean, sample standard deviation and number of the seeds that define a figure."""

    mean: float
    spread: float
    count: int


def main() -> None:
    options, extra = parse_arguments(sys.argv[1:])
    try:
        make_table(options, extra)
    except InputError as error:
        sys.exit(f"error: {error}")


def make_table(options: argparse.Namespace, extra: list[str]) -> None:
    """Runs what has not been run yet, and writes the table."""
    suffix = "" if options.suite == "six" else f"-{options.suite}"
    default = f"runs/table-{options.dataset}{suffix}"
    out = Path(settings.expand_home(options.out or default))
    experiments = SUITES[options.suite]
    runs = [
        (e, out / f"{e.folder or e.config}-seed{seed}", [*run_flags(options, e, seed), *extra])
        for seed in range(options.seeds)
        for e in experiments
    ]
    set_others_aside({workdir: flags for _, workdir, flags in runs}, retrain=options.retrain)
    figures = {experiment: [] for experiment in experiments}
    for experiment, workdir, flags in runs:
        figures[experiment].append(run_experiment(experiment, workdir, flags))
    write_tables(out, figures, dataset=options.dataset)
    print((out / "table.md").read_text())


def parse_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Returns the script's options, and what comes after `--`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--suite", choices=SUITES, default="six")
    parser.add_argument("--dataset", choices=DATA_NOTES, default="demo")
    parser.add_argument("--data_dir", help="the folder of aistage, taco, coco or masks")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="training steps in place of the config's")
    parser.add_argument("--out", help="the runs' folder; default runs/table-DATASET")
    parser.add_argument(
        "--retrain", action="store_true", help="train runs anew that were made with other settings"
    )
    at = list(arguments).index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:at])
    if options.seeds < 1:
        parser.error(f"--seeds={options.seeds}: must be at least 1")
    if options.dataset != "demo" and not options.data_dir:
        parser.error(f"--dataset={options.dataset} needs --data_dir=FOLDER")
    return options, list(arguments[at + 1 :])


def run_flags(options: argparse.Namespace, experiment: Experiment, seed: int) -> list[str]:
    flags = [f"--config={ROOT}/configs/{experiment.config}.py:{options.dataset}"]
    flags.append(f"--config.seed={seed}")
    if options.data_dir:
        flags.append(f"--config.data.dir={Path(options.data_dir).expanduser().resolve()}")
    if options.steps:
        flags.append(f"--config.train.steps={options.steps}")
    return [*flags, *experiment.flags]


# The runs that are there already.


def set_others_aside(flags_of: dict[Path, list[str]], *, retrain: bool) -> None:
    """Renames runs that were made with other settings than their flags say.

    Raises InputError, and touches nothing, unless `retrain` asks for that.
    """
    found = {workdir: differences(workdir, flags) for workdir, flags in flags_of.items()}
    others = {workdir: lines for workdir, lines in found.items() if lines}
    if others and not retrain:
        workdir, lines = next(iter(others.items()))
        more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        also = f" (and {len(others) - 1} other runs)" if len(others) > 1 else ""
        raise InputError(
            f"{workdir}{also}: made with other settings ({'; '.join(lines[:SHOWN])}{more}); name "
            "another folder with --out, or pass --retrain to move it aside and train it anew"
        )
    for workdir in others:
        aside = workdir.with_name(f"replaced-{workdir.name}")
        while aside.exists():
            aside = aside.with_name(f"{aside.name}-again")
        workdir.rename(aside)
        print(f"{workdir}: made with other settings, moved to {aside.name}")


def differences(workdir: Path, flags: list[str]) -> list[str]:
    """Returns a line for each setting that the run in `workdir`, if any, does not share."""
    if not workdir.is_dir() or not any(entry.name != "run.lock" for entry in workdir.iterdir()):
        return []
    if not (workdir / "config.json").exists():
        # A run writes it before its first step.
        traces = ("metrics.json", "checkpoints")
        return ["it has no config.json"] if any((workdir / t).exists() for t in traces) else []
    before = comparable(stored_run.get_config(str(workdir)))
    now = comparable(config_of(flags))
    return [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]


def config_of(flags: list[str]) -> Config:
    """Returns the config that `trashseg_jax.main` makes of these flags."""
    values, arguments = absl_flags.FlagValues(), ["reproduce_table", *flags]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)
    try:
        command_line.check_overrides(arguments)
        values(arguments, known_only=True)
        config = values["config"].value
        settings.resolve_config(
            config, overridden=config_flags.get_override_values(values["config"])
        )
    except absl_flags.Error as error:
        # An InputError of a config file comes as the last line of a traceback.
        last_line = str(error).strip().splitlines()[-1]
        raise InputError(last_line.rpartition("InputError: ")[2]) from error
    return config


def comparable(config: Config) -> dict[str, Any]:
    """Returns by dotted key what figures depend on; a folder of data by its whole path."""
    leaves = {
        key: value
        for key, value in settings.flatten(config)
        if not key.startswith("recipes.") and key not in WITHOUT_EFFECT
    }
    if leaves["data.dir"]:
        leaves["data.dir"] = str((ROOT / Path(leaves["data.dir"]).expanduser()).resolve())
    return leaves


def run_experiment(experiment: Experiment, workdir: Path, flags: list[str]) -> dict[str, Any]:
    """Trains, or scores with the CRF, unless that is done already; returns the row's figures."""
    key = "crf" if experiment.refined else "iou"
    figures = find_figures(workdir, flags, key=key)
    if figures is None:
        scored = ["--mode=evaluate", "--config.crf.enabled=True", "--config.eval.calibration=False"]
        mode = scored if experiment.refined else []
        command = [sys.executable, "-m", "trashseg_jax.main", f"--workdir={workdir.resolve()}"]
        run_to_the_end([*command, *flags, *mode])
        figures = find_figures(workdir, flags, key=key)
    if figures is None:
        raise InputError(f"{workdir}: the run has ended without the figures of its last step")
    return figures["crf"] if experiment.refined else figures


def find_figures(workdir: Path, flags: list[str], *, key: str) -> dict[str, Any] | None:
    """Returns figures of the run's end with these settings that have `key`, if there are any.

    In its own folder, and in those of later evaluations.
    """
    config = config_of(flags)
    saved = [int(p.name) for p in workdir.glob("checkpoints/*") if p.name.isdecimal()]
    # The run's may be of a shorter training in this folder, a longer one of which was killed.
    last = max([config.train.steps, *saved])
    for path in (workdir / "metrics.json", *sorted(workdir.glob("evaluations/*/metrics.json"))):
        figures = json.loads(path.read_text()) if path.exists() else {}
        same = figures.get("split") == config.eval.split and not differences(path.parent, flags)
        same &= "calibration" not in figures
        if same and key in figures and figures["step"] >= last:
            return figures
    return None


def run_to_the_end(command: list[str]) -> None:
    """Runs a command; ends as it does where it fails or is interrupted, which it says itself."""
    with subprocess.Popen(command, cwd=ROOT) as process:
        while True:
            try:
                code = process.wait()
                break
            except KeyboardInterrupt:  # the run has it too, and saves
                continue
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    if code:
        sys.exit(code)


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
    """Returns scores by row name: the classes, mIoU, without the rarest class, of boundaries."""
    rows = {name: score([f["iou"][name] for f in seeds]) for name in seeds[0]["iou"]}
    rows["mIoU"] = score([f["miou"] for f in seeds])
    rows[f"mIoU without {rarest}"] = score([mean_without(f["iou"], rarest) for f in seeds])
    # Runs of earlier versions have none.
    rows["boundary mIoU"] = score([f.get("boundary_miou") for f in seeds])
    return rows


def reference_column(experiment: Experiment, rarest: str) -> dict[str, float | None]:
    """Returns the published scores under the same row names, {} where there are none."""
    if not experiment.reference:
        return {}
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
        header += [experiment.title, "published"] if experiment.reference else [experiment.title]
    rows = [header]
    for name in next(iter(columns.values())):
        row = [name]
        for experiment, measured in columns.items():
            row.append(format_score(measured[name]))
            if experiment.reference:
                row.append(format_published(reference_column(experiment, rarest).get(name)))
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
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Experiments</title>'
        f"<style>{style}</style><h1>Experiments</h1><table>{table}</table>{text}</html>\n"
    )


if __name__ == "__main__":
    main()
