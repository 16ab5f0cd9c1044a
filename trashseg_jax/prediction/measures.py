"""What is counted of a photograph's prediction, and its masks as run lengths."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from pycocotools import mask as mask_utils

from trashseg_jax.data.pieces import count_pieces
from trashseg_jax.inference import Segmented

STRIP = 256  # lines
Rle = dict[str, Any]  # {"size": [h, w], "counts": text}, as COCO's jsons have it


def measure(segmented: Segmented, *, names: Sequence[str], min_confidence: float) -> dict[str, Any]:
    """Returns, as json holds it, what the summaries need of a photograph.

    `classes` has pixels, pieces, mean confidence, box [x, y, width, height] and RLE of each class
    that there is; `unsure` is the RLE of the pixels below `min_confidence`.
    """
    classes = segmented.classes
    sums, unsure = np.zeros(256), np.empty(classes.shape, bool, "F")
    # In strips: float32 of a whole panorama would take more memory than all else.
    for top in range(0, len(classes), STRIP):
        rows = np.s_[top : top + STRIP]
        confidence = segmented.confidence[rows].astype(np.float32)
        sums += np.bincount(classes[rows].ravel(), weights=confidence.ravel(), minlength=256)
        unsure[rows] = confidence < min_confidence
    # Columns first, as RLE counts: no class's mask is made a second time for it.
    by_columns, counts = np.asfortranarray(classes), count_classes(classes)
    return {
        "height": classes.shape[0],
        "width": classes.shape[1],
        "confidence": round(float(sums.sum() / classes.size), 6),
        "classes": {
            names[k]: _measure_class(by_columns == k, total=float(sums[k]))
            for k in np.flatnonzero(counts).tolist()
        },
        "unsure": to_rle(unsure),
    }


def count_classes(classes: UInt8[np.ndarray, "h w"]) -> Int64[np.ndarray, "256"]:
    """Returns the number of pixels of each value; bincount alone would make them all int64."""
    strips = (classes[top : top + STRIP] for top in range(0, len(classes), STRIP))
    return sum((np.bincount(s.ravel(), minlength=256) for s in strips), np.zeros(256, np.int64))


def to_rle(mask: Bool[np.ndarray, "h w"]) -> Rle:
    rle: Any = mask_utils.encode(np.asfortranarray(mask.view(np.uint8)))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode()}


def from_rle(rle: Rle) -> UInt8[np.ndarray, "h w"]:
    coded: Any = {"size": rle["size"], "counts": rle["counts"].encode()}
    return mask_utils.decode(coded)


def _measure_class(mask: Bool[np.ndarray, "h w"], *, total: float) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    (top, bottom), (left, right) = rows[[0, -1]].tolist(), columns[[0, -1]].tolist()
    pieces = count_pieces(mask[top : bottom + 1, left : right + 1].T)
    return {
        "pixels": int(mask.sum()),
        "pieces": pieces,
        "confidence": round(float(total / mask.sum()), 6),
        "box": [left, top, right - left + 1, bottom - top + 1],
        "rle": to_rle(mask),
    }
