"""What the tests of the dense CRF and of its pool share."""

import importlib.util

import numpy as np
import pytest

OPTIONS = {
    "iterations": 2,
    "gaussian_sxy": 3.0,
    "gaussian_compat": 1.0,
    "bilateral_sxy": 4.0,
    "bilateral_srgb": 13.0,
    "bilateral_compat": 2.0,
}
WITHOUT_TERMS = OPTIONS | {"gaussian_compat": 0.0, "bilateral_compat": 0.0}
needs_pydensecrf = pytest.mark.skipif(
    importlib.util.find_spec("pydensecrf") is None,
    reason="pydensecrf2 is not installed; on Python 3.13 it does not build (see requirements.txt)",
)


def scene(seed, height=6, width=5):
    """Noisy predictions of three classes over two regions of different grey."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(3), (height, width)).astype(np.float32)
    grey = np.where(np.arange(width)[:, None] < width // 2, 50, 180)
    image = (grey + rng.integers(0, 20, (height, width, 3))).astype(np.uint8)
    return probs, image


def brute_force(probs, image, options, reach=None, sources=True):
    """Algorithm 1 of Krähenbühl & Koltun with every pair of pixels, a pixel with itself too.

    Each kernel is D^-1/2 K D^-1/2 with D its row sums: pydensecrf's default, NORMALIZE_SYMMETRIC.
    With a `reach` the Gaussian's window ends so many pixels away in each direction; with
    `sources`, a mask over pixels, only these send messages.
    """
    height, width, classes = probs.shape
    place = np.mgrid[:height, :width].reshape(2, -1).T.astype(float)
    color = image.reshape(-1, 3) / options["bilateral_srgb"]

    apart = np.abs(place[:, None] - place).max(-1)

    def kernel(features, within=True):
        k = np.exp(-((features[:, None] - features) ** 2).sum(-1) / 2) * within * sources
        return k / np.sqrt(np.outer(k.sum(1), k.sum(1)))

    near = kernel(place / options["gaussian_sxy"], reach is None or apart <= reach)
    alike = kernel(np.concatenate([place / options["bilateral_sxy"], color], 1))
    pairwise = options["gaussian_compat"] * near + options["bilateral_compat"] * alike
    p = probs.reshape(-1, classes).astype(float)
    q = p
    for _ in range(options["iterations"]):
        q = p * np.exp(pairwise @ q)
        q /= q.sum(1, keepdims=True)
    return q.reshape(probs.shape)
