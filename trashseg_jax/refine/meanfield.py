"""Mean-field refinement with a fully connected CRF (Krähenbühl & Koltun 2011), in JAX.

What dense.py leaves to pydensecrf, with the same parameters, on whichever device JAX has. Both
kernels act through products of matrices, never through an entry for each pair of pixels: the
Gaussian of distance alone is separable (gaussian.py), the one of distance and colour is represented
by landmarks (nystrom.py).

Messages come from pixels at a stride (that of Teichmann & Cipolla 2018), where the Gaussian is wide
enough for that: only these sources need an iteration, and the last one asks for all pixels.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Shaped, UInt8

from trashseg_jax.devices.compiling import compiler_options
from trashseg_jax.refine import gaussian, nystrom
from trashseg_jax.refine.dense import MIN_PROB

RANK = 32  # landmarks a tile; measured beside pydensecrf's lattice in docs/crf.md
STRIDE = 2 / 3  # at most, between pixels that send messages, in deviations of the Gaussian
LONGEST_STRIDE = 2  # pixels: a longer one would pass small objects over
TILE = 0.8  # a tile's side, in standard deviations of the bilateral term
LARGEST_TILE = 64  # pixels: a larger one has more colours than RANK landmarks represent
MOST_TILES = 12  # a side, as each tile's landmarks meet those of all others


class Grid(NamedTuple):
    """How finely the kernels are represented; a program is compiled for each."""

    stride: int  # pixels between sources
    tile: int  # pixels of a side
    rank: int
    reach: int  # pixels


class Near(NamedTuple):
    """The term of distance alone. A weight is D^-1/2 of a source, D being its kernel's row sum.

    The kernel K becomes D^-1/2 K D^-1/2: pydensecrf's NORMALIZE_SYMMETRIC.
    """

    sxy: Float[Array, ""]
    compat: Float[Array, ""]
    weight: Float[Array, "1 h w"]


class Alike(NamedTuple):
    """The term of distance and colour, tile by tile."""

    compat: Float[Array, ""]
    features: Float[Array, "t 5 N"]  # of all pixels
    landmarks: nystrom.Landmarks
    weight: Float[Array, "t 1 n"]


class Pending:
    """The classes of an image that the device may still be working at."""

    def __init__(self, classes: Array, height: int, width: int):
        self._classes, self._size = classes, (height, width)

    def result(self) -> UInt8[np.ndarray, "h w"]:
        height, width = self._size
        return np.asarray(self._classes)[:height, :width]


def refine(
    probs: Float32[np.ndarray, "h w k"],
    image: UInt8[np.ndarray, "h w 3"],
    *,
    side: int = 0,
    **options: Any,
) -> Pending:
    """Asks for the most probable class of each pixel; `options` are those of `marginals`.

    Images up to `side` pixels high and wide share their compiled programs.
    """
    return Pending(best_class(scores(probs, image, side=side, **options)), *probs.shape[:2])


def marginals(
    probs: Float32[np.ndarray, "h w k"],
    image: UInt8[np.ndarray, "h w 3"],
    *,
    side: int = 0,
    **options: Any,
) -> Float32[np.ndarray, "h w k"]:
    """Returns the mean-field marginals Q that dense.py's `marginals` describes.

    `options` are those of that function; `rank`, `tile` and `stride` besides say how finely the
    kernels are represented. With a landmark for each pixel and a stride of 1 they are exact.
    """
    height, width = probs.shape[:2]
    q = np.asarray(jax.nn.softmax(scores(probs, image, side=side, **options), 0))
    return q[:, :height, :width].transpose(1, 2, 0)


@jax.jit
def best_class(score: Float[Array, "k h w"]) -> UInt8[Array, "h w"]:
    return jnp.argmax(score, 0).astype(jnp.uint8)


def scores(
    probs: Float32[np.ndarray, "h w k"],
    image: UInt8[np.ndarray, "h w 3"],
    *,
    side: int,
    iterations: int,
    gaussian_sxy: float,
    gaussian_compat: float,
    bilateral_sxy: float,
    bilateral_srgb: float,
    bilateral_compat: float,
    rank: int = RANK,
    tile: int = 0,
    stride: int = 0,
) -> Float[Array, "k H W"]:
    """Returns what Q is the softmax of, with the padding that makes whole tiles of the image."""
    side = max(*probs.shape[:2], side)
    stride = stride or longest_stride(gaussian_sxy if gaussian_compat else math.inf)
    tile = tile or tile_side(side, bilateral_sxy, stride=stride)
    grid = Grid(stride, tile, min(rank, (tile // stride) ** 2), gaussian.reach(gaussian_sxy, side))
    probs, image, inside = _pad(probs, image, side=side, tile=tile)
    log_p = log_probs(probs)
    if not iterations:
        return log_p

    # What does not change with the iterations.
    near = alike = None
    if gaussian_compat:
        near = _compiled(make_near)(inside, gaussian_sxy, gaussian_compat, grid)
    if bilateral_compat:
        features = _compiled(make_features)(image, bilateral_sxy, bilateral_srgb, grid)
        alike = _compiled(make_alike)(features, inside, bilateral_compat, grid)

    # Dispatched one by one: products within a loop on the device are slow on CPUs.
    log_p_sources, q = _compiled(start)(log_p, grid)
    for _ in range(iterations - 1):
        q = _compiled(update)(q, log_p_sources, near, alike, grid)

    # Two programs: memory of more than 32 MB the C library would ask the kernel for each time.
    score = log_p
    if near is not None:
        score = _compiled(add_near)(score, q, near, inside, grid)
    if alike is not None:
        score = _compiled(add_alike)(score, q, alike, inside, grid)
    return score


def longest_stride(sxy: float) -> int:
    """Returns the stride, in pixels, at which a Gaussian is still summed well."""
    return max(1, int(min(LONGEST_STRIDE, STRIDE * sxy)))


def tile_side(side: int, sxy: float, *, stride: int) -> int:
    """Returns the side of tiles for an image of `side` pixels, in pixels; `stride` divides it."""
    fitting = min(LARGEST_TILE, round(TILE * sxy))
    return -(-max(1, fitting, -(-side // MOST_TILES)) // stride) * stride


def _pad(
    probs: np.ndarray, image: np.ndarray, *, side: int, tile: int
) -> tuple[np.ndarray, np.ndarray, Array]:
    """Returns whole tiles of an image of at least `side` pixels, and where they are the image."""
    height, width = probs.shape[:2]
    rows, columns = (-(-max(n, side) // tile) * tile for n in (height, width))
    inside = np.zeros((1, rows, columns), bool)
    inside[:, :height, :width] = True
    if (rows, columns) != (height, width):  # else 12 MB would be copied for nothing
        padding = ((0, rows - height), (0, columns - width), (0, 0))
        probs, image = np.pad(probs, padding), np.pad(image, padding)
    return probs, image, jax.device_put(inside)


@functools.cache
def _compiled(step: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a step jitted for the backend, which an import must not choose."""
    return jax.jit(step, static_argnames="grid", compiler_options=compiler_options())


@jax.jit
def log_probs(probs: Float[Array, "H W k"]) -> Float[Array, "k H W"]:
    return jnp.log(jnp.clip(probs, MIN_PROB, 1)).transpose(2, 0, 1)


def make_near(inside: Bool[Array, "1 H W"], sxy: Array, compat: Array, grid: Grid) -> Near:
    inside = _at_stride(inside, grid)
    total = _blur(inside.astype(jnp.float32), sxy, grid, to_stride=grid.stride)
    return Near(sxy, compat, _weight(total, inside))


def make_features(
    image: UInt8[Array, "H W 3"], sxy: Array, srgb: Array, grid: Grid
) -> Float[Array, "t 5 N"]:
    """Returns place and colour in standard deviations, tile by tile.

    Within the programs that use them they would be computed anew for each landmark.
    """
    place = jnp.mgrid[: image.shape[0], : image.shape[1]] / sxy
    features = jnp.concatenate([place, image.transpose(2, 0, 1) / srgb])
    return nystrom.to_tiles(features, grid.tile)


def make_alike(
    features: Float[Array, "t 5 N"], inside: Bool[Array, "1 H W"], compat: Array, grid: Grid
) -> Alike:
    within = _source_tiles(_at_stride(inside, grid), grid)
    landmarks = nystrom.choose_landmarks(
        nystrom.sources_of(features, grid.stride), within[:, 0], rank=grid.rank
    )
    total = nystrom.between_sources(within.astype(jnp.float32), landmarks)
    return Alike(compat, features, landmarks, _weight(total, within))


def start(
    log_p: Float[Array, "k H W"], grid: Grid
) -> tuple[Float[Array, "k h w"], Float[Array, "k h w"]]:
    """Returns the sources' log probabilities, and the Q to begin with."""
    log_p = _at_stride(log_p, grid)
    return log_p, jax.nn.softmax(log_p, 0)


def update(
    q: Float[Array, "k h w"],
    log_p: Float[Array, "k h w"],
    near: Near | None,
    alike: Alike | None,
    grid: Grid,
) -> Float[Array, "k h w"]:
    """One iteration of the sources: Q is proportional to P exp(the messages of both terms)."""
    score = log_p
    if near is not None:
        message = _blur(q * near.weight, near.sxy, grid, to_stride=grid.stride)
        score += near.compat * near.weight * message
    if alike is not None:
        sent = _source_tiles(q, grid) * alike.weight
        message = nystrom.between_sources(sent, alike.landmarks)
        score += nystrom.from_tiles(alike.compat * alike.weight * message, *q.shape[1:])
    return jax.nn.softmax(score, 0)


def add_near(
    score: Float[Array, "k H W"],
    q: Float[Array, "k h w"],
    near: Near,
    inside: Bool[Array, "1 H W"],
    grid: Grid,
) -> Float[Array, "k H W"]:
    """Adds the message of distance alone to all pixels, from the sources' Q."""
    ones = _at_stride(inside, grid).astype(jnp.float32)  # whose sum is a pixel's D
    sent = jnp.concatenate([q * near.weight, ones])
    summed = _blur(sent, near.sxy, grid, to_stride=1)
    return score + near.compat * _weight(summed[-1:], inside) * summed[:-1]


def add_alike(
    score: Float[Array, "k H W"],
    q: Float[Array, "k h w"],
    alike: Alike,
    inside: Bool[Array, "1 H W"],
    grid: Grid,
) -> Float[Array, "k H W"]:
    """Adds the message of distance and colour to all pixels, from the sources' Q."""
    ones = _source_tiles(_at_stride(inside, grid).astype(jnp.float32), grid)
    sent = jnp.concatenate([_source_tiles(q, grid) * alike.weight, ones], 1)
    summed = nystrom.to_pixels(sent, alike.landmarks, alike.features)
    weight = _weight(summed[:, -1:], nystrom.to_tiles(inside, grid.tile))
    message = alike.compat * weight * summed[:, :-1]
    return score + nystrom.from_tiles(message, *inside.shape[1:])


def _at_stride(x: Shaped[Array, "k H W"], grid: Grid) -> Shaped[Array, "k h w"]:
    return x[:, :: grid.stride, :: grid.stride]


def _source_tiles(x: Shaped[Array, "k h w"], grid: Grid) -> Shaped[Array, "t k n"]:
    return nystrom.to_tiles(x, grid.tile // grid.stride)


def _blur(
    x: Float[Array, "k h w"], sxy: Array, grid: Grid, *, to_stride: int
) -> Float[Array, "k H W"]:
    """Sums over sources for pixels at another stride."""
    return gaussian.blur(x, sxy, reach=grid.reach, stride=grid.stride, to_stride=to_stride)


def _weight(total: Float[Array, "*b n"], inside: Bool[Array, "*b n"]) -> Float[Array, "*b n"]:
    """Returns D^-1/2 of a kernel, 0 outside the image and for a pixel that nothing is like."""
    return jnp.where(inside & (total > 1e-3), jax.lax.rsqrt(jnp.maximum(total, 1e-3)), 0)
