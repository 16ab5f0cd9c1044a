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
    """The term of distance alone: scalars, which may change without a compilation."""

    sxy: Any
    compat: Any


class Alike(NamedTuple):
    """The term of distance and colour."""

    sxy: Any
    srgb: Any
    compat: Any


class Problem(NamedTuple):
    """An image, its sides multiples of a tile's, and the terms; None is one that is left out."""

    log_p: Float[Array, "k H W"]
    features: Float[Array, "t 5 N"] | None  # place and colour in standard deviations, by tile
    inside: Bool[Array, "H W"]  # False for padding
    near: Near | None
    alike: Alike | None


class Sources(NamedTuple):
    """What does not change with the iterations.

    A weight is 0 outside the image. A kernel K with row sums D becomes D^-1/2 K D^-1/2, which is
    pydensecrf's NORMALIZE_SYMMETRIC.
    """

    log_p: Float[Array, "k h w"]
    near_weight: Float[Array, "1 h w"] | None
    alike_weight: Float[Array, "t 1 n"] | None
    landmarks: nystrom.Landmarks | None


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
    near = Near(*map(np.float32, (gaussian_sxy, gaussian_compat)))
    alike = Alike(*map(np.float32, (bilateral_sxy, bilateral_srgb, bilateral_compat)))
    side = max(*probs.shape[:2], side)
    stride = stride or longest_stride(gaussian_sxy if gaussian_compat else math.inf)
    tile = tile or tile_side(side, bilateral_sxy, stride=stride)
    grid = Grid(stride, tile, min(rank, (tile // stride) ** 2), gaussian.reach(gaussian_sxy, side))
    terms = (near if gaussian_compat else None), (alike if bilateral_compat else None)
    problem = _compiled(lay_out)(*_pad(probs, image, side=side, tile=tile), *terms, grid)
    if not iterations:
        return problem.log_p
    sources = _compiled(prepare)(problem, grid)
    q = jax.nn.softmax(sources.log_p, 0)
    for _ in range(iterations - 1):  # here: a loop on the device has slow products on CPUs
        q = _compiled(update)(q, sources, problem, grid)
    near_score = _compiled(add_near)(q, sources, problem, grid)
    return _compiled(add_alike)(near_score, q, sources, problem, grid)


def longest_stride(sxy: float) -> int:
    """Returns the stride, in pixels, at which a Gaussian is still summed well."""
    return max(1, int(min(LONGEST_STRIDE, STRIDE * sxy)))


def tile_side(side: int, sxy: float, *, stride: int) -> int:
    """Returns the side of tiles for an image of `side` pixels, in pixels; `stride` divides it."""
    fitting = min(LARGEST_TILE, round(TILE * sxy))
    return -(-max(1, fitting, -(-side // MOST_TILES)) // stride) * stride


def _pad(probs, image, *, side, tile):
    """Returns whole tiles of an image of at least `side` pixels, and where they are the image."""
    height, width = probs.shape[:2]
    rows, columns = (-(-max(n, side) // tile) * tile for n in (height, width))
    inside = np.zeros((rows, columns), bool)
    inside[:height, :width] = True
    if (rows, columns) != (height, width):  # or 12 MB would be copied for nothing
        padding = ((0, rows - height), (0, columns - width), (0, 0))
        probs, image = np.pad(probs, padding), np.pad(image, padding)
    return probs, image, inside


@functools.cache
def _compiled(step: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a step jitted for the backend, which an import must not choose."""
    return jax.jit(step, static_argnames="grid", compiler_options=compiler_options())


def lay_out(
    probs: Float[Array, "H W k"],
    image: UInt8[Array, "H W 3"],
    inside: Bool[Array, "H W"],
    near: Near | None,
    alike: Alike | None,
    grid: Grid,
) -> Problem:
    """Returns the problem in the order in which it is worked at.

    A program of its own: fused into the next ones, its parts would be computed many times over.
    """
    log_p = jnp.log(jnp.clip(probs, MIN_PROB, 1)).transpose(2, 0, 1)
    features = None
    if alike is not None:
        place = jnp.mgrid[: image.shape[0], : image.shape[1]] / alike.sxy
        features = jnp.concatenate([place, image.transpose(2, 0, 1) / alike.srgb])
        features = nystrom.to_tiles(features, grid.tile)
    return Problem(log_p, features, inside, near, alike)


def prepare(problem: Problem, grid: Grid) -> Sources:
    """Returns the terms between the sources: the pixels at the stride."""
    inside = _at_stride(problem.inside[None], grid)
    near_weight = alike_weight = landmarks = None
    if problem.near is not None:
        total = _blur(inside.astype(jnp.float32), problem.near, grid, to_stride=grid.stride)
        near_weight = _weight(total, inside)
    if problem.alike is not None:
        features = nystrom.sources_of(problem.features, grid.stride)
        within = nystrom.to_tiles(inside, grid.tile // grid.stride)
        landmarks = nystrom.choose_landmarks(features, within[:, 0], rank=grid.rank)
        total = nystrom.between_sources(within.astype(jnp.float32), landmarks)
        alike_weight = _weight(total, within)
    return Sources(_at_stride(problem.log_p, grid), near_weight, alike_weight, landmarks)


def update(
    q: Float[Array, "k h w"], sources: Sources, problem: Problem, grid: Grid
) -> Float[Array, "k h w"]:
    """One iteration of the sources: Q is proportional to P exp(the messages of both terms)."""
    near, alike = problem.near, problem.alike
    score = sources.log_p
    if near is not None:
        weight = sources.near_weight
        message = _blur(q * weight, near, grid, to_stride=grid.stride)
        score += near.compat * weight * message
    if alike is not None:
        weight = sources.alike_weight
        sent = nystrom.to_tiles(q, grid.tile // grid.stride) * weight
        message = nystrom.between_sources(sent, sources.landmarks)
        score += nystrom.from_tiles(alike.compat * weight * message, *q.shape[1:])
    return jax.nn.softmax(score, 0)


def add_near(
    q: Float[Array, "k h w"], sources: Sources, problem: Problem, grid: Grid
) -> Float[Array, "k H W"]:
    """Returns the log probabilities plus the message of distance alone to all pixels."""
    if problem.near is None:
        return problem.log_p
    inside = problem.inside[None]
    ones = _at_stride(inside, grid).astype(jnp.float32)  # whose sum is a pixel's D
    sent = jnp.concatenate([q * sources.near_weight, ones])
    summed = _blur(sent, problem.near, grid, to_stride=1)
    return problem.log_p + problem.near.compat * _weight(summed[-1:], inside) * summed[:-1]


def add_alike(
    score: Float[Array, "k H W"],
    q: Float[Array, "k h w"],
    sources: Sources,
    problem: Problem,
    grid: Grid,
) -> Float[Array, "k H W"]:
    """Adds the message of distance and colour to all pixels."""
    if problem.alike is None:
        return score
    inside = problem.inside[None]
    tile = grid.tile // grid.stride
    sent = nystrom.to_tiles(q, tile) * sources.alike_weight
    ones = nystrom.to_tiles(_at_stride(inside, grid).astype(jnp.float32), tile)
    sent = jnp.concatenate([sent, ones], 1)
    summed = nystrom.to_pixels(sent, sources.landmarks, problem.features)
    weight = _weight(summed[:, -1:], nystrom.to_tiles(inside, grid.tile))
    message = problem.alike.compat * weight * summed[:, :-1]
    return score + nystrom.from_tiles(message, *inside.shape[1:])


def _at_stride(x: Shaped[Array, "k H W"], grid: Grid) -> Shaped[Array, "k h w"]:
    return x[:, :: grid.stride, :: grid.stride]


def _blur(
    x: Float[Array, "k h w"], near: Near, grid: Grid, *, to_stride: int
) -> Float[Array, "k H W"]:
    """Sums over sources for pixels at another stride."""
    reach, stride = grid.reach, grid.stride
    return gaussian.blur(x, near.sxy, reach=reach, stride=stride, to_stride=to_stride)


def _weight(total: Float[Array, "*b n"], inside: Bool[Array, "*b n"]) -> Float[Array, "*b n"]:
    """Returns D^-1/2 of a kernel, 0 for a pixel that nothing is like."""
    return jnp.where(inside & (total > 1e-3), jax.lax.rsqrt(jnp.maximum(total, 1e-3)), 0)
