"""The config of an earlier run, to be changed by flags: --config=configs/run.py:runs/small."""

from pathlib import Path

from trashseg_jax import settings
from trashseg_jax.configs import default


def get_config(workdir: str):
    return settings.read_config(Path(workdir), defaults=_defaults)


def _defaults(name: str):
    """A flag may have given the data set any name."""
    return default.get_config(name if name in default.DATASETS else "coco")
