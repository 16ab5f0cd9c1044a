"""Malformed and odd COCO folders: what spoils a good one, and what that must give.

The good folder's train.json lists the images 8, 7 and 9 with an annotation each (80, 70 and 90) of
their white corner as Paper. A case spoils the json, image 7 (a/photo.png) or annotation 70.
"""

import dataclasses
import io
import json
import os
import struct
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fixtures_coco import box, compressed, holds, uncompressed, write_coco_folder
from PIL import Image

from trashseg_jax.data.taxonomy import CLASSES

HEIGHT, WIDTH = 16, 24
PHOTO = "a/photo.png"
PIXELS = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
PIXELS[:8, :8] = 255
CORNER = np.where(PIXELS[..., 0] > 0, 2, 0).astype(np.uint8)  # Paper is class 2
EMPTY = np.zeros_like(CORNER)

Content = dict[str, Any]
Spoil = Callable[[Path, Content], bytes | None]  # may return the json's bytes


@dataclasses.dataclass(frozen=True)
class Case:
    """What spoils the folder, and either image 7's label map or what the message must hold.

    A bad image is left out under `skip_bad`; what else is refused is refused then, too.
    """

    spoil: Spoil
    label: np.ndarray | None = None
    named: tuple[str, ...] = ()
    file: str = "train.json"  # that the message must name
    bad_image: bool = False


def write_good_folder(folder: Path) -> Content:
    """Writes the images and a good val.json, and returns what train.json is to hold."""
    annotations = [{"file_name": "c.png", "category": "Paper", "segmentation": [box(0, 0, 8, 8)]}]
    write_coco_folder(
        folder, images={"c.png": PIXELS}, annotations=annotations, json_name="val.json"
    )
    names = {8: "b/first.png", 7: PHOTO, 9: "b/last.png"}
    for name in names.values():
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(PIXELS).save(folder / name)
    return {
        "images": [
            {"id": image_id, "file_name": name, "height": HEIGHT, "width": WIDTH}
            for image_id, name in names.items()
        ],
        "annotations": [
            {
                "id": 10 * image_id,
                "image_id": image_id,
                "category_id": 2,
                "segmentation": [box(0, 0, 8, 8)],
                "iscrowd": 0,
            }
            for image_id in names
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES) if i],
    }


def spoil_folder(folder: Path, case: Case) -> None:
    """Writes the case's folder."""
    folder.mkdir()
    content = write_good_folder(folder)
    data = case.spoil(folder, content)
    json_file = folder / "train.json"
    if data is not None:
        json_file.write_bytes(data)
    elif not json_file.is_dir():
        json_file.write_text(json.dumps(content))


# What a case gives


def loads(spoil: Spoil, label: np.ndarray = CORNER) -> Case:
    return Case(spoil, label=label)


def refused(spoil: Spoil, *named: str) -> Case:
    return Case(spoil, named=named)


def bad_image(spoil: Spoil, *named: str) -> Case:
    return Case(spoil, named=("image 7", *named), bad_image=True)


def bad_annotation(spoil: Spoil, *named: str) -> Case:
    return bad_image(spoil, "annotation 70", *named)


def bad_photo(data: bytes, *named: str) -> Case:
    return Case(photo(data), named=("image 7", *named), file=PHOTO, bad_image=True)


# What spoils it


def nothing(folder: Path, content: Content) -> None:
    """Leaves the folder as it is."""


def raw(data: bytes) -> Spoil:
    return lambda folder, content: data


def edited(edit: Callable[[str], str], encoding: str = "utf-8") -> Spoil:
    """Edits the json's text."""
    return lambda folder, content: edit(json.dumps(content, ensure_ascii=False)).encode(encoding)


def each(*spoils: Spoil) -> Spoil:
    def spoil(folder: Path, content: Content) -> None:
        for one in spoils:
            one(folder, content)

    return spoil


def put(part: str, value: Any) -> Spoil:
    return lambda folder, content: content.update({part: value})


def put_in(part: str, *, at: int = 1, **fields: Any) -> Spoil:
    """Sets fields of an item: of image 7, annotation 70, category Paper unless `at` says so."""
    return lambda folder, content: content[part][at].update(fields)


def drop_from(part: str, field: str) -> Spoil:
    def spoil(folder: Path, content: Content) -> None:
        del content[part][1][field]

    return spoil


def segmentation(value: Any) -> Spoil:
    return put_in("annotations", segmentation=value)


def rle(counts: Any, size: Any = (HEIGHT, WIDTH), **more: Any) -> Spoil:
    size = list(size) if isinstance(size, tuple) else size
    return segmentation({"size": size, "counts": counts, **more})


def photo(data: bytes) -> Spoil:
    def spoil(folder: Path, content: Content) -> None:
        (folder / PHOTO).write_bytes(data)

    return spoil


def named(name: str) -> Spoil:
    return put_in("images", file_name=name)


def moved(name: str, *, listed: str | None = None) -> Spoil:
    """Gives the photo another name on the disk, and that or `listed` in the json."""

    def spoil(folder: Path, content: Content) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / PHOTO).rename(folder / name)
        content["images"][1]["file_name"] = listed or name

    return spoil


def linked(target: str) -> Spoil:
    """Puts a link to `target` in place of the photo, which moves to outside.png or inside.png."""

    def spoil(folder: Path, content: Content) -> None:
        name = folder.parent / "outside.png" if "outside" in target else folder / "inside.png"
        (folder / PHOTO).rename(name)
        (folder / PHOTO).symlink_to(target)

    return spoil


def linked_folder(place: str) -> Spoil:
    """Moves the photo's folder to `place` and leaves a link."""

    def spoil(folder: Path, content: Content) -> None:
        (folder / "a").rename(folder / place)
        (folder / "a").symlink_to(place)

    return spoil


def replaced(make: Callable[[Path], Any]) -> Spoil:
    """Puts something that is no file in place of the photo."""

    def spoil(folder: Path, content: Content) -> None:
        (folder / PHOTO).unlink()
        make(folder / PHOTO)

    return spoil


def categories(names: dict[int, str], category_id: int) -> Spoil:
    """Replaces the categories, and gives annotation 70 and the others one of them."""

    def spoil(folder: Path, content: Content) -> None:
        content["categories"] = [{"id": i, "name": name} for i, name in names.items()]
        for item in content["annotations"]:
            item["category_id"] = category_id

    return spoil


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


# The json's text


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def no_json(folder: Path, content: Content) -> bytes:
    (folder / "train.json").mkdir()
    return None


JSON = {
    "untouched": loads(nothing),
    "empty file": refused(raw(b""), "is not json"),
    "blank file": refused(raw(b" \n"), "is not json"),
    "NUL bytes": refused(raw(bytes(512)), "is not json"),
    "web page": refused(raw(b"<html>\n404\n</html>"), "is not json"),
    "truncated": refused(edited(lambda text: text[:-40]), "is not json", "copied whole"),
    "two documents": refused(edited(lambda text: f"{text}\n{text}"), "Extra data"),
    "trailing comma": refused(edited(lambda text: f"{text[:-1]},}}"), "is not json"),
    "single quotes": refused(edited(lambda text: text.replace('"', "'")), "is not json"),
    "a list": refused(raw(b"[1, 2]"), "holds [1, 2]; a COCO file is an object"),
    "null": refused(raw(b"null"), "holds missing"),
    "a text": refused(raw(b'"images"'), "holds 'images'"),
    "a number": refused(raw(b"NaN"), "holds nan"),
    "an empty object": refused(raw(b"{}"), '"images" is missing'),
    "nested without end": refused(raw(b"[" * 100_000), "is not json", "recursion"),
    "nested deeply where it counts": refused(put("annotations", {"a": nested(200)}), "[...]"),
    "nested deeply where it does not": loads(put("info", nested(200))),
    "a number of 5,000 digits": refused(
        edited(lambda text: text.replace("16", "1" * 5000, 1)), "is not json", "4300 digits"
    ),
    "a key twice": refused(
        edited(lambda text: text[:-1] + ', "annotations": []}'), "the key 'annotations' twice"
    ),
    "a key twice, deep": refused(
        edited(lambda text: text.replace('"image_id": 7', '"image_id": 7, "image_id": 8')),
        "the key 'image_id' twice",
    ),
    "a folder in its place": refused(no_json, "can't be read (Is a directory)"),
    "NaN where it does not count": loads(put_in("annotations", area=float("nan"))),
    "infinity where it does not count": loads(put_in("annotations", bbox=[0, 0, float("inf")])),
}

ENCODINGS = {
    "UTF-8": loads(moved("a/쓰레기.png")),
    "escapes": loads(edited(lambda text: text.replace("photo", "\\u0070hoto"))),
    "byte order mark": loads(edited(str, "utf-8-sig")),
    "UTF-16": loads(edited(str, "utf-16")),
    "UTF-16, big-endian": loads(edited(lambda text: "\ufeff" + text, "utf-16-be")),
    "UTF-32": loads(edited(str, "utf-32")),
    "UTF-16, an odd number of bytes": refused(
        lambda folder, content: json.dumps(content).encode("utf-16") + b"\0", "is not UTF-8 text"
    ),
    "Latin-1": refused(
        edited(lambda text: text.replace("photo", "photó"), "latin-1"),
        "is not UTF-8 text",
        "save it so",
    ),
    "Korean code page": refused(
        edited(lambda text: text.replace("photo", "쓰레기"), "cp949"), "is not UTF-8 text"
    ),
}

# Its structure

HUGE = 2**63
STRUCTURE = {
    "no images": refused(put("images", None), '"images" is missing'),
    "no annotations": refused(put("annotations", None), '"annotations" is missing'),
    "annotations by id": refused(put("annotations", {"70": {}}), "\"annotations\" is {'70': {}}"),
    "categories as text": refused(put("categories", "Paper"), "\"categories\" is 'Paper'"),
    "an empty list of images": refused(put("images", []), '"images" is []'),
    "an image that is a number": refused(put("images", [7]), "images[0] is 7; it must be an obj"),
    "an annotation that is null": refused(put("annotations", [None]), "annotations[0] is missing"),
    "image without id": refused(drop_from("images", "id"), "images[1]: id is missing; it must be"),
    "image id true": refused(
        put_in("images", id=True), "images[1]: id is True; it must be a number"
    ),
    "image id NaN": refused(put_in("images", id=float("nan")), "images[1]: id is nan"),
    "image id a list": refused(put_in("images", id=[7]), "images[1]: id is [7]"),
    "image id twice": refused(put_in("images", id=8), "images has the id 8 twice"),
    "image id twice, as text": refused(
        each(put_in("images", at=0, id="x"), put_in("images", id="x")), "the id 'x' twice"
    ),
    "image without name": bad_image(drop_from("images", "file_name"), "file_name missing; it must"),
    "file name a number": bad_image(put_in("images", file_name=3), "has the file_name 3; it must"),
    "file name a list": bad_image(put_in("images", file_name=[PHOTO]), "must be text"),
    "width with a fraction": bad_image(put_in("images", width=24.5), "has the width 24.5; it must"),
    "width of no number": bad_image(put_in("images", width="24px"), "has the width '24px'"),
    "width true": bad_image(put_in("images", width=True), "has the width True"),
    "annotation without category": bad_annotation(
        drop_from("annotations", "category_id"), "has no category_id"
    ),
    "crowd 2": bad_annotation(put_in("annotations", iscrowd=2), "has iscrowd 2; it must be 0 or 1"),
    "crowd of other text": bad_annotation(put_in("annotations", iscrowd="few"), "iscrowd 'few'"),
    "crowd a list": bad_annotation(put_in("annotations", iscrowd=[0]), "has iscrowd [0]"),
    "annotation id of another outline": bad_annotation(
        lambda folder, content: content["annotations"].append(
            content["annotations"][1] | {"segmentation": [box(1, 1, 5, 5)]}
        ),
        "has the id of another one of that image; give each its own",
    ),
    "height zero": bad_image(put_in("images", height=0), "height 0", "must be positive"),
    "width negative": bad_image(put_in("images", width=-4), "width -4", "must be positive"),
    "too many pixels": bad_image(put_in("images", width=10**9), "width 1000000000", "at most"),
    "too many pixels for 64 bits": bad_image(
        put_in("images", width=HUGE - 1, height=HUGE - 1), "at most 178000000"
    ),
    "size of no image file": Case(
        put_in("images", height=WIDTH, width=HEIGHT),
        named=("image 7", "is 24 wide and 16 high", "says 16 and 24", "correct either"),
        file=PHOTO,
        bad_image=True,
    ),
    "annotation of an unlisted category": bad_annotation(
        put_in("annotations", category_id=99), "category 99, which is not listed"
    ),
    "annotation of an unlisted category, negative": bad_annotation(
        put_in("annotations", category_id=-1), "category -1, which is not listed"
    ),
    "ids from the ends of 64 bits": loads(
        each(
            put_in("images", at=0, id=-HUGE),
            put_in("annotations", at=0, id=HUGE - 1, image_id=-HUGE),
        )
    ),
    "ids with a point": loads(
        each(put_in("images", id=7.0), put_in("annotations", id=70.5, image_id=7, category_id=2.0))
    ),
    "ids as text where they are linked": loads(
        put_in("annotations", id="70", image_id="7", category_id="2")
    ),
    "ids as text where they are listed": loads(
        each(put_in("images", id="7"), put_in("categories", id="2"))
    ),
    "ids of words": loads(
        each(
            put_in("images", at=0, id="first"),
            put_in("annotations", at=0, id="one", image_id="first", category_id="paper"),
            put_in("categories", at=0, id="paper", name="Paper"),
        )
    ),
    "ids of more than 64 bits": loads(
        each(
            put_in("images", at=0, id=HUGE),
            put_in("annotations", at=0, id=10**4000, image_id=HUGE),
        )
    ),
    "annotations without ids": loads(drop_from("annotations", "id")),
    "an annotation's id a list": loads(put_in("annotations", id=[1])),
    "an image twice, the same": loads(
        lambda folder, content: content["images"].append(dict(content["images"][1]))
    ),
    "a category twice, the same": loads(
        lambda folder, content: content["categories"].append(dict(content["categories"][1]))
    ),
    "an annotation twice, the same": loads(
        lambda folder, content: content["annotations"].append(dict(content["annotations"][1]))
    ),
    "an annotation twice, with another id": loads(
        lambda folder, content: content["annotations"].append(content["annotations"][1] | {"id": 5})
    ),
    "sizes as text": loads(put_in("images", height="16", width="24.0")),
    "sizes with a point": loads(put_in("images", height=16.0, width=24.0)),
    "sizes null": loads(put_in("images", height=None, width=None)),
    "sizes NaN": loads(put_in("images", height=float("nan"), width=float("nan"))),
    "sizes left out": loads(each(drop_from("images", "height"), drop_from("images", "width"))),
    "crowd": loads(put_in("annotations", iscrowd=1)),
    "crowd null": loads(put_in("annotations", iscrowd=None)),
    "crowd as text": loads(put_in("annotations", iscrowd="0")),
    "crowd left out": loads(drop_from("annotations", "iscrowd")),
    "no annotation": loads(put("annotations", []), EMPTY),
    "more than COCO has": loads(put("info", {"images": [None]})),
}

EDITION = ("UNKNOWN", *CLASSES[1:])
CATEGORIES = {
    "unknown name": refused(
        put_in("categories", name="Papier"), "category 'Papier' is not in", "mean 'Paper'"
    ),
    "unknown name, long": refused(put_in("categories", name="x" * 99), "is not in the class map"),
    "unknown name, unused": refused(put_in("categories", id=99, name="Wood"), "'Wood' is not in"),
    "name empty": refused(put_in("categories", name=""), "category '' is not in"),
    "name of two lines": refused(put_in("categories", name="Pa\nper"), r"category 'Pa\nper'"),
    "name of half a character": refused(put_in("categories", name="\ud800"), r"'\ud800'"),
    "name a number": refused(put_in("categories", name=2), "categories (id 2): name is 2"),
    "name left out": refused(drop_from("categories", "name"), "(id 2): name is missing"),
    "id twice": refused(put_in("categories", id=1), "categories has the id 1 twice"),
    "one too few": bad_annotation(
        each(
            put("categories", [{"id": 1, "name": "Paper"}]),
            put_in("annotations", at=0, category_id=1),
            put_in("annotations", at=2, category_id=1),
        ),
        "category 2, which is not listed",
    ),
    "id zero": loads(categories({0: "Battery", 1: "Paper"}, 0), np.where(CORNER > 0, 9, 0)),
    "ids apart": loads(categories({-5: "Metal", 90: "Paper"}, 90)),
    "one name twice": loads(categories({1: "Paper", 2: "Metal", 3: "Paper"}, 3)),
    "a misspelt background": loads(categories({0: "Backgroud", 2: "Paper"}, 0), EMPTY),
    "names in capitals and blanks": loads(categories({2: " PAPER "}, 2)),
    "the older edition's ids": loads(categories(dict(enumerate(EDITION, 1)), 3)),
    "the older edition's UNKNOWN": loads(
        categories(dict(enumerate(EDITION, 1)), 1), np.where(CORNER > 0, 255, 0)
    ),
}

# Photographs

RGB = Image.fromarray(PIXELS)
JPEG, PNG = encode(RGB, "JPEG"), encode(RGB, "PNG")
MORE = {"save_all": True, "append_images": [Image.new("RGB", (WIDTH, HEIGHT), "red")]}
SENSOR = {  # how the camera's sensor saw the upright image: Exif 2.3, table 6
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[:, ::-1],
}


def with_orientation(orientation: int, pixels: np.ndarray, image_format: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(Image.fromarray(np.ascontiguousarray(pixels)), image_format, exif=exif)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png_of(width: int, height: int) -> bytes:
    """The good PNG, but for its header's size."""
    header = struct.pack(">II", width, height) + PNG[24:29]
    return PNG[:8] + png_chunk(b"IHDR", header) + PNG[33:]


def jpeg_of(width: int, height: int) -> bytes:
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + struct.pack(">HH", height, width) + JPEG[at + 4 :]


def bmp_of(width: int, height: int) -> bytes:
    data = encode(RGB, "BMP")
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


def gif_of(width: int, height: int) -> bytes:
    data = encode(RGB, "GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def tiff_of(width: int, height: int) -> bytes:
    """A grey TIFF of one strip, of which there is but a byte."""
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 278: height, 279: 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 10) + b"\0\0" + struct.pack("<H", len(tags)) + entries


BOMBS = {
    "PNG": png_of(2**16, 2**16),
    "PNG, just above": png_of(14_900, 12_000),
    "JPEG": jpeg_of(65_500, 65_500),
    "BMP": bmp_of(40_000, 40_000),
    "GIF": gif_of(65_535, 65_535),
    "TIFF": tiff_of(50_000, 50_000),
}
PHOTOS = (
    {
        f"EXIF orientation {orientation}, {image_format}": loads(
            photo(with_orientation(orientation, seen(PIXELS), image_format))
        )
        for orientation, seen in SENSOR.items()
        for image_format in ("JPEG", "PNG")
    }
    | {
        f"decompression bomb, {name}": bad_photo(data, "more than 178000000 pixels; scale it")
        for name, data in BOMBS.items()
    }
    | {
        f"several pictures, {name}": bad_photo(
            encode(RGB, name, **MORE), "holds several pictures", "save the one"
        )
        for name in ("GIF", "PNG", "WEBP", "TIFF")
    }
    | {
        "PNG named .jpg": loads(moved("a/photo.jpg")),
        "JPEG named .png": loads(photo(JPEG)),
        "grey JPEG": loads(photo(encode(RGB.convert("L"), "JPEG"))),
        "progressive JPEG": loads(photo(encode(RGB, "JPEG", progressive=True))),
        "CMYK JPEG": loads(photo(encode(RGB.convert("CMYK"), "JPEG"))),
        "JPEG with a picture behind it": loads(photo(encode(RGB, "MPO", **MORE))),
        "JPEG with broken EXIF": loads(
            photo(encode(RGB, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\xff\xff"))
        ),
        "PNG of 16 bits": loads(
            photo(encode(Image.fromarray(PIXELS[..., 0] * np.uint16(257)), "PNG"))
        ),
        "PNG of 1 bit": loads(photo(encode(RGB.convert("1"), "PNG"))),
        "grey PNG": loads(photo(encode(RGB.convert("L"), "PNG"))),
        "palette PNG": loads(photo(encode(RGB.convert("P"), "PNG"))),
        "palette PNG with transparency": loads(
            photo(encode(RGB.convert("P"), "PNG", transparency=0))
        ),
        "PNG with alpha": loads(photo(encode(RGB.convert("RGBA"), "PNG"))),
        "PNG with alpha, all transparent": loads(
            photo(encode(Image.fromarray(np.dstack([PIXELS, EMPTY])), "PNG"))
        ),
        "grey PNG with alpha": loads(photo(encode(RGB.convert("LA"), "PNG"))),
        "GIF": loads(photo(encode(RGB, "GIF"))),
        "BMP": loads(photo(encode(RGB, "BMP"))),
        "WebP": loads(photo(encode(RGB, "WEBP"))),
        "TIFF": loads(photo(encode(RGB, "TIFF"))),
        "empty": bad_photo(b"", "is no image of the formats JPEG, PNG, BMP, GIF, WEBP, TIFF"),
        "text": bad_photo(b"a photograph of a can\n", "is no image", "replace it"),
        "web page": bad_photo(b"<html>\n404\n</html>", "is no image"),
        "pointer of Git LFS": bad_photo(
            b"version https://git-lfs.github.com/spec/v1\n", "no image"
        ),
        "PostScript": bad_photo(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 16\n", "no image"),
        "PDF": bad_photo(b"%PDF-1.4\n1 0 obj\n", "is no image"),
        "half a JPEG": bad_photo(JPEG[: len(JPEG) // 2], "is damaged", "replace it"),
        "JPEG without its last pixels": bad_photo(JPEG[:-9], "is damaged"),
        "JPEG without pixels": bad_photo(JPEG[:30], "is damaged"),
        "first bytes of a JPEG": bad_photo(JPEG[:3], "image 7"),
        "half a PNG": bad_photo(PNG[: len(PNG) // 2], "is damaged"),
        "PNG without its last pixels": bad_photo(PNG[:-30], "is damaged"),
        "PNG with a flipped bit": bad_photo(
            PNG[:50] + bytes([PNG[50] ^ 4]) + PNG[51:], "is damaged"
        ),
        "PNG whose text inflates without end": bad_photo(
            PNG[:33] + png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21))) + PNG[33:],
            "is damaged (Decompressed data too large",
        ),
        "TIFF of fractions": bad_photo(
            encode(Image.fromarray(CORNER.astype(np.float32)), "TIFF"),
            "pixels of type F; save it with 8 or 16 bits",
        ),
        "another size": bad_photo(
            encode(RGB.resize((23, 16)), "PNG"), "is 23 wide and 16 high", "says 24 and 16"
        ),
        "another size, by its EXIF rotation": bad_photo(
            with_orientation(6, PIXELS, "JPEG"), "is 16 wide and 24 high (EXIF rotation applied)"
        ),
    }
)

# Polygons


def drawn(*polygons: list[float]) -> np.ndarray:
    """Brute force: Paper where a polygon holds a pixel's centre."""
    inside = [
        [any(holds(polygon, x + 0.5, y + 0.5) for polygon in polygons) for x in range(WIDTH)]
        for y in range(HEIGHT)
    ]
    return np.where(inside, 2, 0)


def polygon_is_drawn(*polygons: list[float]) -> Case:
    return loads(segmentation(list(polygons)), drawn(*polygons))


EIGHT = [2, 2, 6, 2, 6, 10, 10, 10, 10, 6, 2, 6]  # two boxes that meet at a crossing
TWICE = [0, 0, 9, 0, 9, 9, 3, 9, 3, 3, 14, 3, 14, 12, 0, 12]  # 6x6 pixels are gone round twice
POINTS = [1, 1, 3, 1, 3, 3]
NOTHING = "has neither an outline nor a box: its segmentation is"
POLYGONS = {
    "clockwise": polygon_is_drawn([2, 3, 9, 3, 9, 12, 2, 12]),
    "anticlockwise": polygon_is_drawn([2, 12, 9, 12, 9, 3, 2, 3]),
    "closed by its first point": polygon_is_drawn([2, 3, 9, 3, 9, 12, 2, 12, 2, 3]),
    "points twice": polygon_is_drawn([2, 3, 2, 3, 9, 3, 9, 12, 9, 12, 2, 12]),
    "crosses itself": polygon_is_drawn(EIGHT),
    "overlaps itself": polygon_is_drawn(TWICE),
    "two that overlap": polygon_is_drawn(box(1, 1, 8, 8), box(5, 5, 10, 10)),
    "reaches outside": polygon_is_drawn(box(-5, -5, 10, 10)),
    "lies outside": polygon_is_drawn(box(30, 30, 10, 10)),
    "goes far outside": polygon_is_drawn([-90_000, 4, 90_000, 4, 90_000, 9, -90_000, 9]),
    "no area, a line": polygon_is_drawn([2, 2, 9, 2, 4, 2]),
    "no area, a point": polygon_is_drawn([5, 5] * 3),
    "no area, there and back": polygon_is_drawn([2, 2, 9, 2, 9, 7, 9, 2]),
    "no area, and a box": polygon_is_drawn([5, 5] * 3, box(1, 1, 4, 4)),
    "many points": polygon_is_drawn([2, 3, *([9, 3, 9, 4] * 2000), 9, 12, 2, 12]),
    "flat": loads(segmentation(box(0, 0, 8, 8))),
    "of points": loads(segmentation([[[0, 0], [8, 0], [8, 8], [0, 8]]])),
    "points alone": loads(segmentation([[0, 0], [8, 0], [8, 8], [0, 8]])),
    "numbers as text": loads(segmentation([[0, "0", "8.0", 0, 8, " 8", 0, "8e0"]])),
    "of two points behind a good one": loads(segmentation([box(0, 0, 8, 8), [1, 1, 3, 3]])),
    "of one point before a good one": loads(segmentation([[12, 8], box(0, 0, 8, 8)])),
    "of nothing behind a good one": loads(segmentation([box(0, 0, 8, 8), []])),
    "left out": bad_annotation(drop_from("annotations", "segmentation"), f"{NOTHING} missing"),
    "null": bad_annotation(segmentation(None), f"{NOTHING} missing; 1 of the file's"),
    "none": bad_annotation(segmentation([]), f"{NOTHING} []"),
    "text": bad_annotation(segmentation("1 2 3"), "'1 2 3'"),
    "of nothing": bad_annotation(segmentation([[]]), f"{NOTHING} [[]]"),
    "of one point": bad_annotation(segmentation([[1, 1]]), f"{NOTHING} [[1, 1]]"),
    "of two points": bad_annotation(segmentation([[1, 1, 3, 3]]), f"{NOTHING} [[1, 1, 3, 3]]"),
    "a box in its place": bad_annotation(
        put_in("annotations", segmentation=[[0, 0, 8, 8]], bbox=[0, 0, 8, 8]),
        *("has a box and no outline", "--config.data.boxes=ignore"),
    ),
    "keypoints in its place": bad_annotation(
        put_in("annotations", segmentation=[], keypoints=[3, 3, 2], area=0),
        "has keypoints and neither an outline nor a box",
    ),
    "an area without it": bad_annotation(
        put_in("annotations", segmentation=[], area=64, bbox=[0, 0, 0, 0]), f"{NOTHING} []"
    ),
    "odd number": bad_annotation(segmentation([[*POINTS, 1]]), "7 numbers; three points or more"),
    "NaN": bad_annotation(segmentation([[*POINTS, 1, float("nan")]]), "coordinate nan"),
    "infinity": bad_annotation(segmentation([[*POINTS, 1, float("-inf")]]), "coordinate -inf"),
    "beyond the furthest": bad_annotation(segmentation([[*POINTS, 1, 100_001]]), "100001; it must"),
    "number of 4,000 digits": bad_annotation(segmentation([[*POINTS, 1, 10**4000]]), "...0000"),
    "words among numbers": bad_annotation(segmentation([[*POINTS, 1, "x"]]), "coordinate 'x'"),
    "null among numbers": bad_annotation(segmentation([[*POINTS, 1, None]]), "coordinate missing"),
    "true among numbers": bad_annotation(segmentation([[*POINTS, 1, True]]), "coordinate True"),
    "points of three": bad_annotation(segmentation([[[1, 1, 1]] * 3]), "coordinate [1, 1, 1]"),
    "objects": bad_annotation(segmentation([{"x": 1, "y": 1}] * 3), "polygon {'x': 1, 'y': 1}"),
    "nested deeply": bad_annotation(segmentation(nested(200)), "polygon coordinate [["),
    "an outline without end": bad_annotation(
        segmentation([[1e5, -1e5, -1e5, 1e5] * 20]), "outline is 8000000 pixels long", "at most"
    ),
}

# RLE

PIXEL_COUNT = HEIGHT * WIDTH
FULL = np.full_like(CORNER, 2)
BLOB = np.zeros((HEIGHT, WIDTH), np.uint8)
BLOB[3:9, 5:17] = BLOB[12, 1] = 1
BAD_TEXT = "they must be text that pycocotools wrote"
RLE = {
    "run lengths": loads(segmentation(uncompressed(BLOB)), 2 * BLOB),
    "compressed": loads(segmentation(compressed(BLOB)), 2 * BLOB),
    "full": loads(rle([0, PIXEL_COUNT]), FULL),
    "empty": loads(rle([PIXEL_COUNT]), EMPTY),
    "runs of no length": loads(rle([0, 0, 0, PIXEL_COUNT, 0, 0]), FULL),
    "size with points": loads(rle([0, PIXEL_COUNT], (16.0, 24.0)), FULL),
    "more than an RLE has": loads(rle([0, PIXEL_COUNT], more=nested(200)), FULL),
    "numbers as text": loads(rle(["0", "384"], ("16", "24")), FULL),
    "runs with a point": loads(rle([0.0, 384.0]), FULL),
    "bytes as Python shows them": loads(rle(str(compressed(BLOB)["counts"].encode())), 2 * BLOB),
    "of an image without a size": loads(
        each(put_in("images", height=None), rle([0, PIXEL_COUNT])), FULL
    ),
    "no keys": bad_annotation(segmentation({}), f"{NOTHING} {{}}"),
    "no size": bad_annotation(segmentation({"counts": [0, 384]}), "an RLE of size missing"),
    "no counts": bad_annotation(segmentation({"size": [16, 24]}), "counts are missing"),
    "size turned": bad_annotation(rle([0, 384], (24, 16)), "size [24, 16]; it must be", "(16, 24)"),
    "size of three": bad_annotation(rle([0, 384], (16, 24, 1)), "size [16, 24, 1]"),
    "size as text": bad_annotation(rle([0, 384], "16x24"), "size '16x24'"),
    "size huge": bad_annotation(rle([0, 384], (2**32 + 16, 24)), "size [4294967312, 24]"),
    "too short": bad_annotation(rle([0, 383]), "sum to 383; they must sum to 384 pixels"),
    "too long": bad_annotation(rle([1, 384]), "sum to 385; they must"),
    "of nothing": bad_annotation(rle([]), "sum to 0; they must"),
    "negative run": bad_annotation(rle([200, -16, 200]), "a run of -16; it must be from 0 to 384"),
    "run too long": bad_annotation(rle([0, 385]), "a run of 385"),
    "right but for 32 bits": bad_annotation(rle([2**31, 2**31 + 384]), "a run of 2147483648"),
    "right but for 64 bits": bad_annotation(rle([2**63, 2**63 + 384]), "a run of"),
    "runs of 4,300 digits": bad_annotation(rle([10**4300 - 1] * 2), "a run of 9999"),
    "run with a fraction": bad_annotation(rle([0.5, 383.5]), "counts are [0.5, 383.5]"),
    "run NaN": bad_annotation(rle([0, float("nan")]), "counts are [0, nan]"),
    "run true": bad_annotation(rle([True, 383]), "counts are [True, 383]"),
    "run null": bad_annotation(rle([0, None]), "counts are [0, None]"),
    "runs in lists": bad_annotation(rle([[0, 384]]), "counts are [[0, 384]]"),
    "runs by key": bad_annotation(rle({"0": 384}), "counts are {'0': 384}"),
    "one number": bad_annotation(rle(384), "counts are 384; they must be text or a list"),
    "compressed, empty": bad_annotation(rle(""), "sum to 0"),
    "compressed, too short": bad_annotation(rle("0o;"), "sum to 383"),
    "compressed, of a larger image": bad_annotation(
        rle(compressed(np.ones((99, 99), np.uint8))["counts"]), "a run of 9801"
    ),
    "compressed, negative run": bad_annotation(rle("0N"), "a run of -2"),
    "compressed, breaks off": bad_annotation(rle("0P"), "'0P', which ends within a number"),
    "compressed, number without end": bad_annotation(rle("o" * 99), BAD_TEXT),
    "compressed, other characters": bad_annotation(rle("0 é"), BAD_TEXT),
    "compressed, NUL": bad_annotation(rle("0<\0"), BAD_TEXT),
    "compressed, half a character": bad_annotation(rle("\ud800"), r"'\ud800'"),
}

# Paths

LINK_OUT = "is a link that leads out of the data folder"
KOREAN = "a/쓰레기.png"
ABSENT = "is absent: looked in"
PATHS = {
    "plain, by a detour": loads(named("./b/../a//photo.png")),
    "blanks and signs": loads(moved("a b/%20 #1 'ü'.png")),
    "leading dash": loads(moved("-rf.png")),
    "a backslash in the name": loads(moved("a/pho\\to.png")),
    "composed characters": loads(moved(unicodedata.normalize("NFC", KOREAN))),
    "decomposed characters": loads(moved(unicodedata.normalize("NFD", KOREAN))),
    "255 bytes": loads(moved("a/" + 251 * "x" + ".png")),
    "link within the folder": loads(linked("../inside.png")),
    "link to a folder within": loads(linked_folder("elsewhere")),
    "composed for decomposed": loads(
        moved(unicodedata.normalize("NFD", KOREAN), listed=unicodedata.normalize("NFC", KOREAN))
    ),
    "decomposed for composed": loads(
        moved(unicodedata.normalize("NFC", KOREAN), listed=unicodedata.normalize("NFD", KOREAN))
    ),
    "backslashes of Windows": loads(named("a\\photo.png")),
    "percent-encoded": loads(moved("a/pho to é.png", listed="a/pho%20to%20%C3%A9.png")),
    "percent-encoded backslashes": loads(named("a%5Cphoto.png")),
    "Label Studio's local files": loads(named("/data/local-files/?d=somewhere/a/photo.png")),
    "Label Studio's local files, of Windows": loads(
        named("http://localhost:8080/data/local-files/?d=C%3A%5Clabels%5Ca%5Cphoto.png")
    ),
    "Label Studio's upload": loads(moved("a/x.png", listed="/data/upload/4/a/90fbb0c7-x.png")),
    "Label Studio's project": loads(moved("images/x.png", listed="images/4/x.png")),
    "a URL": loads(named("https://example.org/bucket/a/photo.png?signature=1")),
    "a bucket": loads(named("s3://bucket/a/photo.png")),
    "other capitals": bad_image(named("a/Photo.PNG"), ABSENT, "did you mean 'a/photo.png'?"),
    "another folder": bad_image(named("c/photo.png"), ABSENT, "did you mean 'a/photo.png'?"),
    "absent": bad_image(named("a/none.png"), "('a/none.png')", ABSENT),
    "absent folder": bad_image(named("none/photo.png"), ABSENT),
    "a file for a folder": bad_image(named("b/last.png/photo.png"), ABSENT),
    "trailing slash": bad_image(named("a/photo.png/"), ABSENT),
    "a folder": bad_image(named("a"), ABSENT),
    "the folder itself": bad_image(named("."), ABSENT),
    "a folder in its place": bad_image(replaced(Path.mkdir), ABSENT),
    "a pipe in its place": bad_image(replaced(os.mkfifo), ABSENT),
    "empty": bad_image(named(""), "('')", "empty file_name"),
    "NUL": bad_image(named("a/photo\0.png"), r"'a/photo\x00.png'", "control characters"),
    "line break": bad_image(named("a/photo\n.png"), r"'a/photo\n.png'", "control characters"),
    "line separator": bad_image(named("a/photo\u2028.png"), "control characters"),
    "half a character": bad_image(named("a/\ud800.png"), r"'a/\ud800.png'", "control characters"),
    "256 bytes": bad_image(named("a/" + 252 * "x" + ".png"), ABSENT),
    "10,000 characters": bad_image(named("a" * 10_000), "aaa...aaa", ABSENT),
    "10,000 folders": bad_image(named("a/" * 10_000 + "x.png"), ABSENT),
    "absolute": bad_image(named("/etc/passwd"), "'/etc/passwd'", "must be relative"),
    "absolute, elsewhere": bad_image(
        named("/home/me/photo.png"), "must be relative", "did you mean 'a/photo.png'?"
    ),
    "absolute on Windows": bad_image(
        named("C:\\photo.png"), "absolute", "must be relative", "mean 'a/photo.png'?"
    ),
    "absolute behind a tool's folder": bad_image(
        named("/data/local-files/?d=/etc/passwd"), "absolute"
    ),
    "of a server on Windows": bad_image(named("\\\\server\\share\\photo.png"), "absolute"),
    "climbs": bad_image(
        named("../photo.png"), "climbs out of the data folder", "did you mean 'a/photo.png'?"
    ),
    "climbs on Windows": bad_image(named("..\\..\\photo.png"), "climbs out of the data folder"),
    "climbs in code": bad_image(named("..%2F..%2Foutside.png"), "climbs out of the data folder"),
    "climbs behind a tool's folder": bad_image(
        named("s3://bucket/../../outside.png"), "climbs out of the data folder"
    ),
    "climbs late": bad_image(named("a/../../photo.png"), "climbs out of the data folder"),
    "climbs and comes back": bad_image(named("../data/a/photo.png"), "climbs out of the data"),
    "link out of the folder": bad_image(linked("../../outside.png"), LINK_OUT),
    "link to a device": bad_image(replaced(lambda path: path.symlink_to("/dev/zero")), LINK_OUT),
    "link to a folder outside": bad_image(linked_folder("../outside"), LINK_OUT),
    "link to nothing": bad_image(replaced(lambda path: path.symlink_to("none.png")), ABSENT),
    "link to itself": bad_image(replaced(lambda path: path.symlink_to("photo.png")), ABSENT),
}

KINDS = {
    "json": JSON,
    "encoding": ENCODINGS,
    "structure": STRUCTURE,
    "categories": CATEGORIES,
    "photo": PHOTOS,
    "polygon": POLYGONS,
    "RLE": RLE,
    "path": PATHS,
}
CASES = {f"{kind}: {name}": case for kind, cases in KINDS.items() for name, case in cases.items()}
