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
