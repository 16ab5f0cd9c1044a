"""Connected pieces of a mask: objects, where nobody has drawn them one by one."""

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

EIGHT = np.ones((3, 3), int)  # neighbours: pixels that touch at a corner are of one piece


def count_pieces(mask: Bool[np.ndarray, "h w"]) -> int:
    _, pieces = ndimage.label(mask, EIGHT)  # pyright: ignore
    return int(pieces)
