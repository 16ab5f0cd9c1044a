"""Mean-field refinement with a fully connected CRF (Krähenbühl & Koltun 2011), in JAX.

What dense.py leaves to pydensecrf, with the same parameters, on whichever device JAX has. Both
kernels act through products of matrices, never through an entry for each pair of pixels:

Messages come from pixels at a stride (that of Teichmann & Cipolla 2018), where the Gaussian is wide
enough for that: only these need an iteration, and the last one asks for all pixels.

- The Gaussian of distance alone is separable: along columns, then along rows, in a window.
- The bilateral one is smooth beside an image, so a tile of pixels spans few dimensions under it.
  Pixels of each tile are chosen as landmarks, and the kernel is projected on what they span
  (Nyström's method; Williams & Seeger 2001), the choice being that of a pivoted Cholesky
  decomposition: always the pixel that is worst represented so far (Fine & Scheinberg 2001).
"""

import functools
import math
import operator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, UInt8

from trashseg_jax.refine.dense import MIN_PROB

RANK = 32  # landmarks a tile; measured beside pydensecrf's lattice in docs/crf.md
STRIDE = 2 / 3  # at most, between pixels that send messages, in deviations of the Gaussian
LONGEST_STRIDE = 2  # pixels: a longer one would pass small objects over
TILE = 0.8  # a tile's side, in standard deviations of the bilateral term
LARGEST_TILE = 64  # pixels: a larger one has more colours than RANK landmarks represent
MOST_TILES = 12  # a side, as each tile's landmarks meet those of all others
CANDIDATES = 16  # a tile's side: of about so many rows and columns landmarks are chosen
REACH = 4  # of the Gaussian's window, in standard deviations
BLOCK = 32  # rows or columns whose windows are multiplied by one matrix
LEAST_RESIDUAL = 1e-3  # of a landmark; one that is this well represented adds only rounding

# On some accelerators products of float32 are otherwise rounded to fewer bits.
_einsum = partial(jnp.einsum, precision="highest")


class Near(NamedTuple):
    """The term of distance alone; all of it may change without a compilation."""

    sxy: Any  # scalars, as are the other term's
    compat: Any


class Alike(NamedTuple):
    """The term of distance and colour."""

    sxy: Any
    srgb: Any
    compat: Any


class Landmarks(NamedTuple):
    """The bilateral kernel: `inner` of two sources' `codes`, and `rest` of one with itself."""

    chosen: Float[Array, "t 5 r"]  # features
    whiten: Float[Array, "t r r"]  # makes codes of the kernel with those chosen
    inner: Float[Array, "l l"]  # l = t r
    codes: Float[Array, "t r n"]
    rest: Float[Array, "t n"]


class Terms(NamedTuple):
    """What does not change with the iterations; None is that of a term that is left out.

    A weight, [h, w], is 0 outside the image. A kernel K with row sums D becomes D^-1/2 K D^-1/2,
    which is pydensecrf's NORMALIZE_SYMMETRIC.
    """

    log_p: Float[Array, "k h w"]
    near_weight: Any
    landmarks: Any
    alike_weight: Any


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
    height, width = probs.shape[:2]
    if not stride:
        stride = longest_stride(gaussian_sxy) if gaussian_compat else LONGEST_STRIDE
    tile = tile or tile_side(max(height, width, side), bilateral_sxy, stride=stride)
    rows, columns = (-(-max(n, side) // tile) * tile for n in (height, width))
    padding = ((0, rows - height), (0, columns - width), (0, 0))
    inside = np.zeros((rows, columns), bool)
    inside[:height, :width] = True
    near = Near(*map(np.float32, (gaussian_sxy, gaussian_compat)))
    alike = Alike(*map(np.float32, (bilateral_sxy, bilateral_srgb, bilateral_compat)))
    near, alike = (near if gaussian_compat else None), (alike if bilateral_compat else None)
    reach = min(math.ceil(REACH * gaussian_sxy), max(rows, columns) - 1)
    given = (np.pad(probs, padding), np.pad(image, padding), inside, near, alike)
    fixed = {"reach": reach, "tile": tile, "stride": stride}
    if not iterations:
        return _log_probs(given[0])
    terms = _prepare(*given, rank=min(rank, (tile // stride) ** 2), **fixed)
    q = jax.nn.softmax(terms.log_p, 0)
    for _ in range(iterations - 1):  # here: a loop on the device has slow products on CPUs
        q = _update(q, terms, near, alike, **fixed)
    return _finish(q, terms, *given, **fixed)


def longest_stride(sxy: float) -> int:
    """Returns the stride, in pixels, at which a Gaussian is still summed well."""
    return max(1, min(LONGEST_STRIDE, int(STRIDE * sxy)))


def tile_side(side: int, sxy: float, *, stride: int) -> int:
    """Returns the side of tiles for an image of `side` pixels, in pixels; `stride` divides it."""
    fitting = min(LARGEST_TILE, round(TILE * sxy))
    return -(-max(1, fitting, -(-side // MOST_TILES)) // stride) * stride


@jax.jit
def _log_probs(probs: Float[Array, "h w k"]) -> Float[Array, "k h w"]:
    return jnp.log(jnp.clip(probs, MIN_PROB, 1)).transpose(2, 0, 1)


@partial(jax.jit, static_argnames=("reach", "rank", "tile", "stride"))
def _prepare(
    probs: Float[Array, "H W k"],
    image: UInt8[Array, "H W 3"],
    inside: Bool[Array, "H W"],
    near: Near | None,
    alike: Alike | None,
    *,
    reach: int,
    rank: int,
    tile: int,
    stride: int,
) -> Terms:
    """Returns the terms between the sources: the pixels at the stride."""
    inside = inside[::stride, ::stride]
    ones = inside[None].astype(jnp.float32)
    near_weight = landmarks = alike_weight = None
    if near is not None:
        total = blur(ones, near.sxy, reach=reach, stride=stride, to_stride=stride)
        near_weight = _weight(total[0], inside)
    if alike is not None:
        features = features_of(image, alike)[:, ::stride, ::stride]
        landmarks = choose_landmarks(features, inside, rank=rank, tile=tile // stride)
        total = _between_sources(ones, landmarks, tile=tile // stride)
        alike_weight = _weight(total[0], inside)
    log_p = _log_probs(probs[::stride, ::stride])
    return Terms(log_p, near_weight, landmarks, alike_weight)


def _weight(total: Float[Array, "h w"], inside: Bool[Array, "h w"]) -> Float[Array, "h w"]:
    """Returns D^-1/2 of a kernel, 0 for a pixel that nothing is like."""
    return jnp.where(inside & (total > 1e-3), jax.lax.rsqrt(jnp.maximum(total, 1e-3)), 0)


@partial(jax.jit, static_argnames=("reach", "tile", "stride"))
def _update(
    q: Float[Array, "k h w"],
    terms: Terms,
    near: Near | None,
    alike: Alike | None,
    *,
    reach: int,
    tile: int,
    stride: int,
) -> Float[Array, "k h w"]:
    """One iteration of the sources: Q is proportional to P exp(the messages of both terms)."""
    score = terms.log_p
    if near is not None:
        weight = terms.near_weight
        message = blur(q * weight, near.sxy, reach=reach, stride=stride, to_stride=stride)
        score += near.compat * weight * message
    if alike is not None:
        weight = terms.alike_weight
        message = _between_sources(q * weight, terms.landmarks, tile=tile // stride)
        score += alike.compat * weight * message
    return _softmax(score)


def _softmax(score: Float[Array, "k h w"]) -> Float[Array, "k h w"]:
    """The softmax class by class: on CPUs reductions over the first axis are slow."""
    top = functools.reduce(jnp.maximum, list(score))
    exponentials = jnp.exp(score - top)
    return exponentials / functools.reduce(operator.add, list(exponentials))


@partial(jax.jit, static_argnames=("reach", "tile", "stride"))
def _finish(
    q: Float[Array, "k h w"],
    terms: Terms,
    probs: Float[Array, "H W k"],
    image: UInt8[Array, "H W 3"],
    inside: Bool[Array, "H W"],
    near: Near | None,
    alike: Alike | None,
    *,
    reach: int,
    tile: int,
    stride: int,
) -> Float[Array, "k H W"]:
    """The last iteration, of all pixels, from the sources' Q."""
    score = _log_probs(probs)
    ones = inside[None, ::stride, ::stride].astype(jnp.float32)  # whose sum is a pixel's D
    if near is not None:
        sent = jnp.concatenate([q * terms.near_weight, ones])
        *message, total = blur(sent, near.sxy, reach=reach, stride=stride, to_stride=1)
        score += near.compat * _weight(total, inside) * jnp.stack(message)
    if alike is not None:
        seen = kernel(terms.landmarks.chosen, to_tiles(features_of(image, alike), tile))  # t r n
        sent = jnp.concatenate([q * terms.alike_weight, ones])
        *message, total = _to_all(sent, seen, terms.landmarks, tile=tile, stride=stride)
        score += alike.compat * _weight(total, inside) * jnp.stack(message)
    return score


# The term of distance alone.


def blur(
    x: Float[Array, "k h w"], sxy: Array, *, reach: int, stride: int, to_stride: int
) -> Float[Array, "k H W"]:
    """Sums over a square window around each pixel, weighted by distance: columns, then rows.

    The sources `x` are `stride` pixels apart, those that are asked for `to_stride`.
    """
    parts = []
    for here, seen in _windows(x.shape[1], reach, stride, to_stride):
        band = gaussian_band(here, seen, sxy, reach=reach)
        bands = jnp.broadcast_to(band, (len(x), *band.shape))  # no transposition for the product
        parts.append(_einsum("kyz,kzx->kyx", bands, x[:, seen.start // stride :][:, : len(seen)]))
    x = jnp.concatenate(parts, 1)
    parts = []
    for here, seen in _windows(x.shape[2], reach, stride, to_stride):
        band = gaussian_band(here, seen, sxy, reach=reach)
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


def gaussian_band(here: range, seen: range, sxy: Array, *, reach: int) -> Float[Array, "n m"]:
    """Returns the Gaussian between places on a line, 0 for those more than `reach` apart."""
    apart = abs(np.subtract.outer(np.array(here), np.array(seen)))
    return jnp.where(apart <= reach, jnp.exp(-((apart / sxy) ** 2) / 2), 0)


# The term of distance and colour.


def features_of(image: UInt8[Array, "h w 3"], alike: Alike) -> Float[Array, "5 h w"]:
    """Returns place and colour in standard deviations."""
    rows, columns = jnp.mgrid[: image.shape[0], : image.shape[1]] / alike.sxy
    return jnp.concatenate([jnp.stack([rows, columns]), image.transpose(2, 0, 1) / alike.srgb])


def choose_landmarks(
    features: Float[Array, "5 h w"], inside: Bool[Array, "h w"], *, rank: int, tile: int
) -> Landmarks:
    """Returns the bilateral kernel between sources, projected on landmarks of their tiles."""
    features = to_tiles(features, tile)  # t 5 n
    within = to_tiles(inside[None].astype(jnp.float32), tile)[:, 0]  # t n
    step = max(1, tile // CANDIDATES)
    places = np.arange(tile * tile).reshape(tile, tile)[::step, ::step].ravel()
    chosen, lower = pivoted_cholesky(features[..., places], within[..., places], rank=rank)

    # Codes are orthonormal coordinates in what a tile's landmarks span.
    unit = jnp.broadcast_to(jnp.eye(rank), lower.shape)
    whiten = jax.scipy.linalg.solve_triangular(lower, unit, lower=True)  # t r r
    codes = _einsum("trs,tsn->trn", whiten, kernel(chosen, features)) * within[:, None]
    tiles, _, rank = chosen.shape
    everywhere = chosen.swapaxes(0, 1).reshape(1, 5, -1)
    between = kernel(everywhere, everywhere).reshape(tiles, rank, tiles, rank)
    inner = _einsum("tar,trus,ubs->taub", whiten, between, whiten)
    inner = inner.reshape(tiles * rank, -1)
    rest = jnp.maximum(within - (codes**2).sum(1), 0)
    return Landmarks(chosen, whiten, inner, codes, rest)


def kernel(a: Float[Array, "t 5 r"], b: Float[Array, "t 5 n"]) -> Float[Array, "t r n"]:
    """Returns the Gaussian between features, by differences.

    The expansion into products would be faster and lose the small ones among the digits.
    """
    differences = (a[:, i, :, None] - b[:, i, None] for i in range(5))
    return jnp.exp(-sum(difference**2 for difference in differences) / 2)


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
        column = kernel(feature, features)[:, 0] - _einsum("trc,tr->tc", columns, row)
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


def _between_sources(
    x: Float[Array, "k h w"], landmarks: Landmarks, *, tile: int
) -> Float[Array, "k h w"]:
    """Sums over all sources, weighted by the bilateral kernel, for each source."""
    height, width = x.shape[1:]
    x = to_tiles(x, tile)  # t k n
    message = _einsum("tka,tan->tkn", _spread(x, landmarks), landmarks.codes)
    return from_tiles(message + landmarks.rest[:, None] * x, height, width)


def _to_all(
    x: Float[Array, "k h w"],
    seen: Float[Array, "t r n"],
    landmarks: Landmarks,
    *,
    tile: int,
    stride: int,
) -> Float[Array, "k H W"]:
    """The same sum for each pixel, of which `seen` is the kernel with its tile's landmarks."""
    height, width = x.shape[1:]
    x = to_tiles(x, tile // stride)
    spread = _einsum("tka,tar->tkr", _spread(x, landmarks), landmarks.whiten)
    message = _einsum("tkr,trn->tkn", spread, seen)
    message = from_tiles(message, height * stride, width * stride)
    own = from_tiles(landmarks.rest[:, None] * x, height, width)
    between = (0, stride - 1, stride - 1)  # zeros, as the others send nothing to themselves
    return message + jax.lax.pad(own, jnp.float32(0), ((0, 0, 0), between, between))


def _spread(x: Float[Array, "t k n"], landmarks: Landmarks) -> Float[Array, "t k r"]:
    """Gathers sources at their tile's landmarks, and sends that to those of all tiles."""
    gathered = _einsum("tkn,trn->trk", x, landmarks.codes)
    tiles, rank, channels = gathered.shape
    spread = _einsum("ml,lk->mk", landmarks.inner, gathered.reshape(-1, channels))
    return spread.reshape(tiles, rank, channels).swapaxes(1, 2)


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
