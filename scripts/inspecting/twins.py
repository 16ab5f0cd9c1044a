"""Images that are the same, or nearly: perceptual hashes, and groups of those that are close."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt64
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SIDE = 32  # of the grey image that is transformed
LOW = 8  # its lowest frequencies each way: 64 bits
CLOSE = 8  # bits in which an image that was saved, scaled or brightened anew may differ
BLOCK = 1024  # hashes that are compared with all others at a time


class Twins(NamedTuple):
    """Places of images that look alike, in their order; `same`: their bytes are."""

    places: list[int]
    same: bool
    across: bool  # they are of several splits


def perceptual_hash(image: Image.Image) -> int:
    """Returns 64 bits: which of the low frequencies of an image are above their median.

    That is "pHash" (Zauner 2010, section 3.2.1), as the package ImageHash computes it.
    """
    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    frequencies: Any = dctn(np.asarray(small, np.float64))
    low = frequencies[:LOW, :LOW].ravel()
    return int(np.packbits(low > np.median(low)).view(">u8")[0])


def find_close(hashes: UInt64[np.ndarray, "n"], *, distance: int) -> Int64[np.ndarray, "m 2"]:
    """Returns the pairs of places whose hashes differ in at most so many bits, each once."""
    pairs = [np.zeros((0, 2), np.int64)]
    for first in range(0, len(hashes), BLOCK):
        block = hashes[first : first + BLOCK, None]
        close = np.bitwise_count(block ^ hashes[None, first:]) <= distance
        rows, columns = np.nonzero(np.triu(close, 1))
        pairs.append(np.stack([rows, columns], -1) + first)
    return np.concatenate(pairs)


def find_twins(
    hashes: Sequence[int], digests: Sequence[str], splits: Sequence[str], *, distance: int
) -> list[Twins]:
    """Returns the groups of images that look alike; those across splits first, then large ones."""
    if not hashes:
        return []
    # Of equal hashes one stands for all: a thousand black images are no million pairs.
    unique, inverse = np.unique(np.array(hashes, np.uint64), return_inverse=True)
    pairs = find_close(unique, distance=distance)
    graph = coo_array((np.ones(len(pairs), bool), tuple(pairs.T)), (len(unique),) * 2)
    numbers = connected_components(graph, directed=False)[1][inverse]
    by_number = np.split(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers))[:-1])
    groups = [
        Twins(
            places.tolist(),
            same=len({digests[place] for place in places}) == 1,
            across=len({splits[place] for place in places}) > 1,
        )
        for places in by_number
        if len(places) > 1
    ]
    return sorted(groups, key=lambda group: (not group.across, -len(group.places)))
