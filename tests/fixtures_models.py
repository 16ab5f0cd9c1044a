"""Models with random weights, for the tests of what is written of them."""

import contextlib
import re
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from trashseg_jax import export, model_folder
from trashseg_jax.data import taxonomy
from trashseg_jax.model_folder import Model

TINY = {
    "encoder": "tiny",
    "width": 4,
    "output_stride": 32,
    "stem_pool": "max",
    "layer4": "standard",
    "multi_grid": (1,),
    "decoder_features": (8, 8, 8, 8, 8),
}
FIGURES = {
    "dataset": "aistage",
    "split": "val",
    "step": 30,
    "num_images": 5,
    "miou": 0.25,
    "miou_interval": [0.2, 0.3],
    "iou": {"Background": 0.75, "Paper | card": 0.0, "Glass": None, "Metal": 0.125},
    "pixel_share": {"Background": 0.9, "Paper | card": 0.05, "Glass": 0.0, "Metal": 0.05},
    "pixel_accuracy": 0.5,
    "mean_dice": 0.4,
    "miou_per_image": 0.2,
}


def make_model(*, classes=taxonomy.CLASSES, seed=0, figures=None, **options) -> Model:
    """A model of TINY, but for `options`, whose variables are all random."""
    architecture = {**TINY, **options}
    network = model_folder.make_network(architecture, num_classes=len(classes), dtype="float32")
    return Model(
        network=network,
        variables=random_variables(network, seed=seed),
        architecture=architecture,
        dtype="float32",
        classes=tuple(classes),
        categories={"battery": "Battery"},
        palette=taxonomy.palette(len(classes)),
        normalize="imagenet",
        image_size=64,
        figures=figures,
        training=None,
        calibration=None,
    )


def random_variables(network, *, seed):
    """Kernels that keep the activations' size, and statistics near those of a trained network."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        kind = path[-1].key
        if kind == "kernel":
            values = rng.normal(size=leaf.shape) * np.sqrt(1 / np.prod(leaf.shape[:3]))
        elif kind in ("scale", "var"):
            values = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            values = rng.normal(size=leaf.shape) * 0.1
        return np.asarray(values, np.float32)

    return jax.tree_util.tree_map_with_path(draw, model_folder.variable_shapes(network))


def assert_same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def run_card(folder: Path, model: Model, photo: Path, *, onnx=None) -> list[dict]:
    """Exports the model, and returns what each block of its card's code leaves: JAX first.

    The photograph is cut to 64x50 pixels.
    """
    export.write_folder(folder, model, onnx)
    Image.open(photo).crop((0, 0, 64, 50)).save(folder / "photo.jpg")
    blocks = re.findall("```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    prepared: dict = {}
    left = []
    with contextlib.chdir(folder):
        exec(blocks[0], prepared)
        for block in blocks[1:]:
            names = dict(prepared)
            exec(block, names)
            left.append(names)
    return left
