"""A map of classes as runs of equal pixels, of which there are far fewer than pixels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, UInt8
from pycocotools import mask as mask_utils
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

STRIP = 256  # columns
AT_A_TIME = 2**18  # runs whose pieces are numbered: a panorama in small pieces has millions
Rle = dict[str, Any]  # {"size": [h, w], "counts": text}, as COCO's jsons have it


class Runs(NamedTuple):
    """Runs down the columns, one column after the other; none goes on into the next column."""

    starts: Int32[np.ndarray, "n"]  # places in the order of columns, as COCO counts them
    ends: Int32[np.ndarray, "n"]  # behind the last pixel
    classes: UInt8[np.ndarray, "n"]
    size: tuple[int, int]  # height, width

    def of_class(self, k: int) -> "Runs":
        these = self.classes == k
        return Runs(self.starts[these], self.ends[these], self.classes[these], self.size)


def find_runs(classes: UInt8[np.ndarray, "h w"]) -> Runs:
    """Returns the runs of a map of classes, of which it copies some columns at a time."""
    height, width = classes.shape
    parts = [
        _find_in(classes[:, left : left + STRIP], left * height) for left in range(0, width, STRIP)
    ]
    begins, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    ends = np.append(begins[1:], np.int32(classes.size))
    return Runs(begins, ends, values, (height, width))


def _find_in(classes: UInt8[np.ndarray, "h w"], before: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns where the runs of some columns begin, `before` pixels behind, and their classes."""
    columns = np.ascontiguousarray(classes.T)
    begins = np.ones(columns.shape, bool)
    np.not_equal(columns[:, 1:], columns[:, :-1], out=begins[:, 1:])
    places = np.flatnonzero(begins)
    return (places + before).astype(np.int32), columns.ravel()[places]


def measure_box(runs: Runs) -> list[int]:
    """Returns x, y, width, height of all runs together."""
    height = runs.size[0]
    top, bottom = (runs.starts % height).min(), ((runs.ends - 1) % height).max()
    left, right = runs.starts[0] // height, runs.starts[-1] // height
    return [int(n) for n in (left, top, right - left + 1, bottom - top + 1)]


def count_pieces(runs: Runs) -> Int64[np.ndarray, "256"]:
    """Returns how many connected pieces each class has; pixels that touch at a corner are one."""
    height, total = runs.size[0], len(runs.starts)
    counts, first, known = np.zeros(256, np.int64), 0, np.zeros(0, np.int32)
    for stop in range(AT_A_TIME, total + AT_A_TIME, AT_A_TIME):
        here = slice(first, stop)
        part = Runs(runs.starts[here], runs.ends[here], runs.classes[here], runs.size)
        pieces = _number_pieces(part, known)
        # Those known from the part before have been counted there.
        counts += _count_numbers(pieces, part) - _count_numbers(known, part)
        if stop < total:  # of a panorama in pieces: those that later runs may touch
            begin = int(np.searchsorted(runs.ends, runs.starts[stop] - height))
            first, known = begin, pieces[begin - first :]
    return counts


def _number_pieces(runs: Runs, known: Int32[np.ndarray, "m"]) -> Int32[np.ndarray, "n"]:
    """Returns the number of each run's piece; first runs of one `known` number are of one piece."""
    _, firsts, place = np.unique(known, return_index=True, return_inverse=True)
    same = np.arange(len(known)), firsts[place]
    pairs = tuple(map(np.concatenate, zip(same, _touching(runs), strict=True)))
    total = len(runs.starts)
    graph = coo_array((np.ones(len(pairs[0]), bool), pairs), (total, total))
    return connected_components(graph, directed=False)[1]


def _count_numbers(numbers: Int32[np.ndarray, "m"], runs: Runs) -> Int64[np.ndarray, "256"]:
    """Returns of each class how many numbers its first runs have."""
    _, firsts = np.unique(numbers, return_index=True)
    return np.bincount(runs.classes[firsts], minlength=256)


def _touching(runs: Runs) -> Sequence[Int64[np.ndarray, "m"]]:
    """Returns the pairs of runs of one class in neighbouring columns that touch."""
    height = runs.size[0]
    # Of the runs at the same place in the next column, the first and the one behind the last.
    first = np.searchsorted(runs.ends, runs.starts + height, "left")
    counts = np.searchsorted(runs.starts, runs.ends + height, "right") - first
    left = np.repeat(np.arange(len(counts)), counts)
    right = np.arange(len(left)) + np.repeat(first - np.cumsum(counts) + counts, counts)
    # At a column's top and bottom there are runs of the columns beside it among them.
    columns = runs.starts // height
    same = (runs.classes[left] == runs.classes[right]) & (columns[left] + 1 == columns[right])
    return left[same], right[same]


def encode(runs: Runs) -> Rle:
    """Returns the mask of all runs together in COCO's compressed form."""
    # One that reaches a column's end and one at the next one's top are one of COCO's.
    apart = np.flatnonzero(runs.starts[1:] != runs.ends[:-1])
    starts = runs.starts[np.append(0, apart + 1)]
    ends = runs.ends[np.append(apart, len(runs.ends) - 1)]
    total = runs.size[0] * runs.size[1]
    edges = np.append(np.stack([starts, ends], -1).ravel(), total if ends[-1] < total else [])
    counts = np.diff(edges.astype(np.int64), prepend=0).astype(np.uint32)
    size = [int(n) for n in runs.size]
    uncompressed: Any = {"size": size, "counts": counts}
    rle: Any = mask_utils.frPyObjects(uncompressed, *size)
    return {"size": size, "counts": rle["counts"].decode()}
