"""Mean-field refinement with a fully connected CRF (Krähenbühl & Koltun 2011), by pydensecrf.

Spawned processes import this module: neither JAX nor TensorFlow, and pydensecrf only when used.
"""

import importlib
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from trashseg_jax.errors import InputError

MIN_PROB = 1e-5  # of the unary term; pydensecrf's own `unary_from_softmax` clips there too


def refine(
    probs: Float32[np.ndarray, "h w k"], image: UInt8[np.ndarray, "h w 3"], **options: Any
) -> UInt8[np.ndarray, "h w"]:
    """Returns the most probable class of each pixel; `options` are those of `marginals`."""
    return marginals(probs, image, **options).argmax(-1).astype(np.uint8)


def marginals(
    probs: Float32[np.ndarray, "h w k"],
    image: UInt8[np.ndarray, "h w 3"],
    *,
    iterations: int,
    gaussian_sxy: float,
    gaussian_compat: float,
    bilateral_sxy: float,
    bilateral_srgb: float,
    bilateral_compat: float,
) -> Float32[np.ndarray, "h w k"]:
    """Returns the mean-field marginals Q of the CRF with unary -log p and two Potts terms.

    A term lowers the energy of a pixel's class by its `compat` times the share of like pixels
    around it: by distance alone (`gaussian_sxy`, pixels), or by distance and colour
    (`bilateral_sxy`, pixels; `bilateral_srgb`, grey levels of 0..255). All are standard
    deviations. A term of compat 0 is left out.
    """
    height, width, classes = probs.shape
    model = import_densecrf().DenseCRF2D(width, height, classes)
    unary = -np.log(np.clip(probs, MIN_PROB, 1)).reshape(-1, classes).T  # k h*w
    model.setUnaryEnergy(np.ascontiguousarray(unary))
    if gaussian_compat:
        model.addPairwiseGaussian(sxy=gaussian_sxy, compat=gaussian_compat)
    if bilateral_compat:
        pixels = np.array(image, order="C")  # a copy: what it takes must be writable
        model.addPairwiseBilateral(
            sxy=bilateral_sxy, srgb=bilateral_srgb, rgbim=pixels, compat=bilateral_compat
        )
    return np.asarray(model.inference(iterations)).T.reshape(probs.shape)


def import_densecrf() -> Any:
    """Returns pydensecrf's module; raises InputError that says what to install."""
    try:
        return importlib.import_module("pydensecrf.densecrf")
    except ImportError as error:
        raise InputError(
            f"config.crf.engine=pydensecrf: it cannot be imported ({error}); "
            '"pip install pydensecrf2==1.1" installs it on Python 3.11 and 3.12, with g++ (it does '
            "not build on 3.13); or pass --config.crf.engine=device"
        ) from error
