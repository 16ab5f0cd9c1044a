"""A split's photographs and labels at their own size, for evaluation."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from trashseg_jax.ahead import batched, map_ahead
from trashseg_jax.data import scaling
from trashseg_jax.data.label_codec import decode_label

ARRAYS = ("image", "label", "mask", "id", "size")
Batch = dict[str, Any]
Photo = UInt8[np.ndarray, "h w 3"]


def original_batches(
    source: Any,
    *,
    see: Callable[[Photo], tuple[Photo, scaling.Size, Any]],
    batch_size: int,
    image_size: int,
    process_index: int,
    process_count: int,
) -> Iterator[Batch]:
    """Yields what `pipeline.eval_batches` yields, and of the rows with a photograph two lists.

    `encoded` are their labels, by label_codec, at their own size. `see` gives a photograph in the
    square, its size there, and what is listed under `seen`; it is called in threads.
    """
    rows, total = batch_size // process_count, len(source)
    steps = -(-total // batch_size)
    places = np.arange(steps * batch_size).reshape(steps, process_count, rows)[:, process_index]

    def load(record):
        if record is None:  # the row only fills up the last batch
            return _to_row(blank, {"id": 0, "label": b""}, no_label, image_size)
        seen = see(scaling.decode_photo(record["image"]))
        label = scaling.scale_label(decode_label(record["label"]), seen[1])
        return _to_row(seen, record, label, image_size)

    blank = np.zeros((image_size, image_size, 3), np.uint8), (0, 0), None
    no_label = np.zeros((0, 0), np.uint8)
    records = (source[place] if place < total else None for place in places.ravel().tolist())
    for group in batched(map_ahead(load, records), rows):
        batch: Batch = {key: np.stack([row[key] for row in group]) for key in ARRAYS}
        valid = [row for row in group if row["mask"]]
        yield batch | {key: [row[key] for row in valid] for key in ("encoded", "seen")}


def _to_row(seen, record, label, image_size):
    image, size, known = seen
    return {
        "image": image,
        "label": scaling.pad_label(label, image_size),
        "mask": np.array(known is not None),
        "id": np.array(record["id"], np.int64),
        "size": np.array(size, np.int32),
        "encoded": record["label"],
        "seen": known,
    }
