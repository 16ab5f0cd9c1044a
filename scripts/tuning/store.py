"""A split as the network sees it: its log-probabilities, images and labels, stored once."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, UInt8
from scipy.special import softmax

from trashseg_jax import metrics
from trashseg_jax.errors import InputError
from trashseg_jax.report.files import replaced_folder, write_json

RECORD = "record.json"
DTYPES = ("float16", "float32")
MOST_LOST = 1e-3  # of mIoU, by storing fewer bits


class Store(NamedTuple):
    """All images of a split, in its order, padded to a square; float16 or float32 as stored."""

    log_probs: Float[np.ndarray, "n s s k"]
    images: UInt8[np.ndarray, "n s s 3"]
    labels: UInt8[np.ndarray, "n s s"]
    sizes: Int32[np.ndarray, "n 2"]  # height and width of what is no padding


def provide(
    folder: Path,
    identity: dict[str, Any],
    batches: Callable[[], Iterator[dict[str, np.ndarray]]],
    *,
    dtype: str,
) -> tuple[Store, dict[str, float]]:
    """Returns what is stored in `folder`, which is filled first if it is not there, and the loss.

    `batches` yields `log_probs` f32[b,s,s,k], `image`, `label` and `size` of the images, in order;
    it is not called where the store is there. The loss is that of `measure_loss`. Raises InputError
    where what is there has another identity, or where `dtype` loses too much.
    """
    identity = json.loads(json.dumps({**identity, "dtype": dtype}))  # which knows no tuples
    path = folder / RECORD
    if path.exists():
        record = json.loads(path.read_text())
        check_same(path, record["identity"], identity)
    else:
        record = _fill(folder, identity, batches(), dtype)
    return open_store(folder), record["loss"]


def check_same(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises InputError that names what differs."""
    keys = sorted(before.keys() | now.keys())
    different = [
        f"{key} was {before.get(key)}, is {now.get(key)}"
        for key in keys
        if before.get(key) != now.get(key)
    ]
    if different:
        raise InputError(
            f"{path}: was made with others than these ({'; '.join(different)}); name another "
            "folder with --out, or remove this one"
        )


def open_store(folder: Path) -> Store:
    """Returns the arrays, mapped into memory: they may be larger than it is."""
    return Store(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in Store._fields))


def _fill(
    folder: Path, identity: dict[str, Any], batches: Iterator[dict[str, np.ndarray]], dtype: str
) -> dict[str, Any]:
    """Stores all batches and then the record, whole or not at all; returns the record."""
    num_images = identity["num_images"]
    with replaced_folder(folder) as new:
        store, place, losses = None, 0, []
        for batch in batches:
            rows = (batch["log_probs"].astype(dtype), batch["image"], batch["label"], batch["size"])
            if store is None:
                store = Store(*_create(new, rows, num_images))
            for target, values in zip(store, rows, strict=True):
                target[place : place + len(values)] = values
            losses.append(measure_loss(batch["log_probs"], rows[0], batch["label"], batch["size"]))
            place += len(rows[0])
        for target in store or ():
            target.flush()  # pyright: ignore[reportAttributeAccessIssue]
        record = {"identity": identity, "loss": join_losses(losses)}
        lost = abs(record["loss"]["miou_after"] - record["loss"]["miou_before"])
        if lost > MOST_LOST:
            raise InputError(
                f"{folder}: storing probabilities as {dtype} changes the mIoU by {lost:.4f}; pass "
                "--dtype=float32"
            )
        write_json(new / RECORD, record)
    return record


def _create(folder: Path, rows: tuple[np.ndarray, ...], count: int) -> Iterator[np.ndarray]:
    for name, values in zip(Store._fields, rows, strict=True):
        yield np.lib.format.open_memmap(
            folder / f"{name}.npy", "w+", dtype=values.dtype, shape=(count, *values.shape[1:])
        )


# What is lost.


class Loss(NamedTuple):
    """Of a batch."""

    largest: float
    changed: int
    pixels: int
    before: np.ndarray  # confusion i64[k,k]
    after: np.ndarray


def measure_loss(
    exact: Float32[np.ndarray, "b s s k"],
    stored: Float[np.ndarray, "b s s k"],
    labels: UInt8[np.ndarray, "b s s"],
    sizes: Int32[np.ndarray, "b 2"],
) -> Loss:
    """Compares probabilities with what they are when read again, where there is no padding."""
    inside = is_inside(sizes, labels.shape[1])
    exact, again = exact[inside], stored[inside].astype(np.float32)
    apart = np.abs(softmax(exact, -1) - softmax(again, -1))
    found = [one.argmax(-1).astype(np.uint8) for one in (exact, again)]
    truth, num_classes = labels[inside], exact.shape[-1]
    counts = (
        metrics.count_confusion(truth[None, None], one[None, None], num_classes=num_classes)[0]
        for one in found
    )
    return Loss(float(apart.max()), int((found[0] != found[1]).sum()), len(truth), *counts)


def is_inside(sizes: Int32[np.ndarray, "b 2"], side: int) -> Bool[np.ndarray, "b s s"]:
    """Returns which pixels of the square are no padding."""
    places = np.arange(side)
    rows, columns = (places < sizes[:, axis, None] for axis in (0, 1))
    return rows[:, :, None] & columns[:, None, :]


def join_losses(losses: list[Loss]) -> dict[str, float]:
    """Returns the largest error of a probability, and what changes of classes and of the mIoU."""
    before, after = (
        float(np.nanmean(metrics.iou(np.sum(counts, axis=0))))
        for counts in zip(*(one[3:] for one in losses), strict=True)
    )
    return {
        "largest_error": max(one.largest for one in losses),
        "changed_share": sum(one.changed for one in losses) / sum(one.pixels for one in losses),
        "miou_before": before,
        "miou_after": after,
    }
