"""The config of an earlier run, to be changed by flags: --config=configs/run.py:runs/small."""

from pathlib import Path

from trashseg_jax import build


def get_config(workdir: str):
    return build.read_config(Path(workdir))
