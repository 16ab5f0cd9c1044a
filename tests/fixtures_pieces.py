"""Connected pieces: a brute force, and a piece that is hard to follow."""

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


def draw_spiral():
    """u8[41,41]: 1 on a spiral, whose lines lie in nearly every row and column."""
    classes = np.zeros((41, 41), np.uint8)
    for ring in range(0, 20, 2):  # each ring opens into the next
        classes[ring, max(ring - 2, 0) : 41 - ring] = classes[ring : 41 - ring, 40 - ring] = 1
        classes[40 - ring, ring : 41 - ring] = classes[ring + 2 : 41 - ring, ring] = 1
    return classes
