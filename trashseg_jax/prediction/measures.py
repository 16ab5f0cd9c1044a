"""What is counted of a photograph's prediction, and its masks as run lengths."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, UInt8
from pycocotools import mask as mask_utils

from trashseg_jax.inference import Segmented
from trashseg_jax.prediction.runs import (
    STRIP,
    Rle,
    Runs,
    count_pieces,
    encode,
    find_runs,
    measure_box,
    sum_classes,
)


def measure(segmented: Segmented, *, names: Sequence[str], min_confidence: float) -> dict[str, Any]:
    """Returns, as json holds it, what the summaries need of a photograph.

    `classes` has pixels, pieces, mean confidence, box [x, y, width, height] and RLE of each class
    that there is; `unsure` is the RLE of the pixels below `min_confidence`.
    """
    classes, confidence = segmented.classes, segmented.confidence
    runs = find_runs(classes)
    sums, unsure = np.zeros(256), np.empty(classes.shape, bool, "F")
    # In strips: float32 of a whole panorama would take more memory than all else.
    for left in range(0, classes.shape[1], STRIP):
        strip = np.s_[:, left : left + STRIP]
        columns = confidence[strip].T.astype(np.float32, order="C")
        sums += sum_classes(runs, columns, left=left)  # exact in any order: float16 in float64
        unsure[strip] = (columns < min_confidence).T
    return {
        "height": classes.shape[0],
        "width": classes.shape[1],
        "confidence": round(float(sums.sum() / classes.size), 6),
        "classes": _measure_classes(runs, sums=sums, names=names),
        "unsure": to_rle(unsure),
    }


def to_rle(mask: Bool[np.ndarray, "h w"]) -> Rle:
    rle: Any = mask_utils.encode(np.asfortranarray(mask.view(np.uint8)))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode()}


def from_rle(rle: Rle) -> UInt8[np.ndarray, "h w"]:
    coded: Any = {"size": rle["size"], "counts": rle["counts"].encode()}
    return mask_utils.decode(coded)


def _measure_classes(
    runs: Runs, *, sums: Float64[np.ndarray, "256"], names: Sequence[str]
) -> dict[str, Any]:
    """Returns the figures of each class that there is; `sums` are those of its confidences."""
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
