"""A data set's images with their labels, whatever format they were read from, and what is stored.

Worker processes import this module: it needs neither jax nor tensorflow.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8

from trashseg_jax.data.label_codec import encode_label
from trashseg_jax.data.photos import is_turned, read_photo
from trashseg_jax.data.taxonomy import ClassMap
from trashseg_jax.errors import InputError, show

# What config.data.exif may be, and whether images are then made upright.
EXIF = dict.fromkeys(("upright", "mixed"), True) | {"stored": False}
SKIP_REMEDY = "or leave such images out with --config.data.skip_bad=True"


@dataclasses.dataclass(frozen=True)
class DataFolder:
    """A data set on disk, as `config.data` names it; the fields are explained there."""

    path: Path
    class_map: ClassMap
    train_file: str
    val_file: str  # "": all of the training file's or list's images train, there is no "val"
    train_images: str
    train_labels: str
    val_images: str
    val_labels: str
    train_list: str
    val_list: str
    image_suffix: str
    label_suffix: str
    val_fraction: float
    paint_order: str
    crowd: str
    boxes: str
    exif: str
    skip_bad: bool


class Label(NamedTuple):
    """A label map, the objects of each class in it, and what is to be said of its annotations.

    The notes are counts by kind; `report.table.NOTES` has a line for each kind.
    """

    classes: UInt8[np.ndarray, "h w"]
    objects: Int64[np.ndarray, "k"]
    notes: dict[str, int]


@runtime_checkable
class LabelSource(Protocol):
    """Where an image's label map comes from; each format has its own."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files besides the image that the label is read from when it is drawn."""
        ...

    def draw(self, *, height: int, width: int, num_classes: int) -> Label:
        """Returns the label of an upright image of that size; raises InputError if it can't."""
        ...


@dataclasses.dataclass(frozen=True)
class Record:
    """An image and where its label comes from."""

    id: int
    file_name: str
    path: Path
    size: tuple[int, int] | None  # height and width, rotated if `upright`; None: the image's own
    source: LabelSource
    upright: bool = True  # its EXIF rotation is applied; False: its pixels stay as they are stored
    listed_id: str = ""  # where it has another id than a number


class Splits(NamedTuple):
    """What a format's reader returns: records by split, and a line for each that was skipped."""

    records: dict[str, list[Record]]
    problems: list[str]
    held_out: bool  # "val" is a share of one list of images


def hold_out(records: Sequence[Record], *, val_fraction: float) -> dict[str, list[Record]]:
    """Splits one list of records into "train" and "val".

    "val" are the images whose file names have the lowest hashes: the list's order does not matter,
    and images that are added change little.
    """
    by_hash = sorted(records, key=lambda record: hashlib.sha256(record.file_name.encode()).digest())
    held_out = {record.id for record in by_hash[: round(len(records) * val_fraction)]}
    return {
        "train": [record for record in records if record.id not in held_out],
        "val": [record for record in records if record.id in held_out],
    }


def load_features(record: Record, *, num_classes: int, skip_bad: bool) -> dict[str, Any] | str:
    """Returns what a prepared data set stores, the label map as run lengths, `notes`, `digest`.

    The digest, 32 hex digits, is that of the image's bytes. A bad image raises InputError, or under
    `skip_bad` gives the line that says what is wrong.
    """
    try:
        image, label = load_example(record, num_classes=num_classes)
    except InputError as error:
        fault = f"{error} (image {show(record.listed_id or record.id)})"
        if skip_bad:
            return fault
        raise InputError(f"{fault}, {SKIP_REMEDY}") from error
    counts = np.bincount(label.classes.ravel(), minlength=256)[:num_classes]
    return {
        "image": image,
        "label": encode_label(label.classes),
        "id": record.id,
        "file_name": record.file_name,
        "pixel_counts": counts.astype(np.int64),
        "annotation_counts": label.objects,
        "notes": label.notes,
        "digest": hashlib.blake2b(image, digest_size=16).hexdigest(),
    }


def load_example(record: Record, *, num_classes: int) -> tuple[bytes, Label]:
    """Returns a record's image, an upright RGB or grey JPEG or PNG, and its label.

    Raises InputError for an image that can't be used or has another size than its record says.
    """
    (width, height), image = read_photo(record.path, upright=record.upright)
    if record.size is not None and record.size != (height, width):
        raise InputError(f"{record.path}: {_size_fault(record, record.size, height, width)}")
    return image, record.source.draw(height=height, width=width, num_classes=num_classes)


def _size_fault(record: Record, said: tuple[int, int], height: int, width: int) -> str:
    applied = "EXIF rotation applied" if record.upright else "EXIF rotation not applied"
    fault = f"is {width} wide and {height} high ({applied}); the json says {said[1]} and {said[0]}"
    if not is_turned(record.path) or said != (width, height):
        return f"{fault}; correct either"
    if not record.upright:
        return f"{fault}, which is its size upright; pass --config.data.exif=upright"
    return (
        f"{fault}, its size before that rotation; if the outlines, too, were drawn on unrotated "
        "images, pass --config.data.exif=stored, if only the sizes are theirs, =mixed"
    )
