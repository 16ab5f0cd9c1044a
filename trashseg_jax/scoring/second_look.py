"""A second look at the images that a report shows: which they are is known after the first pass."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from trashseg_jax.data import scaling
from trashseg_jax.data.label_codec import decode_label
from trashseg_jax.devices import sharding
from trashseg_jax.report.pictures import CONFIDENCE_SIDE, SIDE, Look
from trashseg_jax.scoring.batches import Batch

MOST = 48  # images


class Chosen:
    """Some of a source's records, in the order of their places."""

    def __init__(self, source: Any, places: Sequence[int]):
        self._source, self.places = source, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._source[self.places[index]]


def look_again(
    score: Callable[[Any], Iterator[Batch]],
    source: Any,
    places: Sequence[int],
    *,
    names: Sequence[str],
) -> list[Look]:
    """Returns the images at these places of `source`, scored again by `score`, in their order.

    Photographs and labels are the record's own, scaled to what is shown; `names` are the file
    names of all of the source's images.
    """
    chosen, looks, place = Chosen(source, places), [], 0
    for batch in score(chosen):
        for row in np.flatnonzero(batch["mask"]):
            looks.append(_take(batch, int(row), chosen[place], chosen.places[place], names))
            place += 1
    return looks


def _take(batch: Batch, row: int, record: dict[str, Any], place: int, names: Sequence[str]) -> Look:
    photo = scaling.decode_photo(record["image"])
    # No larger than it is: a photograph of 128 pixels would only take more bytes.
    side = min(SIDE, max(photo.shape[:2]))
    size = scaling.fitted_size(photo.shape[:2], side)
    small = scaling.fitted_size(photo.shape[:2], min(CONFIDENCE_SIDE, side))
    own = batch.get("classes")
    found = scaled_part(batch, "prediction", row) if own is None else own[row]
    refined = scaled_part(batch, "refined", row) if "refined" in batch else None
    return Look(
        place,
        names[place],
        photo.shape[:2],
        scaling.fit_photo(photo, side),
        label=scaling.scale_label(decode_label(record["label"]), size),
        prediction=scaling.scale_label(found, size),
        refined=None if refined is None else scaling.scale_label(refined, size),
        confidence=scaling.scale_label(scaled_part(batch, "confidence", row), small),
    )


def scaled_part(batch: Batch, key: str, row: int) -> UInt8[np.ndarray, "h w"]:
    """Returns a row of what is as large as the network's input, without the padding."""
    height, width = batch["size"][row]
    return sharding.local_rows(batch[key])[row, :height, :width]
