"""Reads COCO folders: a json's validated records.

Worker processes import this module: it needs neither jax nor tensorflow.
"""

import collections
import dataclasses
import glob
import json
import os
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trashseg_jax.data.formats import mistaken
from trashseg_jax.data.formats.coco_annotations import Objects, read_annotations
from trashseg_jax.data.formats.coco_fields import Content, Key, as_id, record_id
from trashseg_jax.data.formats.coco_images import ListedImage, choose_images, read_images
from trashseg_jax.data.formats.faults import Faults
from trashseg_jax.data.image_files import find_places
from trashseg_jax.data.painting import Annotation, paint, reaches_outside
from trashseg_jax.data.records import EXIF, DataFolder, Label, Record, Splits, hold_out
from trashseg_jax.data.taxonomy import IGNORE_LABEL, ClassMap
from trashseg_jax.errors import InputError, show

STRUCTURE_REMEDY = "correct the file or export it again"
PARTS = ("images", "annotations", "categories")


@dataclasses.dataclass(frozen=True)
class Annotations:
    """An image's objects, to be painted into its label map (a `records.LabelSource`)."""

    image: Path  # for messages
    items: tuple[Annotation, ...]
    notes: Mapping[str, int]  # on what was read, see `records.Label`
    paint_order: str

    @property
    def files(self) -> tuple[Path, ...]:
        return ()

    def draw(self, *, height: int, width: int, num_classes: int) -> Label:
        """Paints the label map; counts the objects that have pixels, without ignored areas."""
        for item in self.items:
            if not (0 <= item.label < num_classes or item.label == IGNORE_LABEL):
                raise InputError(
                    f"{self.image}: annotation {item.id} has the label {item.label}; it must be "
                    f"below the number of classes, {num_classes}, or {IGNORE_LABEL}"
                )
        size = {"height": height, "width": width}
        try:
            classes, areas = paint(self.items, **size, paint_order=self.paint_order)
        except InputError as error:  # an RLE of another size, where the json has none
            raise InputError(f"{self.image}: {error}") from error
        pairs = zip(self.items, areas, strict=True)
        labels = [item.label for item, area in pairs if area and not item.ignored]
        objects = np.bincount(np.array(labels, np.uint8), minlength=256)[:num_classes]
        notes = collections.Counter(self.notes)
        notes["empty"] += areas.count(0)
        notes["clipped"] += sum(reaches_outside(item, **size) for item in self.items)
        return Label(classes, objects.astype(np.int64), dict(+notes))


def read_splits(folder: DataFolder) -> Splits:
    """Reads "train" and "val" from files of their own, or from one by lists or a share held out."""
    if not folder.val_file:
        train, problems = _read_files(folder, split="train")
        return Splits({"train": train}, problems, held_out=False)
    files = {"train": folder.path / folder.train_file, "val": folder.path / folder.val_file}
    lists = {"train": folder.train_list, "val": folder.val_list}
    if files["train"] == files["val"] and any(lists.values()) != all(lists.values()):
        raise InputError(
            f"config.data.train_list={lists['train']!r} and val_list={lists['val']!r}: name both "
            f"or neither, as both splits come from {files['train']}; one file may list both"
        )
    held_out = files["train"] == files["val"] and not any(lists.values())
    if held_out and not 0 < folder.val_fraction < 1:
        raise InputError(
            f"config.data.val_fraction={folder.val_fraction}: must be between 0 and 1, the share "
            f"of the images of {files['train']} to hold out"
        )
    for split in files:  # of both, before either is read
        _find_some_jsons(folder, split=split)
    train, problems = _read_files(folder, split="train")
    if held_out:
        records = hold_out(train, val_fraction=folder.val_fraction)
        return Splits(records, problems, held_out=True)
    val, more = _read_files(folder, split="val")
    return Splits({"train": train, "val": val}, problems + more, held_out=False)


def read_val(folder: DataFolder) -> Splits:
    """Reads "val" alone, to score a model where its training images are not."""
    val, problems = _read_files(folder, split="val")
    return Splits({"val": val}, problems, held_out=False)


def find_jsons(folder: DataFolder, *, split: str) -> list[Path]:
    """Returns a split's json, or those that its pattern (batch_*/data.json) fits, in order."""
    name = {"train": folder.train_file, "val": folder.val_file}[split]
    if (folder.path / name).exists():
        return [folder.path / name]
    return sorted(map(Path, glob.glob(os.path.join(glob.escape(str(folder.path)), name))))


def _find_some_jsons(folder: DataFolder, *, split: str) -> list[Path]:
    files = find_jsons(folder, split=split)
    if not files:
        raise InputError(_absent_json(folder, split))
    return files


def _read_files(folder: DataFolder, *, split: str) -> tuple[list[Record], list[str]]:
    files = _find_some_jsons(folder, split=split)
    if len(files) == 1:
        return read_coco(files[0], folder, split=split)
    if name := {"train": folder.train_list, "val": folder.val_list}[split]:
        raise InputError(
            f"config.data.{split}_list={name!r}: a list chooses from one json, and "
            f"config.data.{split}_file fits {len(files)}; leave the list out, or join the files"
        )
    read = [read_coco(file, folder, split=split) for file in files]
    records = [record for found, _ in read for record in found]
    return _number(records, folder), [line for _, lines in read for line in lines]


def _number(records: list[Record], folder: DataFolder) -> list[Record]:
    """Numbers the images of several files, whose ids and names recur, and calls them by path."""
    names = [os.path.relpath(record.path, folder.path) for record in records]
    if len(set(names)) < len(names):
        name, times = collections.Counter(names).most_common(1)[0]
        raise InputError(
            f"{folder.path}: {times} of the json files have the image {show(name)}; either may "
            "lack the other's annotations: list it once, with all of them"
        )
    return [
        dataclasses.replace(record, id=number, file_name=name, listed_id="")
        for number, (record, name) in enumerate(zip(records, names, strict=True))
    ]


def read_coco(
    json_file: Path, folder: DataFolder, *, split: str, check_images: bool = True
) -> tuple[list[Record], list[str]]:
    """Reads a COCO json's records in its order, and a line for each fault that was skipped.

    Of the images it only looks whether they are there, without `check_images` not even that.
    A fault of an image or its annotations raises InputError, or leaves the image out under
    `skip_bad`; a fault of the file's structure always raises.
    """
    content = _read_json(json_file)
    _check_structure(content, json_file)
    labels = _category_labels(content["categories"], folder.class_map, json_file)
    listed = _by_id(content["images"], "images", json_file)
    faults = Faults(json_file, skip_bad=folder.skip_bad)
    chosen = choose_images(listed, folder, split, faults)
    places = None
    if check_images:
        named = {"train": folder.train_images, "val": folder.val_images}[split]
        places = find_places(folder.path, json_file, split=split, named=named)
    images = read_images(chosen, places, folder, faults)
    objects = read_annotations(content["annotations"], listed, images, labels, folder, faults)
    records = [
        _record(key, image, objects[key], listed, folder)
        for key, image in images.items()
        if key not in faults.images
    ]
    if not records:
        first = f"; the first fault: {faults.lines[0]}" if faults.lines else ""
        raise InputError(f"{json_file}: no image is left to use{first}")
    return records, faults.lines


def _record(
    key: Key, image: ListedImage, objects: Objects, listed: Container[Key], folder: DataFolder
) -> Record:
    return Record(
        id=record_id(key, listed),
        file_name=image.file.name,
        path=image.file.path,
        size=None if folder.exif == "mixed" else image.size,
        source=Annotations(
            image.file.path, tuple(objects.items), dict(+objects.notes), folder.paint_order
        ),
        upright=EXIF[folder.exif],
        listed_id=key if isinstance(key, str) else "",
    )


# The json


def _absent_json(folder: DataFolder, split: str) -> str:
    """Returns the message on a split's json that is not there: what there is in its place."""
    name = {"train": folder.train_file, "val": folder.val_file}[split]
    remedies = []
    if split == "val":
        train = os.path.relpath(folder.path / folder.train_file, folder.path)
        remedies = [
            f"to hold out a share of {folder.path / folder.train_file}, pass "
            f"--config.data.val_file={train}"
        ]
    jsons = [file for pattern in ("*.json", "*/*.json") for file in folder.path.glob(pattern)]
    if found := sorted(os.path.relpath(file, folder.path) for file in jsons):
        there = ", ".join(found[:5])
        remedies.append(f"to use another, name it with --config.data.{split}_file: {there}")
    remedy = "; ".join(remedies) or "check the data folder and the name"
    return f"{folder.path / name}: does not exist; {remedy}"


def _read_json(json_file: Path) -> Content:
    try:
        data = json_file.read_bytes()
    except OSError as error:
        raise InputError(
            f"{json_file}: can't be read ({error.strerror}); check the data folder and the name"
        ) from error
    try:
        content = json.loads(data, object_pairs_hook=_to_dict)
    except InputError as error:
        raise InputError(f"{json_file}: {error}; {STRUCTURE_REMEDY}") from error
    except (ValueError, RecursionError) as error:
        if what := mistaken.name_text(data):
            raise InputError(f"{json_file}: is {what}") from error
        if isinstance(error, UnicodeDecodeError):
            fault = f"is not UTF-8 text ({error.reason} at byte {error.start}); save it so"
        else:
            fault = f"is not json ({error}); was it copied whole?"
        raise InputError(f"{json_file}: {fault}") from error
    if what := mistaken.name_json(content):
        raise InputError(f"{json_file}: is {what}")
    if not isinstance(content, dict):
        raise InputError(
            f"{json_file}: holds {show(content)}; a COCO file is an object with the lists "
            f"{', '.join(PARTS)}; {STRUCTURE_REMEDY}"
        )
    return content


def _to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the object; refuses repeated keys, of which json would keep the last."""
    result = dict(pairs)
    if len(result) < len(pairs):
        counts = collections.Counter(key for key, _ in pairs)
        key = counts.most_common(1)[0][0]
        raise InputError(f"an object has the key {show(key)} twice; each must be its only one")
    return result


def _check_structure(content: Content, json_file: Path) -> None:
    for part in PARTS:
        items = content.get(part)
        if not isinstance(items, list) or (part == "images" and not items):
            raise InputError(
                f'{json_file}: "{part}" is {show(items)}; a COCO file has the lists '
                f"{', '.join(PARTS)}, and at least one image; {STRUCTURE_REMEDY}"
            )
        for index, item in enumerate(items):
            if not isinstance(item, dict):
                raise InputError(
                    f"{json_file}: {part}[{index}] is {show(item)}; it must be an object; "
                    f"{STRUCTURE_REMEDY}"
                )


def _by_id(items: list[Content], part: str, json_file: Path) -> dict[Key, Content]:
    """Returns images or categories by their ids; copies of an entry count once."""
    result: dict[Key, Content] = {}
    for index, item in enumerate(items):
        key = as_id(item.get("id"))
        if key is None:
            raise InputError(
                f"{json_file}: {part}[{index}]: id is {show(item.get('id'))}; it must be a number "
                f"or text; {STRUCTURE_REMEDY}"
            )
        if result.setdefault(key, item) != item:
            raise InputError(f"{json_file}: {part} has the id {show(key)} twice; give each its own")
    return result


def _category_labels(
    categories: list[Content], class_map: ClassMap, json_file: Path
) -> dict[Key, int]:
    labels = {}
    for key, category in _by_id(categories, "categories", json_file).items():
        name = category.get("name")
        if not isinstance(name, str):
            raise InputError(
                f"{json_file}: categories (id {show(key)}): name is {show(name)}; it must be "
                f"text; {STRUCTURE_REMEDY}"
            )
        try:
            labels[key] = class_map.label_of(name)
        except InputError as error:
            raise InputError(f"{json_file}: {error}") from error
    return labels
