"""What may differ between a run and the config that it is to go on with."""

import json
from pathlib import Path
from typing import Any

from trashseg_jax.errors import InputError
from trashseg_jax.settings import Config, flatten

# What gives the checkpoint's arrays their meaning, even where their shapes would fit.
FIXED = ("model.", "optimizer.name", "data.class_map", "data.normalize")
FREE = ("model.pretrained", "model.pretrained_prefix", "model.init")  # only a new run reads them

Changes = dict[str, list[Any]]  # by key: before, now


def check_resume(config: Config, workdir: Path, derived: dict[str, Any]) -> Changes:
    """Returns what differs from the run in `workdir`; raises InputError where it must not."""
    path = workdir / "config.json"
    if not path.exists():
        return {}
    before = dict(flatten(json.loads(path.read_text())))
    # Through json, which knows no tuples.
    content = json.loads(json.dumps({**config.to_dict(), "derived": derived}))
    now = dict(flatten(content))
    changes = {
        key: [before[key], now[key]]
        for key in before.keys() & now.keys()
        if before[key] != now[key] and not key.startswith("recipes.")
    }
    refused = sorted(key for key in changes if key.startswith(FIXED) and key not in FREE)
    if refused:
        said = "; ".join(
            f"{key} was {changes[key][0]!r}, is {changes[key][1]!r}" for key in refused
        )
        raise InputError(
            f"{path}: this run cannot go on with another {refused[0]} ({said}); use "
            f"--config=configs/run.py:{workdir}, or another --workdir"
        )
    return dict(sorted(changes.items()))
