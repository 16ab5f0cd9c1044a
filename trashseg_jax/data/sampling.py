"""Which image comes at which place of the training stream: a pure function of seed and place.

Nothing is stored, so a resumed run needs only its step, and any number of hosts sees one stream.
`uniform_index` deals each image once an epoch; `weighted_index` draws with replacement, rare
classes more often.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

WEIGHTED_STREAM = 2**62  # sets the key apart from those of the permutations, which end in an epoch


def uniform_index(position: int, *, seed: int, size: int) -> int:
    """Returns the record, of `size`, at `position`: each epoch is a new permutation of all."""
    epoch, offset = divmod(position, size)
    return int(permutation(seed, epoch, size)[offset])


@lru_cache(maxsize=16)  # two epochs of eight mixed sets
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """Returns the order of an epoch, int64 [size], from Philox keyed by seed and epoch."""
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return generator.permutation(size)


class AliasTable(NamedTuple):
    """Draws from n weights in constant time: a cell i gives i with `keep[i]`, else `other[i]`."""

    keep: Float64[np.ndarray, "n"]
    other: Int64[np.ndarray, "n"]


def alias_table(weights: Float64[np.ndarray, "n"]) -> AliasTable:
    """Returns the table of `weights`, which need not sum to 1 (Walker 1977, Vose 1991)."""
    keep = weights * (len(weights) / weights.sum())
    other = np.arange(len(weights))
    small = list(np.flatnonzero(keep < 1))
    large = list(np.flatnonzero(keep >= 1))
    while small and large:
        poor, rich = small.pop(), large[-1]
        other[poor] = rich
        keep[rich] -= 1 - keep[poor]
        if keep[rich] < 1:
            small.append(large.pop())
    keep[small + large] = 1.0  # left over by rounding
    return AliasTable(keep, other)


def weighted_index(position: int, *, seed: int, table: AliasTable) -> int:
    """Returns the record at `position`, drawn with the table's weights.

    The draw is the Philox block at counter `position`, so no other place needs to be visited.
    """
    philox = np.random.Philox(key=[seed, WEIGHTED_STREAM], counter=position)
    place, coin = (int(bits) for bits in philox.random_raw(2))
    cell = place * len(table.keep) >> 64
    return cell if coin < table.keep[cell] * 2**64 else int(table.other[cell])


def take_turns(position: int, *, shares: Sequence[float]) -> tuple[int, int]:
    """Returns which of several sets gives the image at `position`, and how many it gave before.

    Each gives its share, of a sum of 1, of the images of any beginning of the stream, to within
    as many images as there are sets. The first takes its turns evenly spaced, the next does so
    among the places that are left.
    """
    left = 1.0
    for number, share in enumerate(shares[:-1]):
        rate = round(share / left * 2**32)  # whole numbers: no place is rounded to two sets
        before = position * rate >> 32
        if (position + 1) * rate >> 32 > before:
            return number, before
        position -= before
        left -= share
    return len(shares) - 1, position


def mixed_index(
    position: int,
    *,
    streams: Sequence[Callable[[int], int]],
    starts: Sequence[int],
    shares: Sequence[float],
) -> int:
    """Returns the record at `position` of sets that take turns, each with a stream of its own.

    A set's first record is at its `starts` among all.
    """
    number, turn = take_turns(position, shares=shares)
    return starts[number] + streams[number](turn)


def class_balanced(pixels: Int64[np.ndarray, "n k"], *, power: float) -> Float64[np.ndarray, "n"]:
    """f^-power, f being the share of images that hold the rarest class in the image."""
    occurs = pixels > 0
    rarest = np.where(occurs, occurs.mean(0), 1.0).min(1)  # 1: nothing but ignored pixels
    return rarest**-power


def repeat_factor(
    pixels: Int64[np.ndarray, "n k"], *, threshold: float
) -> Float64[np.ndarray, "n"]:
    """The largest of an image's classes' max(1, sqrt(threshold / f)), without the background.

    f is the share of images that hold the class; those above `threshold` gain nothing
    (Gupta et al. 2019, LVIS, "repeat factor sampling").
    """
    occurs = pixels[:, 1:] > 0
    share = np.maximum(occurs.mean(0), 1 / len(pixels))
    factor = np.maximum(1.0, np.sqrt(threshold / share))
    return np.where(occurs, factor, 1.0).max(1, initial=1.0)


def expected_shares(
    weights: Float64[np.ndarray, "n"], pixels: Int64[np.ndarray, "n k"]
) -> Float64[np.ndarray, "k"]:
    """Returns the share of drawn images that hold each class, as expected with `weights`."""
    return (weights / weights.sum()) @ (pixels > 0)
