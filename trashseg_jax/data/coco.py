"""Reads COCO folders: validated records, images as bytes, painted label maps.

Worker processes import this module: it needs neither jax nor tensorflow.
"""

import collections
import dataclasses
import io
import json
import os
import posixpath
import re
import warnings
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps
from pycocotools import mask as mask_utils

from trashseg_jax.data.taxonomy import IGNORE_LABEL, ClassMap
from trashseg_jax.errors import InputError

MAX_PIXELS = 178_000_000  # about where Pillow, too, takes an image for a decompression bomb
MAX_COORDINATE = 1e5  # pycocotools keeps five times the coordinate in 32 bits
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")
EXIF_ORIENTATION = 0x0112
REMEDY = "correct it, or leave such images out with --config.data.skip_bad=True"

_FIELDS: dict[str, dict[str, type]] = {
    "images": {"id": int, "file_name": str, "height": int, "width": int},
    "annotations": {"id": int, "image_id": int, "category_id": int},
    "categories": {"id": int, "name": str},
}
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclasses.dataclass(frozen=True)
class Annotation:
    """One object: polygons `[[x0, y0, x1, y1, ...], ...]` or an RLE `{"size", "counts"}`."""

    id: int
    label: int
    segmentation: list | dict
    crowd: bool


@dataclasses.dataclass(frozen=True)
class Record:
    """An image of the json with its annotations; height and width are those after EXIF rotation."""

    id: int
    file_name: str
    path: Path
    height: int
    width: int
    annotations: tuple[Annotation, ...]


@dataclasses.dataclass(frozen=True)
class Example:
    """A record's encoded image and label map, and how much of each class they hold."""

    record: Record
    image: bytes  # a JPEG or PNG, RGB or grey, upright
    label: UInt8[np.ndarray, "h w"]
    clipped: int  # annotations that reach outside the image
    pixel_counts: Int64[np.ndarray, "k"]
    annotation_counts: Int64[np.ndarray, "k"]  # without crowds


def read_coco(
    json_file: Path,
    folder: Path,
    class_map: ClassMap,
    *,
    skip_bad: bool,
    check_images: bool = True,
) -> tuple[list[Record], list[str]]:
    """Reads a COCO json's records in its order, and a line for each fault that was skipped.

    Of the images it only looks whether they are there, without `check_images` not even that.
    A fault of an image or its annotations raises InputError, or leaves the image out under
    `skip_bad`; a fault of the file's structure always raises.
    """
    content = _read_json(json_file)
    _check_structure(content, json_file)
    labels = _category_labels(content["categories"], class_map, json_file)
    if check_images and not folder.is_dir():
        raise InputError(f"{folder}: is no folder; the images of {json_file} must lie in it")
    problems: list[str] = []
    bad: set[int | None] = set()
    for image_id, fault in _faults(content, labels, folder, check_images):
        if not skip_bad:
            raise InputError(f"{json_file}: {fault}; {REMEDY}")
        if image_id is None or image_id not in bad:  # one line an image
            problems.append(f"{json_file}: {fault}")
        bad.add(image_id)
    records = _records(content, labels, folder, bad)
    if not records:
        raise InputError(f"{json_file}: no image is left to use; the first fault: {problems[0]}")
    return records, problems


def load_example(record: Record, *, num_classes: int, paint_order: str) -> Example:
    """Reads and fully decodes a record's image, and paints its label map.

    Raises InputError for an image that can't be read, is damaged, has more than MAX_PIXELS or
    another size than the json says, and for a label out of range.
    """
    for annotation in record.annotations:
        if not (0 <= annotation.label < num_classes or annotation.label == IGNORE_LABEL):
            raise InputError(
                f"{record.path}: annotation {annotation.id} has the label {annotation.label}; it "
                f"must be below the number of classes, {num_classes}, or {IGNORE_LABEL}"
            )
    image = _read_image(record)
    label, clipped = paint(record, paint_order=paint_order)
    labels = [annotation.label for annotation in record.annotations if not annotation.crowd]
    return Example(
        record=record,
        image=image,
        label=label,
        clipped=clipped,
        pixel_counts=_count(label.ravel(), num_classes),
        annotation_counts=_count(np.array(labels, np.uint8), num_classes),
    )


def load_features(
    record: Record, *, num_classes: int, paint_order: str, skip_bad: bool
) -> dict[str, Any] | str:
    """Returns what a prepared data set stores, the label map as PNG bytes, and `clipped`.

    A bad image raises InputError, or under `skip_bad` gives the line that says what is wrong.
    """
    try:
        example = load_example(record, num_classes=num_classes, paint_order=paint_order)
    except InputError as error:
        if skip_bad:
            return str(error)
        raise InputError(f"{error}; {REMEDY}") from error
    return {
        "image": example.image,
        "label": _encode(Image.fromarray(example.label), "PNG"),
        "id": record.id,
        "file_name": record.file_name,
        "pixel_counts": example.pixel_counts,
        "annotation_counts": example.annotation_counts,
        "clipped": example.clipped,
    }


def paint(record: Record, *, paint_order: str) -> tuple[UInt8[np.ndarray, "h w"], int]:
    """Returns the label map, and how many annotations have a vertex outside the image.

    A polygon covers the pixels (x, y) whose centres (x + 0.5, y + 0.5) it holds, to pycocotools'
    precision of 0.2 pixels. Crowds are painted first, as IGNORE_LABEL, then by `paint_order`:
    "area": large masks first, so that small objects stay on top; "reference": by the length of
    the first polygon (of an RLE: the number of its runs), short ones first, as the experiments
    of "AIstage-segmentation" do. Equals keep the json's order. Raises InputError for a
    segmentation or an order that is none.
    """
    if paint_order not in _PAINT_KEYS:
        raise InputError(
            f"--config.data.paint_order is {paint_order!r}; "
            f"it must be one of {', '.join(_PAINT_KEYS)}"
        )
    key = _PAINT_KEYS[paint_order]
    masks = [(annotation, _to_rle(annotation, record)) for annotation in record.annotations]
    masks.sort(key=lambda mask: (not mask[0].crowd, key(*mask)))
    label = np.zeros((record.height, record.width), np.uint8, order="F")  # as pycocotools' masks
    for annotation, rle in masks:
        x, y, width, height = mask_utils.toBbox(rle).astype(int)
        box = np.s_[y : y + height, x : x + width]
        value = IGNORE_LABEL if annotation.crowd else annotation.label
        np.copyto(label[box], np.uint8(value), where=mask_utils.decode(rle)[box].view(bool))
    clipped = sum(_reaches_outside(annotation, record) for annotation in record.annotations)
    return np.ascontiguousarray(label), clipped


# Painting


def _area_key(annotation: Annotation, rle: Any) -> int:
    del annotation
    return -int(mask_utils.area(rle))


def _reference_key(annotation: Annotation, rle: Any) -> int:
    del rle
    segmentation = annotation.segmentation
    if isinstance(segmentation, list):
        return len(segmentation[0])
    return len(_run_lengths(segmentation["counts"]))


_PAINT_KEYS = {"area": _area_key, "reference": _reference_key}


def _to_rle(annotation: Annotation, record: Record) -> Any:
    """Returns pycocotools' RLE of an annotation's mask: the union of its polygons, or its RLE.

    Raises InputError for what pycocotools would misread or follow out of its memory's bounds.
    """
    size = (record.height, record.width)
    if fault := _segmentation_fault(annotation.segmentation, *size):
        raise InputError(f"{record.path}: annotation {annotation.id} {fault}")
    if isinstance(annotation.segmentation, list):
        return mask_utils.merge(mask_utils.frPyObjects(annotation.segmentation, *size))
    runs = _run_lengths(annotation.segmentation["counts"])
    pixels = np.repeat(np.arange(len(runs)).astype(np.uint8) % 2, runs)
    return mask_utils.encode(pixels.reshape(size, order="F"))


def _reaches_outside(annotation: Annotation, record: Record) -> bool:
    if isinstance(annotation.segmentation, dict):
        return False
    points = np.concatenate(annotation.segmentation).reshape(-1, 2)
    return bool((points < 0).any() or (points > (record.width, record.height)).any())


def _count(labels: UInt8[np.ndarray, "n"], num_classes: int) -> Int64[np.ndarray, "k"]:
    return np.bincount(labels, minlength=256)[:num_classes].astype(np.int64)


# Images


def _read_image(record: Record) -> bytes:
    try:
        size, encoded = _upright(record.path.read_bytes())
    except Exception as error:  # broken files make Pillow raise whatever they trip over
        why = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{record.path}: is absent, damaged or no image that can be used ({why})"
        ) from error
    if size != (record.width, record.height):
        raise InputError(
            f"{record.path}: is {size[0]} wide and {size[1]} high (EXIF rotation applied); "
            f"the json says {record.width} and {record.height}"
        )
    return encoded


def _upright(data: bytes) -> tuple[tuple[int, int], bytes]:
    """Returns (width, height) after EXIF rotation, and a JPEG or PNG of the RGB or grey pixels.

    The bytes are `data` where that is such a JPEG already; what was lossless stays lossless.
    """
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # Pillow's, of broken EXIF, transparent palettes, many pixels
        image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} is more than {MAX_PIXELS} pixels")
        image.load()
        is_jpeg = image.format in ("JPEG", "MPO")  # MPO: a JPEG with more behind it
        rotated = image.getexif().get(EXIF_ORIENTATION) in range(2, 9)
        plain = is_jpeg and _jpeg_frame(data) in (0xC0, 0xC1, 0xC2)
        if plain and image.mode in ("RGB", "L") and not rotated:
            return image.size, data
        pixels = _to_rgb(ImageOps.exif_transpose(image))
    return pixels.size, _encode(pixels, "JPEG" if is_jpeg else "PNG")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Returns 8-bit RGB pixels without alpha or metadata; 16-bit grey is scaled."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))  # 65535 to 255
    elif image.mode in ("I", "F"):
        raise ValueError(f"pixels of type {image.mode}: save it with 8 or 16 bits per channel")
    return Image.fromarray(np.asarray(image.convert("RGB")))


def _encode(image: Image.Image, image_format: str) -> bytes:
    file = io.BytesIO()
    if image_format == "JPEG":
        image.save(file, "JPEG", quality=95, subsampling=0)
    else:
        image.save(file, "PNG", compress_level=1)  # hardly larger, and several times faster
    return file.getvalue()


def _jpeg_frame(data: bytes) -> int:
    """Returns the marker of a JPEG's coding: 0xC0 and 0xC1 baseline, 0xC2 progressive.

    Raises ValueError where the end marker is missing: TensorFlow refuses such a file, and Pillow
    only some.
    """
    frame, at = 0, 2
    while data[at : at + 1] == b"\xff":
        marker = data[at + 1]
        if marker == 0xDA:  # the first scan begins
            if data.find(b"\xff\xd9", at) < 0:
                raise ValueError("truncated: the JPEG's end marker is missing")
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = marker
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return frame


# The json


def _read_json(json_file: Path) -> dict[str, Any]:
    try:
        content = json.loads(json_file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(
            f"{json_file}: can't be read ({error.strerror}); check the data folder and the name"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{json_file}: is not json ({error}); was it copied whole?") from error
    if not isinstance(content, dict):
        raise InputError(
            f"{json_file}: holds {_show(content)}; a COCO file is an object with the lists "
            f"{', '.join(_FIELDS)}"
        )
    return content


def _check_structure(content: dict[str, Any], json_file: Path) -> None:
    """Checks the lists, the types of their fields, and the ids of images and categories."""
    for part, fields in _FIELDS.items():
        items = content.get(part)
        if not isinstance(items, list) or (part == "images" and not items):
            raise InputError(
                f'{json_file}: "{part}" is {_show(items)}; a COCO file has the lists '
                f"{', '.join(_FIELDS)}, and at least one image"
            )
        for index, item in enumerate(items):
            if fault := _field_fault(item, fields):
                raise InputError(f"{json_file}: {part}[{index}]{fault}")
        ids = collections.Counter(item["id"] for item in items)
        item_id, count = next(iter(ids.most_common(1)), (None, 0))
        if part != "annotations" and count > 1:
            raise InputError(
                f"{json_file}: {part} has the id {item_id} {count} times; give each its own"
            )


def _field_fault(item: Any, fields: dict[str, type]) -> str | None:
    if not isinstance(item, dict):
        return f" is {_show(item)}; it must be an object"
    for field, kind in fields.items():
        value = item.get(field)
        if kind is str and type(value) is not str:
            return f".{field} is {_show(value)}; it must be text"
        if kind is int and (type(value) is not int or not -(2**63) <= value < 2**63):
            return f".{field} is {_show(value)}; it must be a whole number of at most 64 bits"
    if item.get("iscrowd", 0) not in (0, 1):
        return f".iscrowd is {_show(item['iscrowd'])}; it must be 0 or 1"
    return None


def _category_labels(
    categories: list[dict[str, Any]], class_map: ClassMap, json_file: Path
) -> dict[int, int]:
    try:
        return {category["id"]: class_map.label_of(category["name"]) for category in categories}
    except InputError as error:
        raise InputError(f"{json_file}: {error}") from error


def _records(
    content: dict[str, Any], labels: dict[int, int], folder: Path, bad: set[int | None]
) -> list[Record]:
    annotations = collections.defaultdict(list)
    for item in content["annotations"]:
        if item["image_id"] not in bad:
            crowd = bool(item.get("iscrowd", 0))
            label = labels.get(item["category_id"], IGNORE_LABEL)  # of unlisted images only
            annotation = Annotation(item["id"], label, item.get("segmentation", []), crowd)
            annotations[item["image_id"]].append(annotation)
    return [
        Record(
            id=image["id"],
            file_name=image["file_name"],
            path=folder / image["file_name"],
            height=image["height"],
            width=image["width"],
            annotations=tuple(annotations[image["id"]]),
        )
        for image in content["images"]
        if image["id"] not in bad
    ]


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
            yield image_id, f"image {image_id} ({_show(name)}) {fault}"
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
        return f"is a link that leads out of the data folder, to {_show(os.path.realpath(path))}"
    if not os.path.isfile(path):
        return f"is listed and absent: there is no file {path}"
    return None


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
            fault = _segmentation_fault(segmentation, image["height"], image["width"])
        seen.add((image_id, annotation_id))
        if fault:
            name = _show(image["file_name"])
            yield image_id, f"annotation {annotation_id} of image {image_id} ({name}) {fault}"


def _segmentation_fault(segmentation: Any, height: int, width: int) -> str | None:
    if isinstance(segmentation, list) and segmentation:
        return next(filter(None, map(_polygon_fault, segmentation)), None)
    if isinstance(segmentation, dict) and segmentation:
        return _rle_fault(segmentation, height, width)
    return f"has the segmentation {_show(segmentation)}; it must be a list of polygons or an RLE"


def _polygon_fault(polygon: Any) -> str | None:
    if not isinstance(polygon, list):
        return f"has the polygon {_show(polygon)}; it must be a list of numbers x, y, x, y, ..."
    for value in polygon:
        if type(value) not in (int, float) or not abs(value) <= MAX_COORDINATE:  # NaN, too
            return (
                f"has the polygon coordinate {_show(value)}; it must be a number between "
                f"-{MAX_COORDINATE:.0f} and {MAX_COORDINATE:.0f}"
            )
    if len(polygon) < 6 or len(polygon) % 2:  # pycocotools takes four numbers for a box
        return f"has a polygon of {len(polygon)} numbers; three points or more have 6, 8, 10, ..."
    return None


def _rle_fault(rle: dict[str, Any], height: int, width: int) -> str | None:
    if rle.get("size") != [height, width]:
        return f"has an RLE of size {_show(rle.get('size'))}; the image has {[height, width]}"
    try:
        runs = _run_lengths(rle.get("counts"))
    except ValueError as error:
        return f"has an RLE with wrong counts: {error}"
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        return (
            f"has an RLE whose counts sum to {sum(runs)}, the least being {min(runs, default=0)}; "
            f"they must sum to {height * width} pixels and none be negative"
        )
    return None


def _run_lengths(counts: Any) -> list[int]:
    """Returns the lengths of the runs of 0, 1, 0, ... down the columns; ValueError if malformed."""
    if isinstance(counts, str):
        return _decompress(counts)
    if not isinstance(counts, list) or any(type(run) is not int for run in counts):
        raise ValueError(f"{_show(counts)} is neither text nor a list of whole numbers")
    return counts


def _decompress(text: str) -> list[int]:
    """Decodes COCO's compressed counts (rleFrString of its maskApi.c), with bounds.

    Each number is little-endian in characters from chr(48) of 5 bits, 32 marks that more follow,
    and its last bit is the sign; from the fourth on it is the difference to the last but one.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"{_show(text)} is no compressed RLE")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) >> 4 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError(f"{_show(text)} ends within a number")
    return runs


def _show(value: Any) -> str:
    """Returns a value as one short line."""
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"
