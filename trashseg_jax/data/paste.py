"""Copy-paste: objects of other photographs in a training image (Ghiasi et al. 2021).

A bank's objects are scaled, mirrored and blended in on the host, in NumPy; `object_bank.py` makes
the bank. What is pasted where depends on the seed and the position in the stream alone.
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64, UInt8
from PIL import Image
from scipy import ndimage

STREAM = 2**62 + 3  # sets the key apart from those of sampling.py and crops.py

Pasting = Callable[
    [UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"], int, tuple[float, float]],
    None,
]


@dataclasses.dataclass(frozen=True)
class Bank:
    """Objects cut out of photographs, with a margin, sorted by class.

    `pixels` holds the red, green, blue and the mask, 0 or 255, of all of them, one after the other,
    and `shapes` the height and width of each. `sides` is how long the longer side of an object's
    photograph is at the object's scale: the object's size means nothing without it. `found` counts,
    by class, what the training split has of such objects, of which the bank holds a part.
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
        """Returns an object's colours and mask."""
        height, width = self.shapes[index]
        end = self.ends[index]
        return self.pixels[end - height * width : end].reshape(height, width, 4)


class Placed(NamedTuple):
    """One object as it is to be pasted."""

    index: int  # in the bank
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
    border: float,
) -> Pasting:
    """Returns a function of image, label, position and sides, which pastes into the first two.

    With `probability` an image gets from 1 to `objects` objects, each number as likely. An object's
    class is drawn with `class_weights`, then one of the bank's of that class, all as likely. The
    logarithm of its scale is uniform over `scale`, its centre over the image, which cuts off what
    reaches beyond. With `flip`, half of them are mirrored. `border` is the standard deviation, in
    pixels, with which the edge is blended.

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
            paste_object(image, label, bank, place(draws), sides=sides, border=border)

    return paste


def paste_object(
    image: UInt8[np.ndarray, "h w 3"],
    label: UInt8[np.ndarray, "h w"],
    bank: Bank,
    placed: Placed,
    *,
    sides: tuple[float, float],
    border: float,
) -> None:
    """Blends an object in, in place; where it covers half of a pixel or more, the label is its own.

    That holds for ignored pixels too.
    """
    # The part of the object that lies within the image.
    factor = placed.scale / bank.sides[placed.index]
    height, width = (
        max(1, round(side * factor * length))
        for side, length in zip(sides, bank.shapes[placed.index].tolist(), strict=True)
    )
    top = round(placed.centre[0] * label.shape[0] - height / 2)
    left = round(placed.centre[1] * label.shape[1] - width / 2)
    rows = slice(max(top, 0), min(top + height, label.shape[0]))
    columns = slice(max(left, 0), min(left + width, label.shape[1]))
    inside = (
        slice(rows.start - top, rows.stop - top),
        slice(columns.start - left, columns.stop - left),
    )

    colours, alpha = _scale(bank.cutout(placed.index), (height, width), border=border)
    if placed.flipped:
        colours, alpha = colours[:, ::-1], alpha[:, ::-1]
    colours, alpha = colours[inside], alpha[inside]
    below = image[rows, columns]
    image[rows, columns] = np.rint(below + alpha[..., None] * (colours - below.astype(np.float32)))
    label[rows, columns][alpha >= 0.5] = bank.classes[placed.index]


def _scale(
    cutout: UInt8[np.ndarray, "h w 4"], size: tuple[int, int], *, border: float
) -> tuple[UInt8[np.ndarray, "H W 3"], Float[np.ndarray, "H W"]]:
    """Returns an object's colours, and its mask as a share of each pixel, the edge blurred."""
    colours, mask = cutout[..., :3], cutout[..., 3]
    if size != mask.shape:
        # Apart from each other: Pillow would blacken colours that a mask leaves out.
        colours, mask = (resize(part, size) for part in (colours, mask))
    alpha = mask.astype(np.float32) / 255
    if border:
        alpha = ndimage.gaussian_filter(alpha, border, mode="constant")
    return colours, alpha


def resize(pixels: UInt8[np.ndarray, "..."], size: tuple[int, int]) -> UInt8[np.ndarray, "..."]:
    """Scales to height and width, bilinearly and with antialiasing."""
    height, width = size
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
