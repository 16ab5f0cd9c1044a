"""The CRF's term of distance alone: a separable Gaussian, summed over a window."""

import math
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

REACH = 4  # of the window, in standard deviations
BLOCK = 32  # rows or columns whose windows are multiplied by one matrix

# On some accelerators products of float32 are otherwise rounded to fewer bits.
_einsum = partial(jnp.einsum, precision="highest")


def reach(sxy: float, side: int) -> int:
    """Returns how many pixels a window extends each way in an image of `side` pixels."""
    return math.ceil(min(REACH * sxy, side - 1))


def blur(
    x: Float[Array, "k h w"], sxy: Any, *, reach: int, stride: int, to_stride: int
) -> Float[Array, "k H W"]:
    """Sums over a square window around each pixel, weighted by distance: columns, then rows.

    The sources `x` are `stride` pixels apart, those that are asked for `to_stride`.
    """
    parts = []
    for here, seen in _windows(x.shape[1], reach, stride, to_stride):
        band = _band(here, seen, sxy, reach=reach)
        bands = jnp.broadcast_to(band, (len(x), *band.shape))  # no transposition for the product
        parts.append(_einsum("kyz,kzx->kyx", bands, x[:, seen.start // stride :][:, : len(seen)]))
    x = jnp.concatenate(parts, 1)
    parts = []
    for here, seen in _windows(x.shape[2], reach, stride, to_stride):
        band = _band(here, seen, sxy, reach=reach)
        part = x[:, :, seen.start // stride :][:, :, : len(seen)]
        parts.append(_einsum("kyz,xz->kyx", part, band))
    return jnp.concatenate(parts, 2)


def _windows(length: int, reach: int, stride: int, to_stride: int) -> list[tuple[range, range]]:
    """Returns blocks of a line of `length` sources, and the sources that their windows cover."""
    end, step = length * stride, BLOCK * stride
    blocks = []
    for start in range(0, end, step):
        stop = min(start + step, end)
        first = -(-max(start - reach, 0) // stride) * stride
        blocks.append((range(start, stop, to_stride), range(first, min(stop + reach, end), stride)))
    return blocks


def _band(here: range, seen: range, sxy: Any, *, reach: int) -> Float[Array, "n m"]:
    """Returns the Gaussian between places on a line, 0 for those more than `reach` apart."""
    apart = abs(np.subtract.outer(np.array(here), np.array(seen)))
    return jnp.where(apart <= reach, jnp.exp(-((apart / sxy) ** 2) / 2), 0)
