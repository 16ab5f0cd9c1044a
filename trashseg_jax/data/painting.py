"""Paints annotations into label maps. pycocotools crashes on bad ones: here they are checked."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8
from pycocotools import mask as mask_utils

from trashseg_jax.data.photos import MAX_PIXELS
from trashseg_jax.data.taxonomy import IGNORE_LABEL
from trashseg_jax.errors import InputError, show

MAX_COORDINATE = 1e5  # pycocotools keeps five times the coordinate in 32 bits
MAX_OUTLINE = 5e6  # in pixels: pycocotools takes 80 bytes for each, and crashes if it gets none


@dataclasses.dataclass(frozen=True)
class Annotation:
    """One object: polygons `[[x0, y0, x1, y1, ...], ...]` or an RLE `{"size", "counts"}`."""

    id: int | str
    label: int
    segmentation: list | dict
    ignored: bool  # an area that counts nowhere, except where objects are annotated in it


class Painted(NamedTuple):
    """A label map, and of each annotation the pixels that its mask has, painted over or not."""

    classes: UInt8[np.ndarray, "h w"]
    areas: tuple[int, ...]


def paint(
    annotations: Iterable[Annotation], *, height: int, width: int, paint_order: str
) -> Painted:
    """Paints the label map of an image's annotations; what none covers is 0.

    A polygon covers the pixels (x, y) whose centres (x + 0.5, y + 0.5) it holds (even-odd where
    it crosses itself), to pycocotools' precision of 0.2 pixels. Ignored areas are painted first, as
    IGNORE_LABEL, then objects by `paint_order`, one of PAINT_ORDERS. "area": large masks first, so
    that small objects stay on top; "reference": by the length of the first polygon (of an RLE: the
    number of its runs), short ones first, as the experiments of "AIstage-segmentation" do.
    Equals keep their order. Raises InputError for a segmentation that is none.
    """
    annotations = list(annotations)
    masks = encode_masks(annotations, height=height, width=width)
    values = [IGNORE_LABEL if one.ignored else one.label for one in annotations]
    order = painting_sequence(annotations, masks, paint_order=paint_order)
    label = lay_masks(masks, values, order, np.zeros((height, width), np.uint8, order="F"))
    return Painted(np.ascontiguousarray(label), tuple(int(mask_utils.area(rle)) for rle in masks))


def encode_masks(annotations: Iterable[Annotation], *, height: int, width: int) -> list[Any]:
    """Returns pycocotools' RLE of each annotation; raises InputError as `paint` does."""
    return [_to_rle(annotation, height, width) for annotation in annotations]


def painting_sequence(
    annotations: Sequence[Annotation], masks: Sequence[Any], *, paint_order: str
) -> list[int]:
    """Returns the places of the annotations in the order in which `paint` paints them."""
    key = PAINT_ORDERS[paint_order]

    def rank(place: int) -> tuple[bool, int]:
        return not annotations[place].ignored, key(annotations[place], masks[place])

    return sorted(range(len(annotations)), key=rank)


def lay_masks(
    masks: Sequence[Any],
    values: Sequence[int],
    order: Iterable[int],
    canvas: Integer[np.ndarray, "h w"],
) -> Integer[np.ndarray, "h w"]:
    """Paints each mask's value onto the canvas, in place; best in Fortran's order, as masks are."""
    for place in order:
        x, y, width, height = mask_utils.toBbox(masks[place]).astype(int)
        box = np.s_[y : y + height, x : x + width]
        mask = mask_utils.decode(masks[place])[box].view(bool)
        np.copyto(canvas[box], canvas.dtype.type(values[place]), where=mask)
    return canvas


def reaches_outside(annotation: Annotation, *, height: int, width: int) -> bool:
    """Whether a polygon has a vertex outside the image; one on its border lies inside."""
    if isinstance(annotation.segmentation, dict):
        return False
    points = np.concatenate(annotation.segmentation).reshape(-1, 2)
    return bool((points < 0).any() or (points > (width, height)).any())


def _area_key(annotation: Annotation, rle: Any) -> int:
    del annotation
    return -int(mask_utils.area(rle))


def _reference_key(annotation: Annotation, rle: Any) -> int:
    del rle
    segmentation = annotation.segmentation
    if isinstance(segmentation, list):
        return len(segmentation[0])
    return len(_run_lengths(segmentation["counts"]))


PAINT_ORDERS = {"area": _area_key, "reference": _reference_key}


def _to_rle(annotation: Annotation, height: int, width: int) -> Any:
    """Returns pycocotools' RLE of an annotation's mask: the union of its polygons, or its RLE."""
    if fault := segmentation_fault(annotation.segmentation, size=(height, width)):
        raise InputError(f"annotation {annotation.id} {fault}")
    if isinstance(annotation.segmentation, list):
        return mask_utils.merge(mask_utils.frPyObjects(annotation.segmentation, height, width))
    runs = _run_lengths(annotation.segmentation["counts"])
    pixels = np.repeat(np.arange(len(runs)).astype(np.uint8) % 2, runs)
    return mask_utils.encode(pixels.reshape((height, width), order="F"))


# What is wrong with a segmentation; each text begins with a verb


def segmentation_fault(segmentation: Any, *, size: tuple[int, int] | None) -> str | None:
    """Says what pycocotools would misread or follow out of its memory's bounds, else None.

    Where the image's size, height and width, is not known yet, an RLE may be of any.
    """
    if isinstance(segmentation, list) and segmentation:
        return next(filter(None, map(_polygon_fault, segmentation)), None)
    if isinstance(segmentation, dict) and segmentation:
        return _rle_fault(segmentation, size)
    return f"has the segmentation {show(segmentation)}; it must be a list of polygons or an RLE"


def _polygon_fault(polygon: Any) -> str | None:
    if not isinstance(polygon, list):
        return f"has the polygon {show(polygon)}; it must be a list of numbers x, y, x, y, ..."
    for value in polygon:
        if type(value) not in (int, float) or not abs(value) <= MAX_COORDINATE:  # NaN, too
            return (
                f"has the polygon coordinate {show(value)}; it must be a number between "
                f"-{MAX_COORDINATE:.0f} and {MAX_COORDINATE:.0f}"
            )
    if len(polygon) < 6 or len(polygon) % 2:  # pycocotools takes four numbers for a box
        return f"has a polygon of {len(polygon)} numbers; three points or more have 6, 8, 10, ..."
    points = np.array(polygon, float).reshape(-1, 2)
    outline = np.abs(points - np.roll(points, 1, axis=0)).max(1).sum()
    if outline > MAX_OUTLINE:
        return (
            f"has a polygon whose outline is {outline:.0f} pixels long; it must be at most "
            f"{MAX_OUTLINE:.0f}"
        )
    return None


def _rle_fault(rle: dict[str, Any], size: tuple[int, int] | None) -> str | None:
    if size is None:
        size = _plausible_size(rle.get("size"))
    if size is None or rle.get("size") != list(size):
        return (
            f"has an RLE of size {show(rle.get('size'))}; it must be the image's, "
            f"{size or 'height and width'}"
        )
    try:
        runs = _run_lengths(rle.get("counts"))
    except ValueError as error:
        return f"has an RLE whose counts {error}"
    pixels = size[0] * size[1]
    for run in runs:
        if not 0 <= run <= pixels:
            return f"has an RLE with a run of {show(run)}; it must be from 0 to {pixels} pixels"
    if sum(runs) != pixels:
        return f"has an RLE whose counts sum to {sum(runs)}; they must sum to {pixels} pixels"
    return None


def _plausible_size(size: Any) -> tuple[int, int] | None:
    if not isinstance(size, list) or len(size) != 2 or any(type(n) is not int for n in size):
        return None
    return (size[0], size[1]) if min(size) > 0 and size[0] * size[1] <= MAX_PIXELS else None


def _run_lengths(counts: Any) -> list[int]:
    """Returns the lengths of the runs of 0, 1, 0, ... down the columns; ValueError if malformed."""
    if isinstance(counts, str):
        return _decompress(counts)
    if not isinstance(counts, list) or any(type(run) is not int for run in counts):
        raise ValueError(f"are {show(counts)}; they must be text or a list of whole numbers")
    return counts


def _decompress(text: str) -> list[int]:
    """Decodes COCO's compressed counts (rleFrString of its maskApi.c), with bounds.

    Each number is little-endian in characters from chr(48) of 5 bits, 32 marks that more follow,
    and its last bit is the sign; from the fourth on it is the difference to the last but one.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"are {show(text)}; they must be text that pycocotools wrote")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) >> 4 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError(f"are {show(text)}, which ends within a number; they must be whole")
    return runs
