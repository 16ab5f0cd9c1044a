"""What is counted of a photograph's prediction, and its masks as run lengths."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8
from pycocotools import mask as mask_utils

from trashseg_jax.data.class_runs import (
    STRIP,
    Rle,
    count_pieces,
    encode,
    find_runs,
    measure_box,
)
from trashseg_jax.inference import Segmented


def measure(segmented: Segmented, *, names: Sequence[str], min_confidence: float) -> dict[str, Any]:
    """Returns, as json holds it, what the summaries need of a photograph.

    `classes` has pixels, pieces, mean confidence, box [x, y, width, height] and RLE of each class
    that there is; `unsure` is the RLE of the pixels below `min_confidence`.
    """
    classes = segmented.classes
    sums, unsure = _measure_confidence(segmented, min_confidence=min_confidence)
    return {
        "height": classes.shape[0],
        "width": classes.shape[1],
        "confidence": round(float(sums.sum() / classes.size), 6),
        "classes": _measure_classes(classes, sums=sums, names=names),
        "unsure": unsure,
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


def _measure_confidence(
    segmented: Segmented, *, min_confidence: float
) -> tuple[Float64[np.ndarray, "256"], Rle]:
    """Returns each class's sum of confidences, and the pixels below `min_confidence`."""
    classes = segmented.classes
    # Columns first, as RLE counts: the mask is not made a second time for it.
    sums, unsure = np.zeros(256), np.empty(classes.shape, bool, "F")
    # In strips: float32 of a whole panorama would take more memory than all else.
    for top in range(0, len(classes), STRIP):
        rows = np.s_[top : top + STRIP]
        confidence = segmented.confidence[rows].astype(np.float32)
        sums += np.bincount(classes[rows].ravel(), weights=confidence.ravel(), minlength=256)
        unsure[rows] = confidence < min_confidence
    return sums, to_rle(unsure)


def _measure_classes(
    classes: UInt8[np.ndarray, "h w"], *, sums: Float64[np.ndarray, "256"], names: Sequence[str]
) -> dict[str, Any]:
    """Returns the figures of each class that there is; `sums` are those of its confidences."""
    runs = find_runs(classes)
    pieces = count_pieces(runs)
    found = {}
    for k in np.flatnonzero(pieces).tolist():
        own = runs.of_class(k)
        pixels = int((own.ends - own.starts).sum())
        found[names[k]] = {
            "pixels": pixels,
            "pieces": int(pieces[k]),
            "confidence": round(float(sums[k] / pixels), 6),
            "box": measure_box(own),
            "rle": encode(own),
        }
    return found
