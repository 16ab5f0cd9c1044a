"""Builds COCO folders for tests."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from pycocotools import mask as mask_utils

from trashseg_jax.configs import default
from trashseg_jax.data.records import DataFolder
from trashseg_jax.data.taxonomy import CLASSES, load_class_map


def data_folder(path: Path, **options: Any) -> DataFolder:
    """Returns what a reader is given of a folder: the defaults of `config.data`, or `options`."""
    defaults: Any = default.get_config("coco").data
    names = [field.name for field in dataclasses.fields(DataFolder) if field.name != "path"]
    given = {"class_map": load_class_map("recycle_trash"), **options}
    return DataFolder(path, **{name: defaults[name] for name in names} | given)


def box(x: float, y: float, width: float, height: float) -> list[float]:
    """Returns the polygon of a box, clockwise from its upper left corner."""
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def holds(polygon: Sequence[float], x: float, y: float) -> bool:
    """Whether a point lies in a polygon: an odd number of edges cross the ray to its right."""
    corners = list(zip(polygon[::2], polygon[1::2], strict=True))
    inside = False
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
            inside = not inside
    return inside


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    """Returns the run lengths of 0, 1, 0, ... down the columns of a mask."""
    counts, value = [0], 0
    for pixel in mask.ravel(order="F"):
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def compressed(mask: np.ndarray) -> dict[str, Any]:
    """Returns pycocotools' RLE with its counts as text, as it stands in a json."""
    rle = mask_utils.encode(np.asfortranarray(mask))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def write_coco_folder(
    folder: Path,
    *,
    images: Mapping[str, np.ndarray | bytes],
    annotations: Iterable[Mapping[str, Any]] = (),
    categories: Sequence[str] = CLASSES[1:],
    json_name: str = "train.json",
) -> Path:
    """Writes images and their COCO json, and returns the json's path.

    `images` maps file names to uint8 pixels, or to a file's bytes; their ids count from 0. An
    annotation is `{"file_name", "category", "segmentation"}`, and "iscrowd" where it is one; ids
    of annotations and categories count from 1.
    """
    names, kinds = list(images), list(categories)
    content = {
        "images": [
            {"id": index, "file_name": name} | _write_image(folder / name, images[name])
            for index, name in enumerate(names)
        ],
        "annotations": [
            {
                "id": index,
                "image_id": names.index(annotation["file_name"]),
                "category_id": kinds.index(annotation["category"]) + 1,
                "segmentation": annotation["segmentation"],
                "iscrowd": annotation.get("iscrowd", 0),
            }
            for index, annotation in enumerate(annotations, start=1)
        ],
        "categories": [{"id": index, "name": name} for index, name in enumerate(kinds, start=1)],
    }
    json_file = folder / json_name
    json_file.write_text(json.dumps(content))
    return json_file


def _write_image(path: Path, image: np.ndarray | bytes) -> dict[str, int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, bytes):
        path.write_bytes(image)
    else:
        Image.fromarray(image).save(path)
    with Image.open(path) as written:
        upright = ImageOps.exif_transpose(written)
    return {"height": upright.height, "width": upright.width}
