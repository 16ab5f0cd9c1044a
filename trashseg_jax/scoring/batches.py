"""What all ways of scoring share: how images are batched, and what is counted of a scaled one."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Integer, UInt8

from trashseg_jax import boundary
from trashseg_jax.settings import Config

Batch = dict[str, Any]


def batch_options(config: Config) -> dict[str, int]:
    return {
        "batch_size": config.eval.batch_size,
        "image_size": config.data.image_size,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }


def along_boundaries(
    batch: Batch, predictions: UInt8[np.ndarray, "b h w"], *, num_classes: int, share: float
) -> dict[str, Integer[np.ndarray, "b k 2"]]:
    """Counts `boundary` in the scaled images without their padding; nothing where `share` is 0."""
    if not share:
        return {}
    counts = np.zeros((len(batch["id"]), num_classes, 2), np.int64)
    for row in np.flatnonzero(batch["mask"]):
        height, width = batch["size"][row]
        both = (one[row, :height, :width] for one in (batch["label"], predictions))
        counts[row] = boundary.count_overlaps(*both, num_classes=num_classes, share=share)
    return {"boundary": counts}
