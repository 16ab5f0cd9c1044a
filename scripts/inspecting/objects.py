"""The objects of an image: its annotations, or the connected pieces of a label image."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8
from pycocotools import mask as mask_utils

from trashseg_jax.data.class_runs import encode, find_runs
from trashseg_jax.data.formats.coco import Annotations
from trashseg_jax.data.painting import encode_masks, lay_masks, painting_sequence, reaches_outside
from trashseg_jax.data.pieces import find_pieces
from trashseg_jax.data.records import LabelSource
from trashseg_jax.data.taxonomy import IGNORE_LABEL

# What may be wrong with an object, and what of it is measured; suspicious.py has the words.
TINY = 16.0  # pixels, in the image or as it is scaled down for the network
WHOLE = 0.95  # of the image
OVERLAP = 0.5  # intersection over union with an object of another class
OUTSIDE = 0.01  # of the image's longer side: less is a tool's rounding


class Suspicion(NamedTuple):
    """A kind of suspicious.KINDS, how much of it, and the place of the other object, if any."""

    kind: str
    amount: float
    other: int = -1


class Object(NamedTuple):
    """An object; it is found again by its place among those of its image."""

    label: int  # its class; IGNORE_LABEL: an area that counts nowhere
    id: int | str  # its annotation's; "" of a piece
    box: tuple[int, int, int, int]  # x, y, width, height of its mask
    area: int  # pixels of its mask
    visible: int  # those that no other one covers
    suspicions: tuple[Suspicion, ...]


class Masks(NamedTuple):
    """An image's objects as they are drawn: classes, ids and pycocotools' RLEs."""

    labels: list[int]
    ids: list[int | str]
    rles: list[Any]


def find_masks(source: LabelSource, classes: UInt8[np.ndarray, "h w"]) -> Masks:
    """Returns the objects of a source whose label map is `classes`."""
    if not isinstance(source, Annotations):
        return _find_pieces(classes)
    height, width = classes.shape
    rles = encode_masks(source.items, height=height, width=width)
    labels = [IGNORE_LABEL if item.ignored else item.label for item in source.items]
    return Masks(labels, [item.id for item in source.items], rles)


def _find_pieces(classes: UInt8[np.ndarray, "h w"]) -> Masks:
    labels, rles = [], []
    for k in sorted({*np.unique(classes).tolist()} - {0, IGNORE_LABEL}):
        for (rows, columns), piece in find_pieces(classes == k):
            whole = np.zeros(classes.shape, np.uint8)
            whole[rows, columns] = piece
            labels.append(k)
            rles.append(encode(find_runs(whole).of_class(1)))
    return Masks(labels, [""] * len(labels), rles)


def find_owners(
    source: LabelSource, masks: Masks, *, height: int, width: int
) -> Integer[np.ndarray, "h w"]:
    """Returns the place of the object that lies on top at each pixel, -1 where there is none."""
    order: Any = range(len(masks.rles))  # pieces do not overlap
    if isinstance(source, Annotations):
        order = painting_sequence(source.items, masks.rles, paint_order=source.paint_order)
    canvas = np.full((height, width), -1, np.int32, order="F")
    return lay_masks(masks.rles, range(len(masks.rles)), order, canvas)


def find_objects(
    source: LabelSource, classes: UInt8[np.ndarray, "h w"], *, image_size: int
) -> list[Object]:
    """Returns the objects of an image that the network is shown at `image_size`."""
    height, width = classes.shape
    masks = find_masks(source, classes)
    if not masks.rles:
        return []
    owners = find_owners(source, masks, height=height, width=width)
    visible = np.bincount(owners.ravel("K") + 1, minlength=len(masks.rles) + 1)[1:]
    found = _suspect_areas(masks, visible.tolist(), (height, width), image_size)
    _add_overlaps(found, masks)
    if isinstance(source, Annotations):
        _add_outside(found, masks, source, height, width)
    return [
        Object(
            label,
            own_id,
            tuple(mask_utils.toBbox(rle).astype(int).tolist()),
            int(mask_utils.area(rle)),
            int(seen),
            tuple(suspicions),
        )
        for label, own_id, rle, seen, suspicions in zip(*masks, visible, found, strict=True)
    ]


def _suspect_areas(
    masks: Masks, visible: list[int], size: tuple[int, int], image_size: int
) -> list[list[Suspicion]]:
    pixels, shown = size[0] * size[1], min(1.0, image_size / max(size)) ** 2
    found: list[list[Suspicion]] = []
    for label, rle, seen in zip(masks.labels, masks.rles, visible, strict=True):
        area = int(mask_utils.area(rle))
        kinds = {
            "empty": (area == 0, 0.0),
            "tiny": (0 < area * shown < TINY, area * shown),
            "whole": (area > WHOLE * pixels, area / pixels),
            "hidden": (area > 0 and not seen, area),
        }
        of_class = kinds if label != IGNORE_LABEL else {}
        found.append([Suspicion(k, amount) for k, (so, amount) in of_class.items() if so])
    return found


def _add_overlaps(found: list[list[Suspicion]], masks: Masks) -> None:
    """Adds, to the later one of each pair, what covers the same pixels under another class."""
    iou = np.asarray(mask_utils.iou(masks.rles, masks.rles, [0] * len(masks.rles)))
    labels = np.array(masks.labels)
    counts = labels != IGNORE_LABEL
    pairs = (iou > OVERLAP) & (labels[:, None] != labels) & counts[:, None] & counts
    for later, other in np.argwhere(np.tril(pairs, -1)).tolist():
        found[later].append(Suspicion("overlap", float(iou[later, other]), other))


def _add_outside(
    found: list[list[Suspicion]], masks: Masks, source: Annotations, height: int, width: int
) -> None:
    """Adds what reaches far outside; of what has no pixel inside that is said already."""
    for suspicions, rle, item in zip(found, masks.rles, source.items, strict=True):
        if not mask_utils.area(rle) or not reaches_outside(item, height=height, width=width):
            continue
        points = np.concatenate(item.segmentation).reshape(-1, 2)
        beyond = float(np.maximum(-points, points - (width, height)).max())
        if beyond > OUTSIDE * max(height, width):
            suspicions.append(Suspicion("outside", beyond))
