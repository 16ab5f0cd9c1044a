"""Which part of an image a training batch gets, and which part of a JPEG that takes to decode."""

import math

import numpy as np

STREAM = 2**62 + 1  # sets the key apart from those of sampling.py
ATTEMPTS = 10
MARGIN = 2  # columns

Box = tuple[int, int, int, int]  # top, left, height, width


def random_box(
    shape: tuple[int, int],
    *,
    seed: int,
    position: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> Box:
    """Draws a box of an image of height and width `shape`, as torchvision's RandomResizedCrop does.

    Its share of the image's area is uniform, the logarithm of its width over its height too. Where
    none of ten such boxes fits in, it is `middle_box`. `seed` and `position` decide alone.
    """
    height, width = shape
    philox = np.random.Philox(key=[seed, STREAM], counter=[0, position, 0, 0])
    for draws in np.random.Generator(philox).random((ATTEMPTS, 4)).tolist():
        pixels = _between(area, draws[0]) * height * width
        aspect = math.exp(_between((math.log(ratio[0]), math.log(ratio[1])), draws[1]))
        h, w = round(math.sqrt(pixels / aspect)), round(math.sqrt(pixels * aspect))
        if 0 < h <= height and 0 < w <= width:
            return int(draws[2] * (height - h + 1)), int(draws[3] * (width - w + 1)), h, w
    return middle_box(shape, ratio=ratio)


def middle_box(shape: tuple[int, int], *, ratio: tuple[float, float]) -> Box:
    """Returns the largest box in the middle whose width over its height is within `ratio`."""
    height, width = shape
    h = max(1, min(height, round(width / ratio[0])))
    w = max(1, min(width, round(height * ratio[1])))
    return (height - h) // 2, (width - w) // 2, h, w


def whole_box(shape: tuple[int, int]) -> Box:
    return 0, 0, *shape


def decoding_window(box: Box, width: int) -> Box:
    """Returns what of a JPEG of `width` has to be decoded for the box to be exact.

    Where it stores colours at half the resolution, those of an outer column are interpolated with
    its neighbour's: two more columns on either side.
    """
    top, left, height, columns = box
    start = max(left - MARGIN, 0)
    return top, start, height, min(left + columns + MARGIN, width) - start


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + share * (ends[1] - ends[0])
