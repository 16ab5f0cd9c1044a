"""Small pictures of images, of objects in them, and of what is said about them."""

import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from pycocotools import mask as mask_utils
from scipy.ndimage import binary_dilation

from inspecting.objects import Masks, find_masks
from trashseg_jax.ahead import map_ahead
from trashseg_jax.data.records import Record, load_example
from trashseg_jax.data.scaling import decode_photo, scale_label
from trashseg_jax.data.taxonomy import palette, shown_colors

QUALITY = 72
AROUND = 0.6  # of an object's longer side, shown on each side of it
LEAST = 12  # pixels, too
TINT = 0.45

Pixels = UInt8[np.ndarray, "h w 3"]
Classes = UInt8[np.ndarray, "h w"]
Box = tuple[int, int, int, int]  # x, y, width, height


class Opened(NamedTuple):
    """An image that pictures are made of."""

    photo: Pixels
    classes: UInt8[np.ndarray, "h w"]
    masks: Masks


# What makes a picture's pixels, no larger than a side, of an image.
Draw = Callable[[Opened], Pixels]


class Wanted(NamedTuple):
    """A picture that the page asks for."""

    record: Record
    draw: Draw


class Painter:
    """Draws pictures whose longer side has `side` pixels, in the classes' colours."""

    def __init__(self, *, num_classes: int, side: int):
        self.side = side
        self.colors = np.zeros((256, 3), np.uint8)
        self.colors[:num_classes] = shown_colors(palette(num_classes))
        self.colors[255] = 128

    def photo(self, opened: Opened) -> Pixels:
        return _fit(opened.photo, self.side)

    def labelled(self, opened: Opened) -> Pixels:
        """The image under the colours of its classes, which have an outline."""
        return self.tint(_fit(opened.photo, self.side), opened.classes)

    def tint(self, photo: Pixels, classes: UInt8[np.ndarray, "_ _"]) -> Pixels:
        """Paints the classes' colours, scaled to the photograph, on all but the background."""
        labels = scale_label(classes, photo.shape[:2])
        colors, shown = self.colors[labels], (labels > 0)[..., None]
        mixed = np.where(shown, photo * (1 - TINT) + colors * TINT, photo).astype(np.uint8)
        return np.where(edges_of(labels)[..., None], colors, mixed)

    def object(self, *places: int) -> Draw:
        """Returns what draws the surroundings of an object, outlined, and of others of its image.

        The first one is in the middle.
        """

        def draw(opened: Opened) -> Pixels:
            rles = [opened.masks.rles[place] for place in places]
            labels = [opened.masks.labels[place] for place in places]
            return self._outline(opened.photo, rles, labels)

        return draw

    def mask(self, rle: Any, label: int, *, prediction: Classes | None = None) -> Draw:
        """Returns what draws the surroundings of a mask, outlined in a class's colour.

        `prediction`, of any size, is what a model sees in the whole image: it is tinted so.
        """

        def draw(opened: Opened) -> Pixels:
            return self._outline(opened.photo, [rle], [label], seen=prediction)

        return draw

    def seen(self, prediction: Classes) -> Draw:
        """Returns what draws an image under the colours of what a model sees in it."""
        return lambda opened: self.tint(_fit(opened.photo, self.side), prediction)

    def _outline(
        self,
        photo: Pixels,
        rles: Sequence[Any],
        labels: Sequence[int],
        *,
        seen: Classes | None = None,
    ) -> Pixels:
        window = surroundings(box_of(rles[0]), photo.shape[:2])
        picture = _fit(photo[window], self.side).copy()
        if seen is not None:
            picture = self.tint(picture, scale_label(seen, photo.shape[:2])[window])
        for rle, label in reversed([*zip(rles, labels, strict=True)]):
            mask = mask_utils.decode(rle)[window].view(bool)
            draw_outline(picture, mask, self.colors[label])
        return picture


def surroundings(box: Box, size: tuple[int, int]) -> tuple[slice, slice]:
    """Returns the rows and columns around a box: a square where the image has room."""
    x, y, width, height = box
    longer = max(width, height)
    half = longer / 2 + max(AROUND * longer, LEAST)
    rows, columns = (
        _window(first + length / 2, half, whole)
        for first, length, whole in ((y, height, size[0]), (x, width, size[1]))
    )
    return rows, columns


def _window(centre: float, half: float, whole: int) -> slice:
    """Moves a window that reaches over the border back into the image."""
    length = min(round(2 * half), whole)
    first = min(max(round(centre - half), 0), whole - length)
    return slice(first, first + length)


def box_of(rle: Any) -> Box:
    x, y, width, height = mask_utils.toBbox(rle).astype(int).tolist()
    return x, y, width, height


def draw_outline(
    picture: Pixels, mask: Bool[np.ndarray, "_ _"], color: UInt8[np.ndarray, "3"]
) -> None:
    """Draws, in place, a mask's border in a colour, between black and white lines."""
    if not mask.any():
        return
    scaled = scale_label(mask.view(np.uint8), picture.shape[:2]).view(bool)
    if not scaled.any():  # smaller than a pixel: its centre
        rows, columns = np.nonzero(mask)
        at = [
            int(n.mean() * new / old)
            for n, new, old in zip((rows, columns), scaled.shape, mask.shape, strict=True)
        ]
        scaled[tuple(at)] = True
    rings = [scaled]
    for _ in range(3):
        rings.append(binary_dilation(rings[-1], np.ones((3, 3), bool)))
    picture[rings[3] & ~rings[2]] = 0
    picture[rings[2] & ~rings[0]] = color
    if max(color) < 160:  # a dark colour is told from black by white
        picture[rings[3] & ~rings[2]] = 255


def edges_of(labels: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Returns where an object meets another class to its right or below."""
    edges = np.zeros(labels.shape, bool)
    edges[:-1] |= labels[:-1] != labels[1:]
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return edges & (labels > 0)


def encode(pixels: Pixels) -> bytes:
    """Returns the picture as WebP."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", quality=QUALITY, method=4)
    return file.getvalue()


def draw_all(
    wanted: Sequence[Wanted], *, num_classes: int
) -> list[tuple[bytes, tuple[int, int, int]]]:
    """Returns the pictures and their shapes, in order; each image is read once for all its own."""
    by_record: dict[int, list[int]] = {}
    for place, one in enumerate(wanted):
        by_record.setdefault(id(one.record), []).append(place)

    def draw(places: list[int]) -> list[tuple[int, tuple]]:
        opened = open_image(wanted[places[0]].record, num_classes=num_classes)
        drawn = [(place, wanted[place].draw(opened)) for place in places]
        return [(place, (encode(pixels), pixels.shape)) for place, pixels in drawn]

    drawn = [pair for pairs in map_ahead(draw, by_record.values()) for pair in pairs]
    return [picture for _, picture in sorted(drawn, key=lambda pair: pair[0])]


def open_image(record: Record, *, num_classes: int) -> Opened:
    image, label = load_example(record, num_classes=num_classes)
    masks = find_masks(record.source, label.classes)
    return Opened(decode_photo(image), label.classes, masks)


def _fit(photo: Pixels, side: int) -> Pixels:
    """Returns a photograph whose longer side is `side`; a smaller one's pixels become squares."""
    height, width = photo.shape[:2]
    factor = side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    # Thinned to two pixels for each, a large one is not copied whole.
    step = max(1, int(0.5 / factor))
    kind = Image.Resampling.BILINEAR if factor < 4 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(photo[::step, ::step]).resize(size, kind))
