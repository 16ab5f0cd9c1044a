"""The config of an earlier run, to be changed by flags: --config=run:runs/small."""

from pathlib import Path

from trashseg_jax import settings
from trashseg_jax.configs import default
from trashseg_jax.errors import InputError


def get_config(workdir: str = ""):
    if not workdir:
        raise InputError("--config=run: names no run; pass --config=run:FOLDER")
    folder = Path(settings.expand_home(workdir))
    return settings.read_config(folder, defaults=default.get_config)
