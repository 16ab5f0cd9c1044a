"""The photographs of the subject `input`, for both sides. Imports neither JAX nor TensorFlow."""

import getpass
import tempfile
from pathlib import Path

from bench.options import Options
from trashseg_jax.data.demo.scenes import render_demo

# A repetition's. What a loader has ready when its turn begins is a few batches: little beside it.
IMAGES = 1024
CACHE = Path(tempfile.gettempdir()) / f"trashseg_jax-bench-{getpass.getuser()}"


def folder(options: Options) -> Path:
    """Returns `data_dir`, a COCO folder with train.json and val.json, or scenes rendered once."""
    if options.data_dir:
        return options.data_dir
    path = CACHE / f"scenes-{options.size}"
    render_demo(path, seed=0, num_train=100, num_val=11, size=options.size)
    return path


def batches_a_repetition(options: Options) -> int:
    return -(-IMAGES // options.batch)
