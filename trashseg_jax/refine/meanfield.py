"""Mean-field refinement with a fully connected CRF (Krähenbühl & Koltun 2011), in JAX.

What dense.py leaves to pydensecrf, with the same parameters, on whichever device JAX has. Both
kernels act through products of matrices, never through an entry for each pair of pixels:

- The Gaussian of distance alone is separable: along columns, then along rows, in a window.
- The bilateral one is smooth beside an image, so a tile of pixels spans few dimensions under it.
  Pixels of each tile are chosen as landmarks, and the kernel is projected on what they span
  (Nyström's method; Williams & Seeger 2001), the choice being that of a pivoted Cholesky
  decomposition: always the pixel that is worst represented so far (Fine & Scheinberg 2001).
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, UInt8

from trashseg_jax.refine.dense import MIN_PROB

RANK = 32  # landmarks a tile; measured beside pydensecrf's lattice in docs/crf.md
TILE = 0.8  # a tile's side, in standard deviations of the bilateral term
LARGEST_TILE = 64  # pixels: a larger one has more colours than RANK landmarks represent
MOST_TILES = 12  # a side, as each tile's landmarks meet those of all others
CANDIDATES = 16  # a tile's side: of so many rows and columns of pixels landmarks are chosen
REACH = 4  # of the Gaussian's window, in standard deviations
BLOCK = 64  # rows or columns whose windows are multiplied by one matrix
LEAST_RESIDUAL = 1e-3  # of a landmark; one that is this well represented adds only rounding

# On some accelerators products of float32 are otherwise rounded to fewer bits.
_einsum = partial(jnp.einsum, precision="highest")


class Near(NamedTuple):
    """The term of distance alone; all of it may change without a compilation."""

    sxy: Array
    compat: Array


class Alike(NamedTuple):
    """The term of distance and colour."""

    sxy: Array
    srgb: Array
    compat: Array


class Landmarks(NamedTuple):
    """The bilateral kernel: `inner` of two pixels' `codes`, and `rest` of a pixel with itself."""

    codes: Float[Array, "t r n"]
    inner: Float[Array, "t r t r"]
    rest: Float[Array, "t n"]


class Terms(NamedTuple):
    """What does not change with the iterations. A weight is 0 outside the image.

    A kernel K with row sums D becomes D^-1/2 K D^-1/2, which is pydensecrf's NORMALIZE_SYMMETRIC.
    """

    log_p: Float[Array, "k h w"]
    band: tuple[Array, Array] | None  # Gaussians between rows, and between columns
    near_weight: Float[Array, "h w"] | None
    landmarks: Landmarks | None
    alike_weight: Float[Array, "h w"] | None


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
    best = jnp.argmax(_iterate(probs, image, side=side, **options), 0).astype(jnp.uint8)
    return Pending(best, *probs.shape[:2])


def marginals(
    probs: Float32[np.ndarray, "h w k"],
    image: UInt8[np.ndarray, "h w 3"],
    *,
    side: int = 0,
    **options: Any,
) -> Float32[np.ndarray, "h w k"]:
    """Returns the mean-field marginals Q that dense.py's `marginals` describes.

    `options` are those of that function; `rank` and `tile` besides say how finely the bilateral
    kernel is represented. With a landmark for each pixel it is exact.
    """
    height, width = probs.shape[:2]
    q = np.asarray(_iterate(probs, image, side=side, **options))
    return q[:, :height, :width].transpose(1, 2, 0)


def _iterate(
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
) -> Float[Array, "k H W"]:
    """Returns Q with the padding that makes whole tiles of the image."""
    height, width = probs.shape[:2]
    tile = tile or tile_side(max(height, width, side), bilateral_sxy)
    rows, columns = (-(-max(n, side) // tile) * tile for n in (height, width))
    padding = ((0, rows - height), (0, columns - width), (0, 0))
    inside = np.zeros((rows, columns), bool)
    inside[:height, :width] = True
    near = Near(*map(np.float32, (gaussian_sxy, gaussian_compat)))
    alike = Alike(*map(np.float32, (bilateral_sxy, bilateral_srgb, bilateral_compat)))
    near, alike = (near if gaussian_compat else None), (alike if bilateral_compat else None)
    reach = min(math.ceil(REACH * gaussian_sxy), max(rows, columns) - 1)
    terms = _prepare(
        np.pad(probs, padding),
        np.pad(image, padding),
        inside,
        near,
        alike,
        reach=reach,
        rank=min(rank, tile * tile),
        tile=tile,
    )
    q = jax.nn.softmax(terms.log_p, 0)
    for _ in range(iterations):  # here: a loop on the device has slow products on CPUs
        q = _update(q, terms, near, alike, reach=reach, tile=tile)
    return q


def tile_side(side: int, sxy: float) -> int:
    """Returns the side of tiles for an image of `side` pixels, in pixels."""
    fitting = min(LARGEST_TILE, round(TILE * sxy))
    return max(1, fitting, -(-side // MOST_TILES))


@partial(jax.jit, static_argnames=("reach", "rank", "tile"))
def _prepare(
    probs: Float[Array, "h w k"],
    image: UInt8[Array, "h w 3"],
    inside: Bool[Array, "h w"],
    near: Near | None,
    alike: Alike | None,
    *,
    reach: int,
    rank: int,
    tile: int,
) -> Terms:
    log_p = jnp.log(jnp.clip(probs, MIN_PROB, 1)).transpose(2, 0, 1)  # k h w
    ones = inside.astype(jnp.float32)
    band = near_weight = landmarks = alike_weight = None
    if near is not None:
        band = tuple(gaussian_band(length, near.sxy, reach=reach) for length in inside.shape)
        near_weight = _weight(blur(ones[None], band, reach=reach)[0], inside)
    if alike is not None:
        landmarks = choose_landmarks(image, inside, alike, rank=rank, tile=tile)
        alike_weight = _weight(filter_alike(ones[None], landmarks, tile=tile)[0], inside)
    return Terms(log_p, band, near_weight, landmarks, alike_weight)


def _weight(total: Float[Array, "h w"], inside: Bool[Array, "h w"]) -> Float[Array, "h w"]:
    """Returns D^-1/2 of a kernel; a sum is at least about 1, a pixel's weight for itself."""
    return jnp.where(inside, jax.lax.rsqrt(jnp.maximum(total, 1e-3)), 0)


@partial(jax.jit, static_argnames=("reach", "tile"))
def _update(
    q: Float[Array, "k h w"],
    terms: Terms,
    near: Near | None,
    alike: Alike | None,
    *,
    reach: int,
    tile: int,
) -> Float[Array, "k h w"]:
    """One iteration: Q is proportional to P exp(the messages of both terms)."""
    score = terms.log_p
    if near is not None:
        weight = terms.near_weight
        score += near.compat * weight * blur(q * weight, terms.band, reach=reach)
    if alike is not None:
        weight = terms.alike_weight
        score += alike.compat * weight * filter_alike(q * weight, terms.landmarks, tile=tile)
    return jax.nn.softmax(score, 0)


# The term of distance alone.


def gaussian_band(length: int, sxy: Array, *, reach: int) -> Float[Array, "n n"]:
    """Returns the Gaussian between places on a line, 0 for those more than `reach` apart."""
    place = jnp.arange(length)
    apart = jnp.abs(place[:, None] - place)
    return jnp.where(apart <= reach, jnp.exp(-((apart / sxy) ** 2) / 2), 0)


def blur(
    x: Float[Array, "k h w"], band: tuple[Array, Array], *, reach: int
) -> Float[Array, "k h w"]:
    """Sums over a square window, weighted by distance, block by block of what has one matrix."""
    vertical, horizontal = band
    height, width = x.shape[1:]
    parts = []
    for here, seen in _windows(height, reach):
        kernel = jnp.broadcast_to(vertical[here, seen], (len(x), *vertical[here, seen].shape))
        parts.append(_einsum("kyz,kzx->kyx", kernel, x[:, seen]))
    x = jnp.concatenate(parts, 1)
    parts = [
        _einsum("kyz,zx->kyx", x[:, :, seen], horizontal[seen, here])
        for here, seen in _windows(width, reach)
    ]
    return jnp.concatenate(parts, 2)


def _windows(length: int, reach: int) -> list[tuple[slice, slice]]:
    """Returns blocks of a line, and which part of it their windows cover."""
    starts = range(0, length, BLOCK)
    return [
        (slice(s, min(s + BLOCK, length)), slice(max(s - reach, 0), min(s + BLOCK + reach, length)))
        for s in starts
    ]


# The term of distance and colour.


def choose_landmarks(
    image: UInt8[Array, "h w 3"],
    inside: Bool[Array, "h w"],
    alike: Alike,
    *,
    rank: int,
    tile: int,
) -> Landmarks:
    """Returns the bilateral kernel of an image, projected on landmarks of its tiles."""
    height, width = inside.shape
    rows, columns = jnp.mgrid[:height, :width] / alike.sxy
    colors = jnp.moveaxis(image / alike.srgb, -1, 0)
    features = to_tiles(jnp.concatenate([rows[None], columns[None], colors]), tile)  # t 5 n
    within = to_tiles(inside[None].astype(jnp.float32), tile)[:, 0]  # t n

    stride = max(1, tile // CANDIDATES)
    places = jnp.arange(tile * tile).reshape(tile, tile)[::stride, ::stride].ravel()
    chosen, lower = pivoted_cholesky(features[..., places], within[..., places], rank=rank)

    # Codes are orthonormal coordinates in what a tile's landmarks span.
    unit = jnp.broadcast_to(jnp.eye(rank), lower.shape)
    whiten = jax.scipy.linalg.solve_triangular(lower, unit, lower=True)  # t r r
    to_chosen = kernel(chosen[..., None], features[:, :, None])  # t r n
    codes = _einsum("trs,tsn->trn", whiten, to_chosen) * within[:, None]
    everywhere = chosen.swapaxes(0, 1)  # 5 t r
    between = kernel(everywhere[:, :, :, None, None], everywhere[:, None, None], axis=0)
    inner = _einsum("tar,trus,ubs->taub", whiten, between, whiten)
    rest = jnp.maximum(within - (codes**2).sum(1), 0)
    return Landmarks(codes, inner, rest)


def kernel(a: Array, b: Array, *, axis: int = 1) -> Array:
    """Returns the Gaussian between features, which lie along `axis`, by differences.

    The expansion into products would be faster and lose the small ones among the digits.
    """
    pairs = (
        (jax.lax.index_in_dim(a, i, axis, False), jax.lax.index_in_dim(b, i, axis, False))
        for i in range(5)
    )
    return jnp.exp(-sum((one - other) ** 2 for one, other in pairs) / 2)


def pivoted_cholesky(
    features: Float[Array, "t 5 c"], within: Float[Array, "t c"], *, rank: int
) -> tuple[Float[Array, "t 5 r"], Float[Array, "t r r"]]:
    """Chooses landmarks of each tile among candidates; returns their features and L.

    L L^T is the kernel between a tile's landmarks. Where fewer than `rank` represent all
    candidates, the rows of the others are those of the identity, and their codes come to 0.
    """
    tiles, _, count = features.shape

    def choose(step, state):
        columns, residual, chosen, lower, used = state
        best = residual.argmax(1)[:, None, None]  # t 1 1
        feature = jnp.take_along_axis(features, best, 2)  # t 5 1
        row = jnp.take_along_axis(columns, best, 2)[..., 0]  # t r
        left = jnp.take_along_axis(residual, best[..., 0], 1)  # t 1
        useful = left > LEAST_RESIDUAL
        root = jnp.sqrt(jnp.where(useful, left, 1))
        column = kernel(feature, features) - _einsum("trc,tr->tc", columns, row)
        column = jnp.where(useful, column / root, 0) * (within > 0)
        row = jnp.where(useful, row.at[:, step].set(root[:, 0]), jnp.eye(rank)[step])
        return (
            columns.at[:, step].set(column),
            jnp.maximum(residual - column**2, 0),
            chosen.at[:, :, step].set(feature[..., 0]),
            lower.at[:, step].set(row),
            used.at[:, step].set(useful[:, 0]),
        )

    start = (
        jnp.zeros((tiles, rank, count)),
        within,
        jnp.zeros((tiles, 5, rank)),
        jnp.zeros((tiles, rank, rank)),
        jnp.zeros((tiles, rank), bool),
    )
    _, _, chosen, lower, used = jax.lax.fori_loop(0, rank, choose, start)
    # Infinitely far away, a landmark has no part in any kernel, but 0 times infinity is NaN.
    return jnp.where(used[:, None], chosen, 1e6), lower


def filter_alike(
    x: Float[Array, "k h w"], landmarks: Landmarks, *, tile: int
) -> Float[Array, "k h w"]:
    """Sums over all pixels, weighted by the bilateral kernel."""
    codes, inner, rest = landmarks
    height, width = x.shape[1:]
    x = to_tiles(x, tile)  # t k n
    gathered = _einsum("tkn,trn->trk", x, codes)
    spread = _einsum("taub,ubk->tka", inner, gathered)
    return from_tiles(_einsum("tka,tan->tkn", spread, codes) + rest[:, None] * x, height, width)


def to_tiles(x: Float[Array, "k h w"], tile: int) -> Float[Array, "t k n"]:
    """Cuts an image into square tiles of n pixels, row by row."""
    channels, height, width = x.shape
    x = x.reshape(channels, height // tile, tile, width // tile, tile)
    return x.transpose(1, 3, 0, 2, 4).reshape(-1, channels, tile * tile)


def from_tiles(x: Float[Array, "t k n"], height: int, width: int) -> Float[Array, "k h w"]:
    """Puts tiles together again."""
    channels, tile = x.shape[1], math.isqrt(x.shape[2])
    x = x.reshape(height // tile, width // tile, channels, tile, tile)
    return x.transpose(2, 0, 3, 1, 4).reshape(channels, height, width)
