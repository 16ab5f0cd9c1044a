"""A brute force for connected pieces."""

import numpy as np


def flood_pieces(mask):
    """Pieces of pixels that touch by an edge or corner, by flooding from each."""
    left, pieces = set(map(tuple, np.argwhere(mask).tolist())), 0
    while left:
        front, pieces = [left.pop()], pieces + 1
        while front:
            y, x = front.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            front += near
    return pieces
