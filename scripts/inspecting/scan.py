"""One pass over a data set's images: what is to be known of each, in little memory."""

import concurrent.futures
import hashlib
import io
import multiprocessing
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64
from PIL import Image

from inspecting.objects import Object, find_objects
from inspecting.twins import perceptual_hash
from trashseg_jax.data.records import Record, load_example
from trashseg_jax.data.taxonomy import IGNORE_LABEL
from trashseg_jax.errors import InputError
from trashseg_jax.prediction.progress import Progress

RECORDS_PER_WORKER = 64  # fewer are not worth a process
DRAFT = 128  # pixels: a JPEG is decoded no larger for its hash, where it can be


class Facts(NamedTuple):
    """What is known of an image; `pixels` and `counted` are those that a training would count."""

    size: tuple[int, int]  # height, width
    digest: str  # of the bytes that a training stores
    hash: int  # twins.perceptual_hash
    pixels: Int64[np.ndarray, "k"]
    ignored: int  # pixels that count nowhere
    counted: Int64[np.ndarray, "k"]  # objects of each class
    notes: dict[str, int]  # records.Label's
    objects: list[Object]


class Scanned(NamedTuple):
    """An image of a split with its facts."""

    split: str
    record: Record
    facts: Facts


class Scan(NamedTuple):
    """All images that a training could use, and a line for each that it could not."""

    classes: tuple[str, ...]
    images: list[Scanned]
    problems: list[str]

    def of_split(self, split: str) -> list[Scanned]:
        return [image for image in self.images if image.split == split]


def scan(
    splits: Mapping[str, Sequence[Record]],
    *,
    classes: tuple[str, ...],
    problems: Sequence[str],
    image_size: int,
) -> Scan:
    """Looks at all images; one that is bad becomes a line of `problems`."""
    records = [(split, record) for split, of_split in splits.items() for record in of_split]
    look = partial(look_at, num_classes=len(classes), image_size=image_size)
    images, faults = [], [*problems]
    with Progress(len(records)) as progress:
        found = _map(look, [record for _, record in records])
        for (split, record), facts in zip(records, found, strict=True):
            if isinstance(facts, str):
                faults.append(facts)
            else:
                images.append(Scanned(split, record, facts))
            progress.add()
    if not images:
        raise InputError(f"no image can be used; the first fault: {faults[0]}")
    return Scan(classes, images, faults)


def look_at(record: Record, *, num_classes: int, image_size: int) -> Facts | str:
    """Returns an image's facts, or what is wrong with it."""
    try:
        image, label = load_example(record, num_classes=num_classes)
    except InputError as error:
        return f"{error} (image {record.listed_id or record.id})"
    counts = np.bincount(label.classes.ravel(), minlength=256).astype(np.int64)
    return Facts(
        size=label.classes.shape,
        digest=digest_of(image),
        hash=perceptual_hash(_open_small(image)),
        pixels=counts[:num_classes],
        ignored=int(counts[IGNORE_LABEL]),
        counted=label.objects,
        notes=label.notes,
        objects=find_objects(record.source, label.classes, image_size=image_size),
    )


def digest_of(image: bytes) -> str:
    """Returns what a prepared data set calls an image by (`records.load_features`)."""
    return hashlib.blake2b(image, digest_size=16).hexdigest()


def _open_small(image: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of many pixels
        opened = Image.open(io.BytesIO(image))
        opened.draft("L", (DRAFT, DRAFT))
        opened.load()
    return opened


def _map(work: Any, records: Sequence[Record]) -> Iterator[Any]:
    """Yields what `work` makes of the records, in order, by as many processes as are worth it."""
    workers = min(os.cpu_count() or 1, len(records) // RECORDS_PER_WORKER)
    if workers < 2:
        yield from map(work, records)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
        try:
            yield from pool.map(work, records, chunksize=8)
        finally:
            pool.shutdown(cancel_futures=True)
