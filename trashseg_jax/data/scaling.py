"""Scales photographs and labels on the host as pipeline.py does, without TensorFlow."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from trashseg_jax.data.taxonomy import IGNORE_LABEL

Size = tuple[int, int]  # height, width


def decode_photo(encoded: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the RGB pixels of what `photos.read_photo` gives."""
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def fit_photo(image: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "H W 3"]:
    """Scales the longer side to `side`, with antialiasing, and does not pad."""
    height, width = size = fitted_size(image.shape[:2], side)
    if image.shape[:2] == size:
        return image
    # As floats: of bytes Pillow rounds rows and columns each.
    channels = [
        Image.fromarray(image[..., i].astype(np.float32)).resize(
            (width, height), Image.Resampling.BILINEAR
        )
        for i in range(3)
    ]
    scaled = np.stack([np.asarray(channel) for channel in channels], -1)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def fitted_size(size: Size, side: int) -> Size:
    """Returns the height and width of an image whose longer side is scaled to `side`."""
    scaled = np.rint(np.array(size) * (side / max(size))).astype(int)
    height, width = np.maximum(scaled, 1).tolist()
    return height, width


def scale_label(label: UInt8[np.ndarray, "h w"], size: Size) -> UInt8[np.ndarray, "H W"]:
    """Takes the nearest pixels: those in which the new ones' centres lie."""
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * (old / new)).astype(int), old - 1)
        for old, new in zip(label.shape, size, strict=True)
    )
    return label[rows[:, None], columns]


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
