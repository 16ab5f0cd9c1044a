"""Scales photographs and labels on the host as pipeline.py does, without TensorFlow."""

import io
import math

import numpy as np
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image

from trashseg_jax.data.taxonomy import IGNORE_LABEL

Size = tuple[int, int]  # height, width
STRIP = 256  # lines that are floats at a time


def decode_photo(encoded: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the RGB pixels of what `photos.read_photo` gives."""
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def fit_photo(image: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "H W 3"]:
    """Scales the longer side to `side`, with antialiasing, and does not pad."""
    size = fitted_size(image.shape[:2], side)
    if image.shape[:2] == size:
        return image
    return scale_lines(image, size, top=0, bottom=size[0])


def scale_lines(
    image: UInt8[np.ndarray, "h w 3"], size: Size, *, top: int, bottom: int
) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the lines from `top` to `bottom` of the photograph scaled to `size`.

    Bilinear with antialiasing: Pillow's, and its two passes, columns first. These take the
    photograph in strips, so that it never lies in memory as floats.
    """
    if image.shape[:2] == size:
        return image[top:bottom]
    (height, _), (lines, width) = image.shape[:2], size
    begin, end = top * height / lines, bottom * height / lines
    reach = max(height / lines, 1) + 1  # the filter's, in lines of the photograph
    first, last = max(int(begin - reach), 0), min(math.ceil(end + reach), height)
    strips = range(first, last, STRIP)
    narrow = np.concatenate([_scale_columns(image[at:last][:STRIP], width) for at in strips], 1)
    box = (0, begin - first, width, end - first)
    scaled = np.stack([_resize(plane, (width, bottom - top), box) for plane in narrow], -1)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _scale_columns(
    lines: UInt8[np.ndarray, "h w 3"], width: int
) -> Float32[np.ndarray, "3 h {width}"]:
    # As floats: of bytes Pillow rounds rows and columns each.
    planes = (lines[..., i].astype(np.float32) for i in range(3))
    return np.stack([_resize(plane, (width, len(lines)), None) for plane in planes])


def _resize(plane, size, box):
    return np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR, box))


def scaled_size(size: Size, factor: float) -> Size:
    """Returns the height and width of an image that is scaled by a factor."""
    height, width = (max(round(length * factor), 1) for length in size)
    return height, width


def fitted_size(size: Size, side: int) -> Size:
    """Returns the height and width of an image whose longer side is scaled to `side`."""
    scaled = np.rint(np.array(size) * (side / max(size))).astype(int)
    height, width = np.maximum(scaled, 1).tolist()
    return height, width


def scale_label(label: UInt8[np.ndarray, "h w"], size: Size) -> UInt8[np.ndarray, "H W"]:
    return nearest(label, size)


def nearest(values: Shaped[np.ndarray, "h w"], size: Size) -> Shaped[np.ndarray, "H W"]:
    """Takes the nearest pixels: those in which the new ones' centres lie."""
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * (old / new)).astype(int), old - 1)
        for old, new in zip(values.shape, size, strict=True)
    )
    return values[rows[:, None], columns]


def pad_photo(image: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "s s 3"]:
    """Fills the square up with black, below and on the right."""
    return _pad(image, side, value=0)


def pad_label(label: UInt8[np.ndarray, "h w"], side: int) -> UInt8[np.ndarray, "s s"]:
    """Fills the square up with ignored pixels, below and on the right."""
    return _pad(label, side, value=IGNORE_LABEL)


def _pad(pixels, side, *, value):
    height, width = pixels.shape[:2]
    margins = [(0, side - height), (0, side - width), *[(0, 0)] * (pixels.ndim - 2)]
    return np.pad(pixels, margins, constant_values=value)
