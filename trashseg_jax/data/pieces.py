"""Connected pieces of a mask: objects, where nobody has drawn them one by one."""

import numpy as np
from jaxtyping import Bool, Int
from scipy import ndimage, sparse

EIGHT = np.ones((3, 3), int)  # neighbours: pixels that touch at a corner are of one piece
STRIP = 256  # lines whose pixels are numbered at a time: numbers take four times the mask's memory


def count_pieces(mask: Bool[np.ndarray, "h w"]) -> int:
    """Counts strip by strip; of the strips above it keeps their last line's numbers alone."""
    pieces, above = 0, np.zeros(mask.shape[1], np.int64)
    for top in range(0, len(mask), STRIP):
        numbers, count = ndimage.label(mask[top : top + STRIP], EIGHT)  # pyright: ignore
        pieces += count
        if above.any() and numbers[0].any():
            joined, above = _join(above, numbers[0], numbers[-1], count=count)
            pieces -= joined
        else:
            above = numbers[-1]
    return pieces


def find_pieces(
    mask: Bool[np.ndarray, "h w"],
) -> list[tuple[tuple[slice, slice], Bool[np.ndarray, "..."]]]:
    """Returns the box of each piece, rows and columns, and the piece itself within it."""
    numbered, _ = ndimage.label(mask, EIGHT)  # pyright: ignore
    boxes = enumerate(ndimage.find_objects(numbered), start=1)
    return [(box, numbered[box] == number) for number, box in boxes]


def _join(
    above: Int[np.ndarray, "w"],
    first: Int[np.ndarray, "w"],
    last: Int[np.ndarray, "w"],
    *,
    count: int,
) -> tuple[int, Int[np.ndarray, "w"]]:
    """Returns how many pieces fewer there are where a strip touches the line above it.

    0 is no piece, `first` and `last` are lines of the strip's `count` pieces. Returned as well: the
    last line, in which pieces that hang together have one number.
    """
    size = int(above.max(initial=0)) + 1  # the strip's numbers go behind those of the line above
    width = len(above)
    pairs = [
        (above[max(-s, 0) : width - max(s, 0)], first[max(s, 0) : width - max(-s, 0)])
        for s in (-1, 0, 1)  # straight below, and at the corners
    ]
    a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
    touching = (a > 0) & (b > 0)
    edges = a[touching], b[touching] + size - 1
    nodes = size + count
    graph = sparse.coo_array((np.ones(len(edges[0]), bool), edges), (nodes, nodes))
    groups, group = sparse.csgraph.connected_components(graph, directed=False)
    number = np.append(0, group[size:] + 1)  # of each of the strip's pieces
    _, renumbered = np.unique(np.append(0, number[last]), return_inverse=True)  # none left out
    return nodes - groups, renumbered[1:]
