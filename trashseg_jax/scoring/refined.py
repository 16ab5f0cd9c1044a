"""Scores behind the CRF."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, UInt8

from trashseg_jax import metrics
from trashseg_jax.ahead import one_behind
from trashseg_jax.data import scaling
from trashseg_jax.devices import sharding
from trashseg_jax.refine import engines, pool
from trashseg_jax.scoring.batches import Batch, along_boundaries
from trashseg_jax.scoring.originals import count_originals

REASON_BYTES = 120


def refine_batches(
    scored: Iterator[Batch], crf: engines.Engine, *, num_classes: int, boundary_share: float
) -> Iterator[Batch]:
    """Replaces `probs` by `refined` u8[b,h,w], its counts and `unrefined`.

    The counts are `refined_confusion` i64[b,k,k] and, unless `boundary_share` is 0,
    `refined_boundary` i64[b,k,2]. `unrefined` is u8[b,REASON_BYTES]: in ASCII why a row is the raw
    prediction, 0 where it is not. Each batch comes out after the next one went in: the CRF never
    waits for the model.
    """
    submitted = (
        (batch, submit_rows(crf, batch, sharding.local_rows(batch.pop("probs"))))
        for batch in scored
    )
    for batch, futures in one_behind(submitted):
        yield with_refined(batch, futures, num_classes=num_classes, boundary_share=boundary_share)


def submit_rows(
    crf: engines.Engine, batch: Batch, probs: Float32[np.ndarray, "b h w k"]
) -> list[engines.Answer]:
    """Hands the valid rows to the CRF without their padding, which would pull at the edge."""
    futures = []
    for row in np.flatnonzero(batch["mask"]):
        height, width = batch["size"][row]
        futures.append(
            crf.submit(probs[row, :height, :width], batch["image"][row, :height, :width])
        )
    return futures


def with_refined(
    batch: Batch, futures: list[engines.Answer], *, num_classes: int, boundary_share: float
) -> Batch:
    """Waits for a batch's refined rows; what they do not cover is 0, and ignored in the label.

    Counted at the photographs' size, where the batch has them, they are enlarged to the nearest
    pixel.
    """
    refined = np.zeros_like(batch["label"])
    reasons = [""] * len(refined)
    for row, future in zip(np.flatnonzero(batch["mask"]), futures, strict=True):
        height, width = batch["size"][row]
        try:
            classes = future.result()
        except pool.CrfError as error:
            classes = sharding.local_rows(batch["prediction"])[row, :height, :width]
            reasons[row] = str(error)
        refined[row, :height, :width] = classes
    if "encoded" in batch:
        enlarged = enlarge_refined(batch, refined, reasons)
        counts = count_originals(
            batch, enlarged, num_classes=num_classes, boundary_share=boundary_share
        )
    else:
        confusion = metrics.count_confusion(batch["label"], refined, num_classes=num_classes)
        near = along_boundaries(batch, refined, num_classes=num_classes, share=boundary_share)
        counts = {"confusion": confusion, **near}
    counts = {f"refined_{key}": rows for key, rows in counts.items()}
    # As numbers: only these travel between processes.
    unrefined = np.array(reasons, f"S{REASON_BYTES}").view(np.uint8).reshape(-1, REASON_BYTES)
    return {**batch, "refined": refined, **counts, "unrefined": unrefined}


def enlarge_refined(
    batch: Batch, refined: UInt8[np.ndarray, "b h w"], reasons: list[str]
) -> list[UInt8[np.ndarray, "_ _"]]:
    """Returns refined rows at the photographs' size; one that failed as it was predicted."""
    enlarged = []
    for row, classes in enumerate(batch["classes"]):
        height, width = batch["size"][row].tolist()
        inner = refined[row, :height, :width]
        enlarged.append(classes if reasons[row] else scaling.scale_label(inner, classes.shape))
    return enlarged
