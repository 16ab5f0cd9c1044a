"""How near the CRF's engines come to the mean field over all pairs of pixels: a table, by image.

    python scripts/measure_crf.py runs/demo PHOTOGRAPH... [--size=256]

A run or a model's folder makes the predictions that are refined, with the default parameters. The
exact mean field of 256x256 pixels takes 47 billion entries of a kernel; those of twice the side
sixteen times as many.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from bench.refinement import default_options
from trashseg_jax import metrics
from trashseg_jax.data.photos import read_pixels
from trashseg_jax.prediction.predictor import Predictor
from trashseg_jax.refine import dense, meanfield
from trashseg_jax.refine.dense import MIN_PROB

ROWS, COLUMNS = 1024, 4096  # pixels between which a part of the kernel is held
ENGINES = {"pydensecrf": dense.marginals, "device": meanfield.marginals}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder of a run or a model")
    parser.add_argument("photographs", type=Path, nargs="+")
    parser.add_argument("--size", type=int, default=256, help="pixels of an image's side")
    arguments = parser.parse_args()
    predictor = Predictor(arguments.model)
    options = default_options()
    all_of = {name: [] for name in ("none", *ENGINES)}
    print("photograph | engine | same class, % | rms difference of Q | IoU with the exact, mean")
    for path in arguments.photographs:
        pixels = Image.fromarray(read_pixels(path)).resize((arguments.size,) * 2)
        prediction = predictor(pixels)
        given = prediction.probs.astype(np.float32), prediction.image
        exact = exact_marginals(*given, **options)
        refined = {name: refine(*given, **options) for name, refine in ENGINES.items()}
        for name, q in {"none": given[0], **refined}.items():
            all_of[name].append(compare(q, exact))
            print(f"{path.stem} | {name} | {describe(all_of[name][-1:])}", flush=True)
    for name, compared in all_of.items():
        print(f"all | {name} | {describe(compared)}")


def compare(q: np.ndarray, exact: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the confusion matrix, the exact classes being the truth, and Q's mean square."""
    truth, classes = (x.argmax(-1).astype(np.uint8)[None] for x in (exact, q))
    confusion = metrics.count_confusion(truth, classes, num_classes=q.shape[-1])[0]
    return confusion, float(((q - exact) ** 2).mean())


def describe(compared: list[tuple[np.ndarray, float]]) -> str:
    """Returns the figures of images together."""
    confusions, squares = zip(*compared, strict=True)
    confusion = sum(confusions)
    same, iou = metrics.pixel_accuracy(confusion), np.nanmean(metrics.iou(confusion))
    return f"{100 * same:.2f} | {np.sqrt(np.mean(squares)):.4f} | {iou:.3f}"


def exact_marginals(
    probs: np.ndarray,
    image: np.ndarray,
    *,
    iterations: int,
    gaussian_sxy: float,
    gaussian_compat: float,
    bilateral_sxy: float,
    bilateral_srgb: float,
    bilateral_compat: float,
) -> np.ndarray:
    """Returns the marginals of `dense.marginals`, [h, w, k], from every pair of pixels."""
    height, width, classes = probs.shape
    place = np.mgrid[:height, :width].reshape(2, -1).T
    colors = image.reshape(-1, 3) / bilateral_srgb
    features = np.concatenate([place / bilateral_sxy, colors], 1).astype(np.float32)

    # Both are D^-1/2 K D^-1/2, with D the row sums of K.
    send_near = normalised(lambda x: sum_near(x, height, width, gaussian_sxy))
    send_alike = normalised(lambda x: sum_alike(x, features))
    p = np.clip(probs, MIN_PROB, 1).reshape(-1, classes).astype(float)
    q = p / p.sum(1, keepdims=True)
    for _ in range(iterations):
        message = gaussian_compat * send_near(q) + bilateral_compat * send_alike(q)
        q = p * np.exp(message - message.max(1, keepdims=True))
        q /= q.sum(1, keepdims=True)
    return q.reshape(probs.shape)


def normalised(sums: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what a symmetrically normalised kernel does, from what the kernel does."""
    total: Any = None

    def send(x: np.ndarray) -> np.ndarray:
        nonlocal total
        if total is None:
            total = sums(np.ones((len(x), 1)))
        return sums(x / np.sqrt(total)) / np.sqrt(total)

    return send


def sum_near(x: np.ndarray, height: int, width: int, sxy: float) -> np.ndarray:
    """Sums [h w, k] weighted by distance: the kernel is the product of a line's and a column's."""
    across, along = (np.subtract.outer(range(n), range(n)) for n in (height, width))
    across, along = (np.exp(-((apart / sxy) ** 2) / 2) for apart in (across, along))
    lines = np.einsum("yz,zxk->yxk", across, x.reshape(height, width, -1), optimize=True)
    return np.einsum("xz,yzk->yxk", along, lines, optimize=True).reshape(x.shape)


def sum_alike(x: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Sums [n, k] weighted by the Gaussian between features [n, 5], a part of it at a time."""
    sums = np.zeros(x.shape)
    x = x.astype(np.float32)
    for row in range(0, len(x), ROWS):
        for column in range(0, len(x), COLUMNS):
            some, others = features[row : row + ROWS], features[column : column + COLUMNS]
            sums[row : row + ROWS] += _sum_part(some.T, others.T, x[column : column + COLUMNS])
    return sums


@jax.jit
def _sum_part(some: jax.Array, others: jax.Array, x: jax.Array) -> jax.Array:
    squares = sum((a[:, None] - b) ** 2 for a, b in zip(some, others, strict=True))
    return jnp.matmul(jnp.exp(-squares / 2), x, precision="highest")


if __name__ == "__main__":
    main()
