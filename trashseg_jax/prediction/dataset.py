"""Predictions as a COCO data set that a training reads: pseudo-labels."""

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trashseg_jax.data.taxonomy import IGNORE_NAME
from trashseg_jax.errors import InputError
from trashseg_jax.prediction.inputs import Photo
from trashseg_jax.prediction.measures import from_rle, to_rle
from trashseg_jax.prediction.outputs import Outputs, Record, read_mask
from trashseg_jax.report.files import replaced_folder, write_json

UNSURE = "UNKNOWN"  # a name that the shipped class map of the competition ignores already
OWN_FILES = {"images", "train.json", "val.json", "class_map.json"}


def check_target(folder: Path) -> None:
    """Raises InputError for a folder that holds anything but an earlier such data set."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"--dataset={folder}: is not a folder; name a new one")
    if folder.is_dir():
        names = {path.name for path in folder.iterdir()}
        if names and not ({"train.json", "class_map.json"} <= names <= OWN_FILES):
            raise InputError(f"--dataset={folder}: holds other files; name a new or empty folder")


def write_dataset(
    folder: Path,
    records: Sequence[tuple[Photo, Record]],
    outputs: Outputs,
    *,
    val_fraction: float,
) -> dict[str, int]:
    """Writes the data set, whole or not at all; returns the number of images by split.

    Pixels whose confidence was below `min_confidence` count nowhere. val.json has the photographs
    whose names have the lowest hashes. The images are hard links, or copies where that can't be.
    """
    by_hash = sorted(records, key=lambda one: hashlib.sha256(one[0].name.encode()).digest())
    held_out = count_held_out(folder, len(records), val_fraction=val_fraction)
    names = outputs.options.classes
    splits = {"train": by_hash[held_out:], "val": by_hash[:held_out]}
    with replaced_folder(folder.absolute()) as new:
        for split, some in splits.items():
            if some:
                write_json(new / f"{split}.json", _to_coco(some, outputs, new / "images"))
        categories = {name: name for name in names[1:]} | {unsure_name(names): IGNORE_NAME}
        write_json(new / "class_map.json", {"classes": names, "categories": categories})
    return {split: len(some) for split, some in splits.items()}


def count_held_out(folder: Path, count: int, *, val_fraction: float) -> int:
    """Returns how many of the photographs are for val.json; some must be left for train.json."""
    held_out = max(1, round(count * val_fraction)) if val_fraction else 0
    if held_out >= count:
        raise InputError(
            f"--dataset={folder}: val.json can't have a share of {count} photographs; predict "
            "more of them, or pass --val_fraction=0"
        )
    return held_out


def unsure_name(classes: Sequence[str]) -> str:
    """Returns a category's name that no class has."""
    taken = {name.casefold() for name in classes}
    return UNSURE if UNSURE.casefold() not in taken else f"{UNSURE} to the model"


def _to_coco(
    records: Sequence[tuple[Photo, Record]], outputs: Outputs, images: Path
) -> dict[str, Any]:
    classes = outputs.options.classes
    names = (*classes[1:], unsure_name(classes))
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names, start=1)],
    }
    for image_id, (photo, record) in enumerate(records, start=1):
        name = f"{photo.name}{photo.path.suffix}"
        _link(photo.path, images / name)
        size = {"height": record["height"], "width": record["width"]}
        content["images"].append({"id": image_id, "file_name": name, **size})
        for category_id, mask in _masks(read_mask(outputs.mask(photo)), record, len(names)):
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "segmentation": to_rle(mask),
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                }
            )
    return content


def _masks(classes: np.ndarray, record: Record, unsure: int):
    """Yields category ids and masks that do not overlap: then no order of painting matters."""
    values = np.where(from_rle(record["unsure"]).astype(bool), unsure, classes)
    for value in np.unique(values).tolist():
        if value:
            yield value, values == value


def _link(source: Path, target: Path) -> None:
    """Not a symbolic link: one that leads out of a data folder is refused by its reader."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
