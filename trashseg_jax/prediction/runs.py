"""A map of classes as runs of equal pixels, of which there are far fewer than pixels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8
from pycocotools import mask as mask_utils
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

STRIP = 256  # columns
Rle = dict[str, Any]  # {"size": [h, w], "counts": text}, as COCO's jsons have it


class Runs(NamedTuple):
    """Runs down the columns, one column after the other; none goes on into the next column."""

    starts: Int64[np.ndarray, "n"]  # places in the order of columns, as COCO counts them
    ends: Int64[np.ndarray, "n"]  # behind the last pixel
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
    return Runs(begins, np.append(begins[1:], classes.size), values, (height, width))


def _find_in(classes: UInt8[np.ndarray, "h w"], before: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns where the runs of some columns begin, `before` pixels behind, and their classes."""
    columns = np.ascontiguousarray(classes.T)
    begins = np.ones(columns.shape, bool)
    np.not_equal(columns[:, 1:], columns[:, :-1], out=begins[:, 1:])
    places = np.flatnonzero(begins)
    return places + before, columns.ravel()[places]


def measure_box(runs: Runs) -> list[int]:
    """Returns x, y, width, height of all runs together."""
    height = runs.size[0]
    top, bottom = (runs.starts % height).min(), ((runs.ends - 1) % height).max()
    left, right = runs.starts[0] // height, runs.starts[-1] // height
    return [int(n) for n in (left, top, right - left + 1, bottom - top + 1)]


def sum_classes(
    runs: Runs, columns: Float32[np.ndarray, "c h"], *, left: int
) -> Float64[np.ndarray, "256"]:
    """Returns the sum over each class's pixels of the values of some columns from `left` on."""
    before = left * runs.size[0]
    some = slice(*np.searchsorted(runs.starts, [before, before + columns.size]))
    sums = np.add.reduceat(columns.ravel(), runs.starts[some] - before, dtype=np.float64)
    return np.bincount(runs.classes[some], sums, minlength=256)


def count_pieces(runs: Runs) -> Int64[np.ndarray, "256"]:
    """Returns how many connected pieces each class has; pixels that touch at a corner are one."""
    number = len(runs.starts)
    pairs = _touching(runs)
    graph = coo_array((np.ones(len(pairs[0]), bool), pairs), (number, number))
    pieces, piece_of = connected_components(graph, directed=False)
    class_of = np.empty(pieces, np.uint8)
    class_of[piece_of] = runs.classes
    return np.bincount(class_of, minlength=256)


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
    counts = np.diff(edges.astype(np.int64), prepend=0).tolist()
    size = [int(n) for n in runs.size]
    rle: Any = mask_utils.frPyObjects({"size": size, "counts": counts}, *size)
    return {"size": size, "counts": rle["counts"].decode()}
