"""The config of an earlier run, to be changed by flags: --config=configs/run.py:runs/small."""

from pathlib import Path

from trashseg_jax import settings
from trashseg_jax.configs import default


def get_config(workdir: str):
    folder = Path(settings.expand_home(workdir))
    return settings.read_config(folder, defaults=default.get_config)
