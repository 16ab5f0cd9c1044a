"""Reads COCO folders: a json's validated records.

Worker processes import this module: it needs neither jax nor tensorflow.
"""

import collections
import dataclasses
import json
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from trashseg_jax.data.painting import Annotation, paint, reaches_outside, segmentation_fault
from trashseg_jax.data.photos import MAX_PIXELS
from trashseg_jax.data.records import SKIP_REMEDY, DataFolder, Label, Record, Splits, hold_out
from trashseg_jax.data.taxonomy import IGNORE_LABEL, ClassMap
from trashseg_jax.errors import InputError, show

STRUCTURE_REMEDY = "correct the file or export it again"

_FIELDS: dict[str, dict[str, type]] = {
    "images": {"id": int, "file_name": str, "height": int, "width": int},
    "annotations": {"id": int, "image_id": int, "category_id": int},
    "categories": {"id": int, "name": str},
}
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclasses.dataclass(frozen=True)
class Annotations:
    """An image's objects, to be painted into its label map (a `records.LabelSource`)."""

    image: Path  # for messages
    items: tuple[Annotation, ...]
    paint_order: str

    @property
    def files(self) -> tuple[Path, ...]:
        return ()

    def draw(self, *, height: int, width: int, num_classes: int) -> Label:
        """Paints the label map; counts objects without crowds."""
        for item in self.items:
            if not (0 <= item.label < num_classes or item.label == IGNORE_LABEL):
                raise InputError(
                    f"{self.image}: annotation {item.id} has the label {item.label}; it must be "
                    f"below the number of classes, {num_classes}, or {IGNORE_LABEL}"
                )
        size = {"height": height, "width": width}
        classes = paint(self.items, **size, paint_order=self.paint_order)
        labels = [item.label for item in self.items if not item.crowd]
        objects = np.bincount(np.array(labels, np.uint8), minlength=256)[:num_classes]
        clipped = sum(reaches_outside(item, **size) for item in self.items)
        return Label(classes, objects.astype(np.int64), clipped)


def read_splits(folder: DataFolder) -> Splits:
    """Reads "train" and "val" from two json files, or holds a share of one out."""
    train, problems = read_coco(folder.path / folder.train_file, folder)
    if folder.train_file == folder.val_file:
        return Splits(hold_out(train, val_fraction=folder.val_fraction), problems)
    val, more = read_coco(folder.path / folder.val_file, folder)
    return Splits({"train": train, "val": val}, problems + more)


def read_coco(
    json_file: Path, folder: DataFolder, *, check_images: bool = True
) -> tuple[list[Record], list[str]]:
    """Reads a COCO json's records in its order, and a line for each fault that was skipped.

    Of the images it only looks whether they are there, without `check_images` not even that.
    A fault of an image or its annotations raises InputError, or leaves the image out under
    `skip_bad`; a fault of the file's structure always raises.
    """
    content = _read_json(json_file)
    _check_structure(content, json_file)
    labels = _category_labels(content["categories"], folder.class_map, json_file)
    if check_images and not folder.path.is_dir():
        raise InputError(
            f"{folder.path}: is not a folder; the images of {json_file} must lie in it"
        )
    problems: list[str] = []
    bad: set[int | None] = set()
    for image_id, fault in _faults(content, labels, folder.path, check_images):
        if not folder.skip_bad:
            raise InputError(f"{json_file}: {fault}; correct it, {SKIP_REMEDY}")
        if image_id is None or image_id not in bad:  # one line an image
            problems.append(f"{json_file}: {fault}")
        bad.add(image_id)
    records = _records(content, labels, folder, bad)
    if not records:
        raise InputError(f"{json_file}: no image is left to use; the first fault: {problems[0]}")
    return records, problems


# The json


def _read_json(json_file: Path) -> dict[str, Any]:
    try:
        content = json.loads(json_file.read_bytes(), object_pairs_hook=_to_dict)
    except OSError as error:
        raise InputError(
            f"{json_file}: can't be read ({error.strerror}); check the data folder and the name"
        ) from error
    except InputError as error:
        raise InputError(f"{json_file}: {error}; {STRUCTURE_REMEDY}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{json_file}: is not UTF-8 text ({error.reason} at byte {error.start}); save it so"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{json_file}: is not json ({error}); was it copied whole?") from error
    if not isinstance(content, dict):
        raise InputError(
            f"{json_file}: holds {show(content)}; a COCO file is an object with the lists "
            f"{', '.join(_FIELDS)}; {STRUCTURE_REMEDY}"
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


def _check_structure(content: dict[str, Any], json_file: Path) -> None:
    """Checks the lists, the types of their fields, and the ids of images and categories."""
    for part, fields in _FIELDS.items():
        items = content.get(part)
        if not isinstance(items, list) or (part == "images" and not items):
            raise InputError(
                f'{json_file}: "{part}" is {show(items)}; a COCO file has the lists '
                f"{', '.join(_FIELDS)}, and at least one image; {STRUCTURE_REMEDY}"
            )
        for index, item in enumerate(items):
            if fault := _field_fault(item, fields):
                raise InputError(f"{json_file}: {part}[{index}] {fault}; {STRUCTURE_REMEDY}")
        ids = collections.Counter(item["id"] for item in items)
        item_id, count = next(iter(ids.most_common(1)), (None, 0))
        if part != "annotations" and count > 1:
            raise InputError(
                f"{json_file}: {part} has the id {item_id} {count} times; give each its own"
            )


def _field_fault(item: Any, fields: dict[str, type]) -> str | None:
    if not isinstance(item, dict):
        return f"is {show(item)}; it must be an object"
    name = f"(id {show(item.get('id'))})"
    for field, kind in fields.items():
        value = item.get(field)
        if kind is str and type(value) is not str:
            return f"{name}: {field} is {show(value)}; it must be text"
        if kind is int and (type(value) is not int or not -(2**63) <= value < 2**63):
            return f"{name}: {field} is {show(value)}; it must be a whole number of 64 bits"
    if item.get("iscrowd", 0) not in (0, 1):
        return f"{name}: iscrowd is {show(item['iscrowd'])}; it must be 0 or 1"
    return None


def _category_labels(
    categories: list[dict[str, Any]], class_map: ClassMap, json_file: Path
) -> dict[int, int]:
    try:
        return {category["id"]: class_map.label_of(category["name"]) for category in categories}
    except InputError as error:
        raise InputError(f"{json_file}: {error}") from error


def _records(
    content: dict[str, Any], labels: dict[int, int], folder: DataFolder, bad: set[int | None]
) -> list[Record]:
    annotations = {image["id"]: [] for image in content["images"] if image["id"] not in bad}
    for item in content["annotations"]:
        if item["image_id"] in annotations:
            annotations[item["image_id"]].append(_annotation(item, labels))
    return [
        Record(
            id=image["id"],
            file_name=image["file_name"],
            path=folder.path / image["file_name"],
            size=(image["height"], image["width"]),
            source=Annotations(
                folder.path / image["file_name"],
                tuple(annotations[image["id"]]),
                folder.paint_order,
            ),
        )
        for image in content["images"]
        if image["id"] in annotations
    ]


def _annotation(item: dict[str, Any], labels: dict[int, int]) -> Annotation:
    segmentation = item["segmentation"]
    if isinstance(segmentation, dict):  # what else it holds may be anything
        segmentation = {key: segmentation[key] for key in ("size", "counts")}
    crowd = bool(item.get("iscrowd", 0))
    return Annotation(item["id"], labels[item["category_id"]], segmentation, crowd)


# Faults of single images and annotations; each begins with a verb


def _faults(
    content: dict[str, Any], labels: dict[int, int], folder: Path, check_images: bool
) -> Iterator[tuple[int | None, str]]:
    """Yields the id of the image concerned, None where it isn't listed, and what is wrong."""
    images = {image["id"]: image for image in content["images"]}
    names = collections.Counter(posixpath.normpath(i["file_name"]) for i in images.values())
    root = os.path.realpath(folder) if check_images else None
    for image_id, image in images.items():
        name = image["file_name"]
        fault = _size_fault(image) or _name_fault(name) or (root and _file_fault(name, root))
        if not fault and (count := names[posixpath.normpath(name)]) > 1:
            fault = f"has a file_name that {count} images have; each must have its own"
        if fault:
            yield image_id, f"image {image_id} ({show(name)}) {fault}"
    yield from _annotation_faults(content["annotations"], images, labels)


def _size_fault(image: dict[str, Any]) -> str | None:
    height, width = image["height"], image["width"]
    if height >= 1 and width >= 1 and height * width <= MAX_PIXELS:
        return None
    return (
        f"has height {height} and width {width}; both must be positive, their product at most "
        f"{MAX_PIXELS}"
    )


def _name_fault(name: str) -> str | None:
    if not name or _UNPRINTABLE.search(name):
        return "has an empty file_name or one with control characters"
    if posixpath.isabs(name) or PureWindowsPath(name).is_absolute():
        return "has an absolute file_name; it must be relative to the data folder"
    if posixpath.normpath(name).split("/")[0] == "..":
        return "has a file_name that climbs out of the data folder"
    return None


def _file_fault(name: str, root: str) -> str | None:
    path = os.path.join(root, name)
    if not Path(os.path.realpath(path)).is_relative_to(root):
        return f"is a link that leads out of the data folder, to {show(os.path.realpath(path))}"
    if not os.path.isfile(path):
        return f"is listed and absent: {root} has no such file{_nearest_file(name, root)}"
    return None


def _nearest_file(name: str, root: str) -> str:
    """Says which file there is of nearly this name, if any: macOS and Windows write others."""
    for other in (
        name.replace("\\", "/"),
        unicodedata.normalize("NFC", name),
        unicodedata.normalize("NFD", name),
    ):
        if other != name and os.path.isfile(os.path.join(root, other)):
            return f"; did you mean {other!a}?"
    return ""


def _annotation_faults(
    annotations: list[dict[str, Any]], images: dict[int, dict[str, Any]], labels: dict[int, int]
) -> Iterator[tuple[int | None, str]]:
    """Ids count as repeated within an image: TACO itself has two that recur in another image."""
    seen = set()
    for item in annotations:
        annotation_id, image_id = item["id"], item["image_id"]
        if image_id not in images:
            yield None, f"annotation {annotation_id} is of image {image_id}, which is not listed"
            continue
        image, fault = images[image_id], None
        if (image_id, annotation_id) in seen:
            fault = "stands there twice; give each its own id or remove one"
        elif item["category_id"] not in labels:
            fault = f"is of category {item['category_id']}, which is not listed"
        else:
            segmentation = item.get("segmentation")
            fault = segmentation_fault(segmentation, height=image["height"], width=image["width"])
        seen.add((image_id, annotation_id))
        if fault:
            name = show(image["file_name"])
            yield image_id, f"annotation {annotation_id} of image {image_id} ({name}) {fault}"
