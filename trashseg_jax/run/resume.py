"""What may differ between a run and the config that it is to go on with."""

import json
from pathlib import Path
from typing import Any

from trashseg_jax.errors import InputError
from trashseg_jax.run.checkpoint import has_checkpoint
from trashseg_jax.run.identity import check_identity
from trashseg_jax.settings import Config, flatten

Changes = dict[str, list[Any]]  # by key: before, now


def check_resume(config: Config, workdir: Path) -> None:
    """Raises InputError where the run in `workdir` cannot go on with another model or optimizer."""
    path = workdir / "config.json"
    if not path.exists() or not has_checkpoint(workdir / "checkpoints"):
        return
    check_identity(config, workdir)
    before, now = json.loads(path.read_text())["optimizer"]["name"], config.optimizer.name
    if before != now:
        raise InputError(
            f"{path}: this run cannot go on with another optimizer.name (was {before!r}, is "
            f"{now!r}); use --config=run:{workdir}, or another --workdir"
        )


def find_changes(config: Config, workdir: Path, derived: dict[str, Any]) -> Changes:
    """Returns what differs from the options, and from what the data led to, of the run there."""
    path = workdir / "config.json"
    if not path.exists():
        return {}
    before = dict(flatten(json.loads(path.read_text())))
    # Through json, which knows no tuples.
    content = json.loads(json.dumps({**config.to_dict(), "derived": derived}))
    now = dict(flatten(content))
    return {
        key: [before[key], now[key]]
        for key in sorted(before.keys() & now.keys())
        if before[key] != now[key] and not key.startswith("recipes.")
    }
