"""Connected pieces of a mask: objects, where nobody has drawn them one by one."""

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

EIGHT = np.ones((3, 3), int)  # neighbours: pixels that touch at a corner are of one piece


def count_pieces(mask: Bool[np.ndarray, "h w"]) -> int:
    _, pieces = ndimage.label(mask, EIGHT)  # pyright: ignore
    return int(pieces)


def find_pieces(
    mask: Bool[np.ndarray, "h w"],
) -> list[tuple[tuple[slice, slice], Bool[np.ndarray, "..."]]]:
    """Returns the box of each piece, rows and columns, and the piece itself within it."""
    numbered, _ = ndimage.label(mask, EIGHT)  # pyright: ignore
    boxes = enumerate(ndimage.find_objects(numbered), start=1)
    return [(box, numbered[box] == number) for number, box in boxes]
