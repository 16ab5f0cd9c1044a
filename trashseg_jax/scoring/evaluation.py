"""What an evaluation has found: the scores of all batches and processes, put together."""

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Float32, Int64, Integer
from tqdm import tqdm

from trashseg_jax.devices import sharding
from trashseg_jax.refine import reliability
from trashseg_jax.report import pictures, sheet
from trashseg_jax.scoring.batches import Batch


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One pass over a split: every image once, in the split's order."""

    ids: Integer[np.ndarray, "n"]
    loss: Float32[np.ndarray, "n"]
    confusion: Integer[np.ndarray, "n k k"]
    boundary: Integer[np.ndarray, "n k 2"] | None  # boundary.count_overlaps, if asked for
    refined_confusion: Integer[np.ndarray, "n k k"] | None  # after the CRF, where it ran
    refined_boundary: Integer[np.ndarray, "n k 2"] | None
    unrefined: dict[int, str]  # why the CRF failed, by id; these count as predicted
    samples: list[sheet.Sample]
    resolution: str  # of the pixels that were counted: original or scaled
    names: list[str]  # of the images' files
    # What a report shows besides, where it is asked for; not with several processes.
    confidence: Int64[np.ndarray, "k 256 2"] | None = None  # reliability.count_confidence
    looks: list[pictures.Look] = dataclasses.field(default_factory=list)


def collect(
    scored: Iterator[Batch],
    *,
    sample_at: Integer[np.ndarray, "s"],
    num_batches: int,
    resolution: str,
    names: list[str],
    num_classes: int,
) -> Evaluation:
    """Returns ids and counts of all valid rows, and samples at the places named.

    With several processes samples and confidence are left out.
    """
    wanted = {"id", "mask", "loss", "confusion", "boundary"}
    wanted |= {"refined_confusion", "refined_boundary", "unrefined"}
    kept: dict[str, list] = {}
    samples, place, confidence = [], 0, None
    for batch in tqdm(scored, "Evaluating", num_batches, leave=False, unit="batch", disable=None):
        for key in batch.keys() & wanted:
            kept.setdefault(key, []).append(batch[key])  # fetched at the end: no waiting here
        rows = np.flatnonzero(np.isin(place + np.arange(len(batch["id"])), sample_at))
        if rows.size and jax.process_count() == 1:
            samples += take_samples(batch, rows)
        place += len(batch["id"])
        if "confidence" in batch and jax.process_count() == 1:
            counts = count_confidence(batch, num_classes=num_classes)
            confidence = counts if confidence is None else confidence + counts
    result = gather(kept, samples, resolution=resolution, names=names)
    return dataclasses.replace(result, confidence=confidence)


def count_confidence(batch: Batch, *, num_classes: int) -> Int64[np.ndarray, "k 256 2"]:
    """Counts the scaled images' valid pixels; `reliability.count_confidence` says how."""
    label, prediction = batch["label"], sharding.local_rows(batch["prediction"])
    valid = label < num_classes
    confidence = np.asarray(batch["confidence"])[valid]
    right = (label == prediction)[valid]
    return reliability.count_confidence(
        prediction[valid], confidence, right, num_classes=num_classes
    )


def take_samples(batch: Batch, rows: Integer[np.ndarray, "r"]) -> list[sheet.Sample]:
    predictions = np.asarray(batch["prediction"][rows])
    refined = batch["refined"][rows] if "refined" in batch else [None] * len(rows)
    pictures = zip(batch["image"][rows], batch["label"][rows], predictions, refined, strict=True)
    return [sheet.Sample(*four) for four in pictures]


def gather(
    kept: dict[str, list],
    samples: list[sheet.Sample],
    *,
    resolution: str,
    names: list[str],
) -> Evaluation:
    """Joins the batches of all processes and drops the rows that only fill up the last one."""
    joined = {
        key: np.concatenate([sharding.to_host(value) for value in kept[key]])
        for key in sorted(kept)  # the processes must agree on the order
    }
    valid = {key: value[joined["mask"]] for key, value in joined.items()}
    ids = valid["id"]
    texts = valid.get("unrefined", np.zeros((len(ids), 0), np.uint8))
    reasons = [bytes(text).rstrip(b"\0").decode() for text in texts]
    unrefined = {int(i): reason for i, reason in zip(ids, reasons, strict=True) if reason}
    return Evaluation(
        ids=ids,
        loss=valid["loss"],
        confusion=valid["confusion"],
        boundary=valid.get("boundary"),
        refined_confusion=valid.get("refined_confusion"),
        refined_boundary=valid.get("refined_boundary"),
        unrefined=unrefined,
        samples=samples,
        resolution=resolution,
        names=names,
    )
