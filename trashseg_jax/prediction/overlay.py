"""A photograph under its classes' colours, with a legend."""

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from trashseg_jax.prediction.measures import count_classes

SIDES = (480, 1600)  # pixels: a shorter or longer one's is scaled, so that the legend can be read
OPACITY = 0.5


def draw_overlay(
    image: UInt8[np.ndarray, "_ _ 3"],
    classes: UInt8[np.ndarray, "h w"],
    *,
    names: Sequence[str],
    palette: UInt8[np.ndarray, "k 3"],
) -> Image.Image:
    """Returns the picture: outlines and tint of all but the background; below, who is who.

    The photograph may be `shrink_photo`'s already.
    """
    photo = Image.fromarray(shrink_photo(image))
    _tint(photo, _shrink(classes, Image.Resampling.NEAREST), palette=palette)
    shares = count_classes(classes)[: len(names)] / classes.size
    return _with_legend(photo, shares, names=names, palette=palette)


def shrink_photo(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Returns the photograph at the overlay's size; another time nothing changes any more."""
    return _shrink(image, Image.Resampling.BILINEAR)


def _shrink(pixels: np.ndarray, resampling: Image.Resampling) -> np.ndarray:
    height, width = pixels.shape[:2]
    factor = np.clip(max(width, height), *SIDES) / max(width, height)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    if size == (width, height):
        return pixels
    # Thinned to two pixels for each, a panorama is not copied whole.
    step = max(1, int(0.5 / factor))
    return np.asarray(Image.fromarray(pixels[::step, ::step]).resize(size, resampling))


def encode_jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88)
    return file.getvalue()


def _tint(
    photo: Image.Image, labels: UInt8[np.ndarray, "h w"], *, palette: UInt8[np.ndarray, "k 3"]
) -> None:
    """Paints onto a photograph what `labels` show; by Pillow, several times as fast as NumPy."""
    indexed = Image.fromarray(labels)
    indexed.putpalette(palette.tobytes())
    colors = indexed.convert("RGB")
    photo.paste(Image.blend(photo, colors, OPACITY), mask=Image.fromarray(labels > 0))
    photo.paste(colors, mask=Image.fromarray(_edges(labels)))


def _edges(labels: UInt8[np.ndarray, "h w"]) -> np.ndarray:
    """Returns where an object meets another class to its right or below."""
    edges = np.zeros(labels.shape, bool)
    edges[:-1] |= labels[:-1] != labels[1:]
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return edges & (labels > 0)


def _with_legend(
    picture: Image.Image,
    shares: np.ndarray,
    *,
    names: Sequence[str],
    palette: UInt8[np.ndarray, "k 3"],
) -> Image.Image:
    """Adds a line, or several, of the classes that there are, the largest first."""
    text = max(14, max(picture.size) // 50)
    font = ImageFont.load_default(text)
    present = [k for k in np.argsort(-shares, kind="stable") if k and shares[k]]
    entries = [(f"{names[k]} {shares[k]:.1%}", tuple(map(int, palette[k]))) for k in present]
    entries = entries or [("no trash found", (0, 0, 0))]
    step, width = text + text // 2, max(picture.width, 16 * text)
    places, x, y = [], step // 2, 0
    for label, _ in entries:
        length = round(font.getlength(label)) + 2 * step
        if x + length > width and x > step // 2:
            x, y = step // 2, y + step
        places.append((x, y))
        x += length
    sheet = Image.new("RGB", (width, picture.height + y + 2 * step), "white")
    sheet.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(sheet)
    for (label, color), (x, y) in zip(entries, places, strict=True):
        y += picture.height + step // 2
        draw.rectangle((x, y, x + text, y + text), color, "black")
        draw.text((x + step, y - text // 8), label, "black", font)
    return sheet
