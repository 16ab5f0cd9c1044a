"""Which part of an image a training batch gets, and which part of a JPEG that takes to decode."""

import math

import numpy as np

from trashseg_jax.data.label_codec import Runs
from trashseg_jax.data.taxonomy import IGNORE_LABEL

STREAM = 2**62 + 1  # sets the key apart from those of sampling.py
OBJECT_STREAM = 2**62 + 2
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


def object_box(box: Box, runs: Runs, *, seed: int, position: int, probability: float) -> Box:
    """Moves a box of an image, with `probability`, to where it holds a pixel of an object.

    The pixel is drawn from `runs`, the image's label map: first its class, all of those in the
    image but the background being as likely, then one of that class's pixels. Every place of the
    box that holds the pixel is as likely. An image of nothing but background, or of ignored pixels,
    keeps its box. `seed` and `position` decide alone.
    """
    philox = np.random.Philox(key=[seed, OBJECT_STREAM], counter=[0, position, 0, 0])
    coin, *draws = np.random.Generator(philox).random(5).tolist()
    if coin >= probability or (pixel := _object_pixel(runs, draws[0], draws[1])) is None:
        return box
    _, _, height, width = box
    top = _place(draws[2], pixel[0], side=height, length=runs.shape[0])
    left = _place(draws[3], pixel[1], side=width, length=runs.shape[1])
    return top, left, height, width


def _object_pixel(runs: Runs, class_draw: float, pixel_draw: float) -> tuple[int, int] | None:
    """Returns row and column of the pixel that two numbers in [0, 1) choose; None: no object."""
    present = np.flatnonzero(np.bincount(runs.labels, minlength=IGNORE_LABEL + 1))
    present = present[(present > 0) & (present != IGNORE_LABEL)]
    if not len(present):
        return None
    ours = np.flatnonzero(runs.labels == present[int(class_draw * len(present))])
    ends = np.cumsum(runs.lengths[ours], dtype=np.int64)
    number = int(pixel_draw * ends[-1])  # of the class's pixels
    run = int(np.searchsorted(ends, number, side="right"))
    last = int(runs.lengths[: ours[run] + 1].sum(dtype=np.int64)) - 1  # pixel of that run
    return divmod(last - (int(ends[run]) - 1 - number), runs.shape[1])


def _place(draw: float, pixel: int, *, side: int, length: int) -> int:
    """Returns where a side begins that holds `pixel` and lies within `length`."""
    first, last = max(0, pixel - side + 1), min(pixel, length - side)
    return first + int(draw * (last - first + 1))


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
