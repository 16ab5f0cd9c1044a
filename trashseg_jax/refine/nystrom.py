"""The CRF's term of distance and colour: a Gaussian kernel through landmarks (Nyström's method).

The kernel is smooth beside an image, so a tile of pixels spans few dimensions under it. Each tile
has a few landmarks, points in the space of place and colour, and the kernel is projected on what
they span (Williams & Seeger 2001). They begin at pixels that a pivoted Cholesky decomposition
chooses: always the one that is worst represented so far (Fine & Scheinberg 2001). These are
extremes, so each landmark then moves to the mean of the pixels nearest to it, which is a step of
k-means (Zhang, Tsang & Kwok 2008).
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

CANDIDATES = 16  # a tile's side: of about so many rows and columns landmarks are chosen
LEAST_RESIDUAL = 1e-3  # of a landmark; one that is this well represented adds only rounding
AT_ONCE = 8  # tiles whose pixels' kernel is held at a time
FAR = 1e6  # from any pixel, a feature of a landmark that is not needed; 0 times infinity is NaN

# On some accelerators products of float32 are otherwise rounded to fewer bits.
_einsum = partial(jnp.einsum, precision="highest")


class Landmarks(NamedTuple):
    """The kernel between sources: `onto`^T `between` `onto`, and `rest` of one with itself."""

    features: Float[Array, "t 5 r"]
    inverse: Float[Array, "t r r"]  # of the kernel between a tile's landmarks
    between: Float[Array, "l l"]  # the kernel between all landmarks, l = t r
    onto: Float[Array, "t r n"]  # weights of its tile's landmarks for a source
    rest: Float[Array, "t n"]


def squared_distance(a: Float[Array, "t 5 r"], b: Float[Array, "t 5 n"]) -> Float[Array, "t r n"]:
    """Returns it by differences.

    The expansion into products would lose the small ones among the digits, and is no faster.
    """
    return jnp.asarray(sum((a[:, i, :, None] - b[:, i, None]) ** 2 for i in range(5)))


def kernel(a: Float[Array, "t 5 r"], b: Float[Array, "t 5 n"]) -> Float[Array, "t r n"]:
    """Returns the Gaussian between features."""
    return jnp.exp(-squared_distance(a, b) / 2)


def choose_landmarks(
    features: Float[Array, "t 5 n"], within: Bool[Array, "t n"], *, rank: int
) -> Landmarks:
    """Returns the kernel between the sources that are `within`, by `rank` landmarks a tile."""
    side = math.isqrt(features.shape[2])
    step = max(1, side // CANDIDATES)
    places = np.arange(side**2).reshape(side, side)[::step, ::step].ravel()
    chosen, _ = pivoted_cholesky(features[..., places], within[:, places], rank=rank)
    chosen = move_to_means(chosen, features, within)
    chosen, inverse = pivoted_cholesky(chosen, chosen[:, 0] < FAR, rank=rank)

    seen = kernel(chosen, features) * within[:, None]  # t r n
    onto = _einsum("trs,tsn->trn", inverse, seen)
    rest = jnp.maximum(within - (onto * seen).sum(1), 0)
    everywhere = chosen.swapaxes(0, 1).reshape(1, 5, -1)  # 1 5 l
    return Landmarks(chosen, inverse, kernel(everywhere, everywhere)[0], onto, rest)


def move_to_means(
    chosen: Float[Array, "t 5 r"], features: Float[Array, "t 5 n"], within: Bool[Array, "t n"]
) -> Float[Array, "t 5 r"]:
    """Moves each landmark to the mean of the pixels that it is the nearest one of."""
    distance = squared_distance(chosen, features)  # t r n
    nearest = (distance == distance.min(1, keepdims=True)) & within[:, None]
    count = nearest.sum(2)[:, None]  # t 1 r
    total = _einsum("tin,trn->tir", features, nearest.astype(jnp.float32))
    return jnp.where(count > 0, total / jnp.maximum(count, 1), chosen)


def pivoted_cholesky(
    candidates: Float[Array, "t 5 c"], within: Bool[Array, "t c"], *, rank: int
) -> tuple[Float[Array, "t 5 r"], Float[Array, "t r r"]]:
    """Chooses landmarks of each tile; returns their features and the inverse of their kernel.

    Where fewer than `rank` represent all candidates, the others are so FAR that they have no part.
    """
    tiles, _, count = candidates.shape

    def choose(step, state):
        columns, residual, chosen, whiten = state
        best = residual.argmax(1)[:, None, None]  # t 1 1
        left = jnp.take_along_axis(residual, best[..., 0], 1)  # t 1
        useful = left > LEAST_RESIDUAL
        root = jnp.sqrt(jnp.where(useful, left, 1))
        feature = jnp.take_along_axis(candidates, best, 2)  # t 5 1
        row = jnp.take_along_axis(columns, best, 2)  # t r 1
        column = kernel(feature, candidates)[:, 0] - (columns * row).sum(1)
        column = jnp.where(useful & within, column / root, 0)
        # A row of the inverse of the Cholesky factor, by forward substitution.
        unit = (jnp.eye(rank)[step] - (whiten * row).sum(1)) / root
        return (
            columns.at[:, step].set(column),
            jnp.maximum(residual - column**2, 0),
            chosen.at[:, :, step].set(jnp.where(useful, feature[..., 0], FAR)),
            whiten.at[:, step].set(jnp.where(useful, unit, 0)),
        )

    columns, whiten = jnp.zeros((tiles, rank, count)), jnp.zeros((tiles, rank, rank))
    start = (columns, within.astype(jnp.float32), jnp.zeros((tiles, 5, rank)), whiten)
    _, _, chosen, whiten = jax.lax.fori_loop(0, rank, choose, start)
    return chosen, _einsum("tsa,tsb->tab", whiten, whiten)


def between_sources(x: Float[Array, "t k n"], landmarks: Landmarks) -> Float[Array, "t k n"]:
    """Sums over all sources, weighted by the kernel, for each source."""
    message = _einsum("tkr,trn->tkn", _at_landmarks(x, landmarks), landmarks.onto)
    return message + landmarks.rest[:, None] * x


def to_pixels(
    x: Float[Array, "t k n"], landmarks: Landmarks, features: Float[Array, "t 5 N"]
) -> Float[Array, "t k N"]:
    """The same sum for each pixel of the tiles, of which the sources are some."""
    weights = _einsum("tkr,trs->tks", _at_landmarks(x, landmarks), landmarks.inverse)
    message = []
    for first in range(0, len(x), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        seen = kernel(landmarks.features[some], features[some])
        message.append(_einsum("tkr,trn->tkn", weights[some], seen))
    return jnp.concatenate(message) + at_sources(landmarks.rest[:, None] * x, features.shape[2])


def _at_landmarks(x: Float[Array, "t k n"], landmarks: Landmarks) -> Float[Array, "t k r"]:
    """Sums over all sources, weighted by the kernel, for each landmark."""
    gathered = _einsum("tkn,trn->trk", x, landmarks.onto)
    tiles, rank, channels = gathered.shape
    spread = _einsum("ml,lk->mk", landmarks.between, gathered.reshape(-1, channels))
    return spread.reshape(tiles, rank, channels).swapaxes(1, 2)


def sources_of(x: Shaped[Array, "t k N"], stride: int) -> Shaped[Array, "t k n"]:
    """Returns every so many rows and columns of each tile."""
    tile = math.isqrt(x.shape[2])
    x = x.reshape(*x.shape[:2], tile, tile)[:, :, ::stride, ::stride]
    return x.reshape(*x.shape[:2], -1)


def at_sources(x: Float[Array, "t k n"], count: int) -> Float[Array, "t k N"]:
    """Returns zeros for the `count` pixels of each tile but the sources, of which `x` is."""
    tiles, channels, sources = x.shape
    side = math.isqrt(sources)
    stride = math.isqrt(count) // side
    first = np.zeros((stride, 1, stride), np.float32)
    first[0, 0, 0] = 1
    return (x.reshape(tiles, channels, side, 1, side, 1) * first).reshape(tiles, channels, count)


def to_tiles(x: Shaped[Array, "k h w"], tile: int) -> Shaped[Array, "t k n"]:
    """Cuts an image into square tiles of n pixels, row by row."""
    channels, height, width = x.shape
    x = x.reshape(channels, height // tile, tile, width // tile, tile)
    return x.transpose(1, 3, 0, 2, 4).reshape(-1, channels, tile * tile)


def from_tiles(x: Float[Array, "t k n"], height: int, width: int) -> Float[Array, "k h w"]:
    """Puts tiles together again."""
    channels, tile = x.shape[1], math.isqrt(x.shape[2])
    x = x.reshape(height // tile, width // tile, channels, tile, tile)
    return x.transpose(2, 0, 3, 1, 4).reshape(channels, height, width)
