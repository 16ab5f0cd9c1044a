"""The command line: `python -m trashseg_jax.main --config=configs/reference.py`."""

import argparse
import datetime
import difflib
import gc
import sys
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from trashseg_jax import settings
from trashseg_jax.devices import processes
from trashseg_jax.devices.large_pages import restart_with_large_pages
from trashseg_jax.errors import InputError, Interrupted, RunError
from trashseg_jax.run.interrupts import raise_on_signals

CONFIGS = Path(__file__).parent / "configs"
CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment: NAME or NAME:DATASET of one that is shipped, or a file's path."
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's folder; one that holds a run goes on with it. Default: a new one."
)
MODEL = flags.DEFINE_multi_string(
    "model",
    [],
    "Of several, repeated, the probabilities are averaged: the folder of a run or of a model.",
)
MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate", "calibrate"], "What to do.")
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT at process 0, for a run of several processes."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many there are.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is, from 0 on.")
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Find those three from the launcher's environment (SLURM, for example)."
)
COMPILATION_CACHE = flags.DEFINE_bool(
    "compilation_cache",
    True,
    "Keep compiled programs for later runs, in $XDG_CACHE_HOME/trashseg_jax/programs or "
    "~/.cache/trashseg_jax/programs if you alone may write there, or in "
    "$JAX_COMPILATION_CACHE_DIR.",
)


def main(argv: list[str]) -> None:
    del argv  # holds flags alone: see run
    models, workdir_flag = choose_models()
    config: Any = read_config(workdir_flag)
    workdir = models[0] if models and not workdir_flag else choose_workdir(workdir_flag)
    # Imports and tracing make a million objects that stay: the default looks at them all the time.
    gc.set_threshold(50_000, 20, 20)
    join_processes(config, workdir)
    check_devices()
    # Imported late: --help and a wrong flag answer at once.
    from trashseg_jax.devices import program_cache
    from trashseg_jax.evaluate import evaluation_folder
    from trashseg_jax.report import table

    if COMPILATION_CACHE.value:
        program_cache.keep_programs()
    if MODE.value == "calibrate":
        fit_calibration(config, workdir)
        return
    figures = train_or_score(config, workdir, models)
    print(table.format_table(figures))
    folder = workdir
    if MODE.value == "evaluate":
        folder = evaluation_folder(workdir, figures, tag=config.eval.tag)
    names = ("metrics.json", "samples.png", "report.html", "log.jsonl")
    print(f"{folder}: {', '.join(name for name in names if (folder / name).exists())}")


def fit_calibration(config: ConfigDict, workdir: Path) -> None:
    """Fits a calibration to the run in `workdir`, and prints what it does."""
    from trashseg_jax import calibrate
    from trashseg_jax.refine import calibration
    from trashseg_jax.report import table

    report = calibrate.calibrate(config, workdir)
    print(table.format_calibration(report))
    names = (calibration.FILE, calibrate.STRENGTH_CURVES, calibrate.DIAGRAM)
    print(f"{workdir}: {', '.join(names)}")


def train_or_score(config: ConfigDict, workdir: Path, models: list[Path]) -> dict[str, Any]:
    """Does what --mode says, with the run in `workdir` or with `models`; returns the metrics."""
    if MODE.value == "train":
        from trashseg_jax import train

        return train.train(config, workdir)
    # Without `train`, which brings TensorBoard's writer and that, where there is one, PyTorch.
    from trashseg_jax import evaluate, scored_models

    if not models:
        return evaluate.evaluate(config, workdir)
    loaded = scored_models.load(models, config, overridden=overrides())
    described = scored_models.describe(loaded)
    processes.check_same(
        "--model", repr(described).encode(), remedy="all hosts must have the same models"
    )
    return evaluate.evaluate_models(config, workdir, models=[*loaded.values()], described=described)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; returns what is no flag. All that is wrong is an InputError."""
    try:
        argv = locate_config(argv)
        check_overrides(argv)
        return flags.FLAGS(argv)
    except (flags.Error, InputError) as error:
        # An InputError of a config file comes as the last line of a traceback.
        last_line = str(error).strip().splitlines()[-1]
        raise InputError(last_line.partition("InputError: ")[2] or str(error)) from error


def split_config(argv: list[str]) -> tuple[str | None, list[str]]:
    """Returns what --config names, in any of absl's spellings, and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", "-config")
    try:
        found, others = parser.parse_known_args(argv[1:])
    except argparse.ArgumentError as error:
        raise InputError("--config names nothing; pass --config=reference, for example") from error
    return found.config, others


def locate_config(argv: list[str]) -> list[str]:
    """Returns the arguments with the path of the file that --config names.

    It names a file, or one that is shipped, without a path (`focal`, `focal:aistage`). Raises
    InputError, the nearest name first, where it is neither.
    """
    given, others = split_config(argv)
    if given is None:
        return argv
    name, colon, argument = settings.expand_home(given).partition(":")
    if not Path(name).is_file():
        shipped = {path.stem: path for path in CONFIGS.glob("*.py") if is_experiment(path)}
        if name not in shipped:
            nearest = difflib.get_close_matches(Path(name).stem, shipped, len(shipped), 0)
            raise InputError(
                f"--config={given}: there is no file {name}; those that are shipped go by "
                f"their names alone: {', '.join(nearest)}"
            )
        name = str(shipped[name])
    return [argv[0], f"--config={name}{colon}{argument}", *others]


def is_experiment(path: Path) -> bool:
    return "def get_config(" in path.read_text()


def check_overrides(argv: list[str]) -> None:
    """Raises InputError, with the nearest key, for a `--config.KEY=` that the config lacks."""
    given, others = split_config(argv)
    if given is None:
        return
    config: Any = config_flags.ConfigFileFlagParser("config").parse(given)
    known = [key for key, _ in settings.flatten(config)]
    for argument in others:
        flag, _, rest = argument.partition("=")[0].lstrip("-").partition(".")
        if flag in ("config", "noconfig") and rest not in known:
            nearest = difflib.get_close_matches(rest, known, 1, 0)[0]
            raise InputError(
                f"--config.{rest}: there is no such key; the nearest is --config.{nearest} "
                f"({CONFIGS / 'default.py'} lists all)"
            )


def overrides() -> Collection[str]:
    """Returns the config's keys that a flag has set."""
    return config_flags.get_override_values(flags.FLAGS["config"])


def choose_models() -> tuple[list[Path], str | None]:
    """Returns the folders of --model that are scored as models, and --workdir.

    There are none where --model is one run's: its folder is the --workdir then.
    """
    folders, workdir = [Path(settings.expand_home(name)) for name in MODEL.value], WORKDIR.value
    if not folders:
        return [], workdir
    if MODE.value != "evaluate":
        raise InputError(
            "--model: belongs to --mode=evaluate; to begin a run with a model's weights pass "
            "--config.model.init=FOLDER, and to calibrate a run --workdir=RUN"
        )
    from trashseg_jax import scored_models  # imports jax
    from trashseg_jax.model_description import holds_model

    scored_models.check_named_once("model", folders)
    are_models = [holds_model(folder) for folder in folders]
    if are_models == [False]:
        if workdir is not None and Path(settings.expand_home(workdir)) != folders[0]:
            raise InputError(
                f"--model={folders[0]}: is a run, whose evaluations are kept in it; leave out "
                f"--workdir={workdir}"
            )
        return [], str(folders[0])
    if CONFIG.value is None:
        raise InputError(
            "--config is missing; it says on which data models are scored: "
            "--config=NAME:DATASET --config.data.dir=FOLDER, or --config=run:RUN"
        )
    if len(folders) > 1 and workdir is None:
        raise InputError("--workdir is missing; name a folder for the figures of several models")
    return folders, workdir


def read_config(workdir: str | None = None) -> ConfigDict:
    """Returns --config with its overrides; where nothing is trained without it, the run's own."""
    from trashseg_jax.configs import ranges, run

    config: Any = CONFIG.value
    if config is not None:
        settings.resolve_config(config, overridden=overrides())
    elif MODE.value == "train" or workdir is None:
        raise InputError("--config is missing; pass --config=reference, for example")
    else:
        config = run.get_config(workdir)
    ranges.check(config)
    ranges.expand_paths(config)
    return config


def choose_workdir(given: str | None) -> Path:
    """Returns --workdir, or a new name under runs/ made of the config's name and the time."""
    if given is not None:
        return Path(settings.expand_home(given))
    if DISTRIBUTED.value or COORDINATOR.value is not None:
        raise InputError(
            "--workdir is missing; several processes need the same one, on a file system that "
            "they share"
        )
    if MODE.value != "train":
        also = ", or --model=FOLDER" if MODE.value == "evaluate" else ""
        raise InputError(f"--workdir is missing; pass the folder of the run to {MODE.value}{also}")
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).name.partition(".py")[0]
    return Path("runs") / f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def join_processes(config: ConfigDict, workdir: Path) -> None:
    """Joins the other processes, if the flags name any; raises InputError where they disagree."""
    which = {
        "coordinator": COORDINATOR.value,
        "num_processes": NUM_PROCESSES.value,
        "process_id": PROCESS_ID.value,
        "detect": DISTRIBUTED.value,
    }
    processes.check_flags(**which)
    processes.join(**which)
    flags_differ = "start all with the same flags"
    processes.check_same("--config", config.to_json().encode(), remedy=flags_differ)
    processes.check_same("--workdir", str(workdir).encode(), remedy=flags_differ)
    found = sorted(path.name for path in workdir.glob("checkpoints/*"))
    processes.check_same(
        f"{workdir / 'checkpoints'}",
        repr(found).encode(),
        remedy="all hosts must share that folder",
    )


def check_devices() -> None:
    """Raises InputError where JAX has no device to use; before anything is prepared."""
    from trashseg_jax.devices import sharding

    sharding.describe_devices()


def run(command: Callable[[list[str]], Any], parse: Callable[[list[str]], list[str]]) -> None:
    """Runs a command line; what it expects to go wrong is one line and an exit code of its own."""

    def run_command(argv: list[str]) -> Any:
        if len(argv) > 1:
            raise InputError(f"argument {argv[1]!r}: not understood; options begin with --")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # the libraries' chatter otherwise
        return command(argv)

    raise_on_signals()
    try:
        app.run(run_command, flags_parser=parse)
    except Interrupted as error:
        print(error, file=sys.stderr)
        processes.leave(error.exit_code)
    except (InputError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        processes.leave(2 if isinstance(error, InputError) else 3)
    except Exception:
        traceback.print_exc()
        processes.leave(1)


if __name__ == "__main__":
    restart_with_large_pages()
    run(main, parse_flags)
