"""Copy-paste: objects of other photographs in a training image (Ghiasi et al. 2021).

A bank's objects are scaled, mirrored and blended in on the host, in NumPy; `object_bank.py` makes
the bank. What is pasted where depends on the seed and the position in the stream alone.
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from PIL import Image

STREAM = 2**62 + 3  # sets the key apart from those of sampling.py and crops.py
HALF = 128  # of alpha
Part = tuple[float, float, float, float]  # top, left, bottom, right: shares of height and width
WHOLE: Part = (0.0, 0.0, 1.0, 1.0)

Pasting = Callable[
    [UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"], int, tuple[float, float]],
    None,
]


@dataclasses.dataclass(frozen=True)
class Bank:
    """Objects cut out of photographs, with a margin, sorted by class.

    `pixels` holds red, green, blue and alpha of all of them, one after the other, and `shapes` the
    height and width of each. Alpha is the object's mask, its edge blurred. `sides` is the longer
    side of an object's photograph, in pixels at the object's scale. `found` counts, by class, the
    training split's objects, of which the bank may hold a part.
    """

    pixels: UInt8[np.ndarray, "p 4"]
    shapes: Int64[np.ndarray, "n 2"]
    sides: Float64[np.ndarray, "n"]
    classes: Int64[np.ndarray, "n"]
    found: Int64[np.ndarray, "k"]

    @cached_property
    def ends(self) -> Int64[np.ndarray, "n"]:
        return np.cumsum(self.shapes.prod(1))

    @property
    def counts(self) -> Int64[np.ndarray, "k"]:
        """Objects in the bank by class."""
        return np.bincount(self.classes, minlength=len(self.found))

    def cutout(self, index: int) -> UInt8[np.ndarray, "h w 4"]:
        """Returns an object's colours and alpha."""
        height, width = self.shapes[index]
        end = self.ends[index]
        return self.pixels[end - height * width : end].reshape(height, width, 4)


class Placed(NamedTuple):
    """One object as it is to be pasted."""

    number: int  # in the bank
    scale: float  # times the size that it has relative to its photograph
    flipped: bool
    centre: tuple[float, float]  # shares of the image's height and width


def class_weights(bank: Bank, *, power: float) -> Float64[np.ndarray, "k"]:
    """Returns the probability that a pasted object is of each class: found^-power, normalised.

    Found in the training split; a class of which the bank has nothing gets 0.
    """
    there = bank.counts > 0
    weights = np.where(there, np.where(there, bank.found, 1.0) ** -power, 0.0)
    return weights / weights.sum()


def make_paste(
    bank: Bank,
    *,
    seed: int,
    probability: float,
    objects: int,
    scale: tuple[float, float],
    power: float,
    flip: bool,
) -> Pasting:
    """Returns a function of image, label, position and sides, which pastes into the first two.

    With `probability` an image gets from 1 to `objects` objects, each number as likely. An object's
    class is drawn with `class_weights`, then one of the bank's of that class, all as likely. The
    logarithm of its scale is uniform over `scale`, its centre over the image, which cuts off what
    reaches beyond. With `flip`, half of them are mirrored.

    `sides` is how many rows, and how many columns, the longer side of the image's photograph would
    take at the image's scale, which need not be the same: at scale 1 an object is as large a part
    of that side as it was of its own photograph's.
    """
    ends = np.cumsum(class_weights(bank, power=power))
    firsts, counts = np.searchsorted(bank.classes, np.arange(len(ends))), bank.counts
    low, high = np.log(scale)

    def place(draws) -> Placed:
        label = int(np.searchsorted(ends, draws[0] * ends[-1], side="right"))
        index = int(firsts[label] + int(draws[1] * counts[label]))
        factor = float(np.exp(low + draws[2] * (high - low)))
        return Placed(index, factor, flip and draws[3] < 0.5, (draws[4], draws[5]))

    def paste(image, label, position, sides):
        philox = np.random.Philox(key=[seed, STREAM], counter=[0, position, 0, 0])
        generator = np.random.Generator(philox)
        coin, number = generator.random(2)
        if coin >= probability:
            return
        for draws in generator.random((1 + int(number * objects), 6)).tolist():
            paste_object(image, label, bank, place(draws), sides=sides)

    return paste


def paste_object(
    image: UInt8[np.ndarray, "h w 3"],
    label: UInt8[np.ndarray, "h w"],
    bank: Bank,
    placed: Placed,
    *,
    sides: tuple[float, float],
) -> None:
    """Blends an object in, in place; where it covers half of a pixel or more, the label is its own.

    That holds for ignored pixels too.
    """
    # The object's size, and where it lies.
    cutout = bank.cutout(placed.number)
    factor = placed.scale / bank.sides[placed.number]
    height, width = (
        max(1, round(side * factor * length))
        for side, length in zip(sides, cutout.shape, strict=False)
    )
    top = round(placed.centre[0] * label.shape[0] - height / 2)
    left = round(placed.centre[1] * label.shape[1] - width / 2)
    rows = slice(max(top, 0), min(top + height, label.shape[0]))
    columns = slice(max(left, 0), min(left + width, label.shape[1]))

    # What of it lies in the image, as shares of its height and width.
    bottom_share, top_share = (rows.stop - top) / height, (rows.start - top) / height
    right_share, left_share = (columns.stop - left) / width, (columns.start - left) / width
    if placed.flipped:
        left_share, right_share = 1 - right_share, 1 - left_share
    part = (top_share, left_share, bottom_share, right_share)
    size = rows.stop - rows.start, columns.stop - columns.start
    pasted = scale_cutout(cutout, size, part=part)
    if placed.flipped:
        pasted = pasted.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    # Blended in.
    below, alpha = Image.fromarray(image[rows, columns]), pasted.getchannel(3)
    below.paste(pasted.convert("RGB"), mask=alpha)
    image[rows, columns] = np.asarray(below)
    label[rows, columns][np.asarray(alpha) >= HALF] = bank.classes[placed.number]


def scale_cutout(
    cutout: UInt8[np.ndarray, "h w 4"], size: tuple[int, int], *, part: Part
) -> Image.Image:
    """Scales a part to height and width, bilinearly and with antialiasing.

    Not as RGBA: Pillow would blacken the colours where alpha is 0, which an edge then blends in.
    """
    height, width = cutout.shape[:2]
    image = Image.frombuffer("RGBX", (width, height), cutout, "raw", "RGBX", 0, 1)
    top, left, bottom, right = part
    box = (left * width, top * height, right * width, bottom * height)
    return image.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box)
