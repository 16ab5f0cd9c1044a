"""Masks as polygons: the one form of a COCO outline that every annotation tool opens."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool

Point = tuple[int, int]  # x, y: corners of pixels

# From a corner on, the next step of each direction: a right turn, straight on, a left turn.
TURNS = {
    (1, 0): ((0, 1), (1, 0), (0, -1)),
    (0, 1): ((-1, 0), (0, 1), (1, 0)),
    (-1, 0): ((0, -1), (-1, 0), (0, 1)),
    (0, -1): ((1, 0), (0, -1), (-1, 0)),
}


def trace_polygons(mask: Bool[np.ndarray, "h w"]) -> list[list[int]]:
    """Returns the outer borders of a mask's pieces, the largest first, as COCO's polygons.

    They run along the pixels' edges, so that painting them gives the mask back; but holes, which
    COCO's polygons know nothing of, are filled. Pixels that touch at a corner are pieces apart.
    """
    rings = [*_rings(_edges(mask))]
    areas = [_area(ring) for ring in rings]
    outer = sorted(zip(areas, rings, strict=True), key=lambda pair: -pair[0])
    return [[int(n) for point in ring for n in point] for area, ring in outer if area > 0]


def _edges(mask: Bool[np.ndarray, "h w"]) -> set[tuple[Point, Point]]:
    """Returns the border's steps, from a corner in a direction; the mask is at their right."""
    padded = np.pad(mask, 1)
    inner = padded[1:-1, 1:-1]
    steps = []
    for outside, at, step in (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),  # above: to the right
        (padded[1:-1, 2:], (1, 0), (0, 1)),  # at the right: down
        (padded[2:, 1:-1], (1, 1), (-1, 0)),  # below: to the left
        (padded[1:-1, :-2], (0, 1), (0, -1)),  # at the left: up
    ):
        rows, columns = np.nonzero(inner & ~outside)
        corners = zip((columns + at[0]).tolist(), (rows + at[1]).tolist(), strict=True)
        steps += [(corner, step) for corner in corners]
    return set(steps)


def _rings(edges: set[tuple[Point, Point]]) -> Iterator[list[Point]]:
    """Yields closed borders as their corners."""
    left = set(edges)
    for start in sorted(edges):
        ring, (at, step) = [], start
        while (at, step) in left:
            left.remove((at, step))
            at = at[0] + step[0], at[1] + step[1]
            following = next(turn for turn in TURNS[step] if (at, turn) in edges)
            if following != step:
                ring.append(at)
            step = following
        if ring:
            yield ring


def _area(ring: list[Point]) -> float:
    """Returns the area within a ring; that of a hole is negative."""
    x, y = np.array(ring).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
