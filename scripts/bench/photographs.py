"""The photographs of `input` and `predict`, for both sides. Imports neither JAX nor TensorFlow."""

import getpass
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from bench.options import Options
from trashseg_jax.data.demo.scenes import render_demo

# A repetition's. What a loader has ready when its turn begins is a few batches: little beside it.
IMAGES = 1024
SQUARE, PHONE = (512, 512), (1600, 1200)  # width, height of photographs that are predicted
CACHE = Path(tempfile.gettempdir()) / f"trashseg_jax-bench-{getpass.getuser()}"


def folder(options: Options) -> Path:
    """Returns `data_dir`, a COCO folder with train.json and val.json, or scenes rendered once."""
    if options.data_dir:
        return options.data_dir
    path = CACHE / f"scenes-{options.size}"
    render_demo(path, seed=0, num_train=100, num_val=11, size=options.size)
    return path


def files(options: Options, size: tuple[int, int]) -> Path:
    """Returns a folder of 4 batches of JPEG files, `size` (width, height), made once.

    They are the scenes' first ones, scaled to the width and cut off below, with the noise of a
    sensor: without it a large file would be decoded faster than a camera's.
    """
    width, height = size
    path = CACHE / f"photographs-{width}x{height}-{4 * options.batch}"
    scenes = CACHE / "scenes-512"
    render_demo(scenes, seed=0, num_train=100, num_val=11, size=512)
    path.mkdir(parents=True, exist_ok=True)
    sources = sorted(scenes.glob("batch_01/*.jpg"))
    rng = np.random.default_rng(0)
    for i in range(4 * options.batch):
        if (path / f"{i:04}.jpg").exists():
            continue
        with Image.open(sources[i % len(sources)]) as scene:
            large = scene.resize((width, width), Image.Resampling.BICUBIC).crop((0, 0, *size))
        noisy = np.asarray(large) + rng.normal(0, 3, (height, width, 1))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path / f"{i:04}.jpg", quality=90)
    return path


def predicted(side: str, size: tuple[int, int]) -> Path:
    """Returns the folder into which a side, "ours" or "peer", writes its files."""
    return CACHE / f"predicted-{side}-{size[0]}x{size[1]}"


def weights(options: Options) -> Path:
    """Returns the file of the weights that both sides predict with, under the peer's names."""
    return CACHE / f"unet-{options.encoder}-{options.size}-{options.dtype}" / "model.safetensors"


def batches_a_repetition(options: Options) -> int:
    return -(-IMAGES // options.batch)
