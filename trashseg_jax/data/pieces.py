"""Connected pieces of a mask: objects, where nobody has drawn them one by one.

`class_runs.count_pieces` counts those of all classes at once, in little memory.
"""

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

EIGHT = np.ones((3, 3), int)  # neighbours: pixels that touch at a corner are of one piece


def find_pieces(
    mask: Bool[np.ndarray, "h w"],
) -> list[tuple[tuple[slice, slice], Bool[np.ndarray, "..."]]]:
    """Returns the box of each piece, rows and columns, and the piece itself within it."""
    numbered, _ = ndimage.label(mask, EIGHT)  # pyright: ignore
    boxes = enumerate(ndimage.find_objects(numbered), start=1)
    return [(box, numbered[box] == number) for number, box in boxes]
