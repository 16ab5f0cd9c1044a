"""What it takes to make a run's figures again: options, versions, commit, commands."""

import datetime
import platform
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from trashseg_jax import settings
from trashseg_jax.configs import default
from trashseg_jax.devices import sharding
from trashseg_jax.model_folder import installed_version
from trashseg_jax.report.origin import Difference, Origin
from trashseg_jax.settings import Config

LIBRARIES = ("trashseg_jax", "jax", "jaxlib", "flax", "optax", "numpy")
MAIN = "python -m trashseg_jax.main"


def describe_origin(
    config: Config, *, workdir: Path | None, params: Any, derived: Mapping[str, Any]
) -> Origin:
    """Returns where the figures of the run in `workdir` come from; None: not of a run."""
    options = differences(config)
    return Origin(
        date=f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        commit=find_commit(Path(__file__).parent.parent),
        device=sharding.describe_devices(),
        versions={
            **{name: installed_version(name) for name in LIBRARIES},
            "Python": platform.python_version(),
        },
        num_parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        options=options,
        commands={} if workdir is None else commands(config, options, workdir=workdir),
        derived=derived,
    )


def differences(config: Config) -> list[Difference]:
    """Returns the options that are not those of the run's data set and recipe, in their order."""
    base: Any = default.get_config(config.data.name)
    base.recipe = config.recipe
    settings.resolve_config(base, overridden=())
    defaults = dict(settings.flatten(base))
    return [
        Difference(key, defaults.get(key), value)
        for key, value in settings.flatten(config)
        if not key.startswith("recipes.") and key != "recipe" and value != defaults.get(key)
    ]


def commands(config: Config, options: list[Difference], *, workdir: Path) -> dict[str, str]:
    """Returns by what they do the commands that train the run again, and that score it again."""
    given = [Difference("recipe", None, config.recipe), *options]
    flags = [f"--config=default:{config.data.name}"]
    flags += [f"--config.{one.key}={one.value}" for one in given]
    again = workdir.with_name(f"{workdir.name}-again")
    scored = [f"--workdir={workdir}", f"--config.eval.split={config.eval.split}"]
    return {
        "Train it again": _command([f"--workdir={again}", *flags]),
        "Score it again": _command(["--mode=evaluate", *scored]),
    }


def _command(flags: list[str]) -> str:
    return " \\\n    ".join([MAIN, *map(shlex.quote, flags)])


def find_commit(folder: Path) -> str | None:
    """Returns the commit of a checkout, and whether files differ from it; None if it is none."""
    if not (folder / ".git").exists():
        return None
    head = _git(folder, "rev-parse", "--short=12", "HEAD")
    if head is None:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return head if changed == "" else f"{head}, with changes"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True)
    except OSError:  # no git here
        return None
    return done.stdout.strip() if done.returncode == 0 else None
