"""What is counted of a photograph's prediction, and its masks as run lengths."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, UInt8
from pycocotools import mask as mask_utils

from trashseg_jax.inference import Segmented
from trashseg_jax.prediction.runs import Rle, count_pieces, encode, find_runs, measure_box

STRIP = 256  # lines


def measure(segmented: Segmented, *, names: Sequence[str], min_confidence: float) -> dict[str, Any]:
    """Returns, as json holds it, what the summaries need of a photograph.

    `classes` has pixels, pieces, mean confidence, box [x, y, width, height] and RLE of each class
    that there is; `unsure` is the RLE of the pixels below `min_confidence`.
    """
    classes = segmented.classes
    sums, unsure = np.zeros(256), np.empty(classes.shape, bool)
    # In strips: float32 of a whole panorama would take more memory than all else.
    for top in range(0, len(classes), STRIP):
        rows = np.s_[top : top + STRIP]
        confidence = segmented.confidence[rows].astype(np.float32)
        sums += np.bincount(classes[rows].ravel(), weights=confidence.ravel(), minlength=256)
        unsure[rows] = confidence < min_confidence
    return {
        "height": classes.shape[0],
        "width": classes.shape[1],
        "confidence": round(float(sums.sum() / classes.size), 6),
        "classes": _measure_classes(classes, sums=sums, names=names),
        "unsure": to_rle(unsure),
    }


def to_rle(mask: Bool[np.ndarray, "h w"]) -> Rle:
    rle: Any = mask_utils.encode(np.asfortranarray(mask.view(np.uint8)))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode()}


def from_rle(rle: Rle) -> UInt8[np.ndarray, "h w"]:
    coded: Any = {"size": rle["size"], "counts": rle["counts"].encode()}
    return mask_utils.decode(coded)


def _measure_classes(
    classes: UInt8[np.ndarray, "h w"], *, sums: Float64[np.ndarray, "256"], names: Sequence[str]
) -> dict[str, Any]:
    """Returns the figures of each class that there is; `sums` are those of its confidences."""
    runs = find_runs(classes)
    pixels = np.bincount(runs.classes, runs.ends - runs.starts, minlength=256).astype(int)
    pieces = count_pieces(runs)
    found = {}
    for k in np.flatnonzero(pixels).tolist():
        own = runs.of_class(k)
        found[names[k]] = {
            "pixels": int(pixels[k]),
            "pieces": int(pieces[k]),
            "confidence": round(float(sums[k] / pixels[k]), 6),
            "box": measure_box(own),
            "rle": encode(own),
        }
    return found
