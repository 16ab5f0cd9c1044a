"""What is counted of a photograph's prediction, and its masks as run lengths."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from pycocotools import mask as mask_utils
from scipy import ndimage

from trashseg_jax.inference import Segmented

EIGHT = np.ones((3, 3), int)  # neighbours: pixels that touch at a corner are of one piece
Rle = dict[str, Any]  # {"size": [h, w], "counts": text}, as COCO's jsons have it


def measure(segmented: Segmented, *, names: Sequence[str], min_confidence: float) -> dict[str, Any]:
    """Returns, as json holds it, what the summaries need of a photograph.

    `classes` has pixels, pieces, mean confidence, box [x, y, width, height] and RLE of each class
    that there is; `unsure` is the RLE of the pixels below `min_confidence`.
    """
    classes, confidence = segmented.classes, segmented.confidence.astype(np.float32)
    return {
        "height": classes.shape[0],
        "width": classes.shape[1],
        "confidence": _mean(confidence),
        "classes": {
            names[k]: _measure_class(classes == k, confidence) for k in np.unique(classes).tolist()
        },
        "unsure": to_rle(confidence < min_confidence),
    }


def to_rle(mask: Bool[np.ndarray, "h w"]) -> Rle:
    rle: Any = mask_utils.encode(np.asfortranarray(mask.view(np.uint8)))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode()}


def from_rle(rle: Rle) -> UInt8[np.ndarray, "h w"]:
    coded: Any = {"size": rle["size"], "counts": rle["counts"].encode()}
    return mask_utils.decode(coded)


def _measure_class(mask: Bool[np.ndarray, "h w"], confidence: np.ndarray) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    (top, bottom), (left, right) = rows[[0, -1]].tolist(), columns[[0, -1]].tolist()
    _, pieces = ndimage.label(mask[top : bottom + 1, left : right + 1], EIGHT)  # pyright: ignore
    return {
        "pixels": int(mask.sum()),
        "pieces": int(pieces),
        "confidence": _mean(confidence[mask]),
        "box": [left, top, right - left + 1, bottom - top + 1],
        "rle": to_rle(mask),
    }


def _mean(values: np.ndarray) -> float:
    return round(float(values.mean(dtype=np.float64)), 6)
