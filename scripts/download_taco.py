"""Fetches TACO's photographs (Proença & Simões 2020) and annotations that fit them.

    python scripts/download_taco.py --out=data/taco
    python scripts/download_taco.py --out=data/taco --size=original --annotations=annotations.json
    trashseg train --config=best_cpu:taco --config.data.dir=data/taco

The addresses are those in TACO's annotations.json, which is fetched too unless --annotations names
a file; several, with a comma between, are an official split's, and each is written under its own
name. --size=640 is what Flickr has at that size, or else the original scaled to it; outlines are
scaled alike; originals are stored byte for byte. Started again, it goes on where it stopped.

Photographs that their owners have withdrawn are named in missing.json and left out. Where others
could not be had either, no annotations are written and the exit code is 3: the same command tries
those again, and --leave_out does without them.
"""

import argparse
import io
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image, ImageOps

sys.path.insert(1, str(Path(__file__).parent.parent))

from fetching.annotations import Size, fit
from fetching.fetch import Failed, Fetcher, Gone, Patience

from trashseg_jax import folders
from trashseg_jax.ahead import map_ahead
from trashseg_jax.errors import InputError
from trashseg_jax.prediction.progress import Progress
from trashseg_jax.report.files import write_bytes, write_json

RELEASE = "https://raw.githubusercontent.com/pedropro/TACO/master/data/annotations.json"
FLICKR_SIZE = 640
QUALITY = 92  # of photographs that are scaled here
FORMATS = ("JPEG", "PNG")
RECORD = "download.json"  # the --size of what lies in the folder


class Photo(NamedTuple):
    """What the annotations say of a photograph: its name, its upright size, where it may be had."""

    name: str
    size: Size
    addresses: tuple[str, ...]  # the first that has it is taken


class Fetched(NamedTuple):
    """A photograph that is there, by its upright size, or why it is not."""

    name: str
    size: Size | None
    reason: str = ""
    gone: bool = False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the data set's folder")
    parser.add_argument("--annotations", default="", help="files; default: TACO's release")
    parser.add_argument("--size", default=str(FLICKR_SIZE), help="longer side, or original")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--per_second", type=float, default=5.0, help="requests at the most")
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--backoff", type=float, default=1.0, help="seconds before a second try")
    parser.add_argument("--silence", type=float, default=20.0, help="seconds without a byte")
    parser.add_argument("--leave_out", action="store_true", help="what could not be had now")
    options = parser.parse_args()
    try:
        return download(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def download(options: argparse.Namespace) -> int:
    """Returns the exit code."""
    side = parse_size(options.size)
    check_counts(options)
    folders.check_writable(options.out, "name another folder with --out")
    patience = Patience(
        tries=options.tries,
        backoff=options.backoff,
        silence=options.silence,
        per_second=options.per_second,
    )
    fetcher = Fetcher(patience)

    # What there should be.
    contents = read_annotations(options.annotations, fetcher)
    photos = list_photos(contents.values(), side)
    check_record(options)

    # The photographs.
    get = partial(get_photo, fetcher=fetcher, out=options.out, side=side)
    with Progress(len(photos)) as bar:
        fetched = []
        for one in map_ahead(get, photos, threads=options.connections):
            fetched.append(one)
            if one.size is None:
                bar.write(f"{one.name}: {one.reason}")
            bar.add()
    return finish(options, contents, fetched)


def finish(
    options: argparse.Namespace, contents: dict[str, dict[str, Any]], fetched: Sequence[Fetched]
) -> int:
    """Writes what is missing, and the annotations unless it may still be had."""
    sizes = {one.name: one.size for one in fetched if one.size}
    missing = [one for one in fetched if one.size is None]
    failed = [one for one in missing if not one.gone]
    entries = [{"file_name": m.name, "reason": m.reason, "gone": m.gone} for m in missing]
    write_json(options.out / "missing.json", entries)
    print(f"{options.out}: {len(sizes)} photographs, {len(missing)} missing (see missing.json)")
    if not sizes or (failed and not options.leave_out):
        print(
            f"error: {len(failed)} photographs could not be had now, {failed[0].name} for one; the "
            "same command tries them again, --leave_out does without them"
            if failed
            else "error: none of the photographs is there any more",
            file=sys.stderr,
        )
        return 3
    for name, content in contents.items():
        write_json(options.out / name, fit(content, sizes))
    print(f"train on it with --config=best_cpu:taco --config.data.dir={options.out}")
    return 0


def parse_size(text: str) -> int | None:
    """Returns the longer side in pixels; None for photographs as they are."""
    if text == "original":
        return None
    if not text.isdecimal() or not 32 <= int(text) <= 10_000:
        raise InputError(f"--size={text}: must be original, or pixels from 32 to 10000")
    return int(text)


def check_counts(options: argparse.Namespace) -> None:
    for name, least in (("connections", 1), ("tries", 1), ("per_second", 1e-3), ("silence", 0.1)):
        if getattr(options, name) < least:
            raise InputError(f"--{name}={getattr(options, name)}: must be at least {least}")


def check_record(options: argparse.Namespace) -> None:
    """Makes the folder, or raises InputError for one with photographs of another size."""
    path = options.out / RECORD
    if path.exists():
        before = json.loads(path.read_text())["size"]
        if before != options.size:
            raise InputError(
                f"{options.out}: has photographs of --size={before}; name another folder with "
                f"--out, or pass --size={before}"
            )
        return
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(path, {"size": options.size})


def read_annotations(named: str, fetcher: Fetcher) -> dict[str, dict[str, Any]]:
    """Returns the content of each file by its name."""
    if not named:
        try:
            return {"annotations.json": fetcher.fetch(RELEASE, json.loads)}
        except (Gone, Failed) as error:
            raise InputError(
                f"{RELEASE}: {error}; pass TACO's file with --annotations=FILE"
            ) from error
    contents = {}
    for path in map(Path, named.split(",")):
        try:
            contents[path.name] = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(f"--annotations={path}: {error}; name TACO's json") from error
        if not {"images", "annotations", "categories"} <= contents[path.name].keys():
            raise InputError(f"--annotations={path}: holds no COCO annotations; name TACO's json")
    return contents


def list_photos(contents: Any, side: int | None) -> list[Photo]:
    """Returns each photograph once. Raises InputError for names that lead out of the folder."""
    photos = {}
    for image in (image for content in contents for image in content["images"]):
        name, path = image["file_name"], PurePosixPath(image["file_name"])
        if path.is_absolute() or ".." in path.parts or "\\" in name or not path.name:
            raise InputError(f"file_name {name!r}: leads out of the folder; mend the annotations")
        small = image.get("flickr_640_url") if side == FLICKR_SIZE else None
        named = (small, image.get("flickr_url"), image.get("coco_url"))
        addresses = tuple(dict.fromkeys(filter(None, named)))
        photos[name] = Photo(name, (image["width"], image["height"]), addresses)
    return list(photos.values())


def get_photo(photo: Photo, *, fetcher: Fetcher, out: Path, side: int | None) -> Fetched:
    """Returns the photograph that is below `out`, fetched unless it was there."""
    path = out / photo.name
    check = partial(check_photo, photo=photo, side=side)
    if path.exists():
        try:
            return Fetched(photo.name, check(path.read_bytes())[1])
        except (ValueError, Gone):  # not ours: it is fetched anew
            pass
    reasons, gone = ["has no address"], True
    for address in photo.addresses:
        try:
            content, size = fetcher.fetch(address, check)
        except Gone as error:
            reasons.append(f"{address}: {error}")
        except Failed as error:
            reasons.append(f"{address}: {error}")
            gone = False
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, content)
            return Fetched(photo.name, size)
    return Fetched(photo.name, None, "; ".join(reasons[1:] or reasons), gone)


def check_photo(content: bytes, *, photo: Photo, side: int | None) -> tuple[bytes, Size]:
    """Returns what is to be stored of a photograph, and its upright size.

    The bytes as they are, unless they must be scaled down. Raises ValueError for what is no
    photograph, and Gone for one of another shape, which the outlines would not fit.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        image.load()
        upright = ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError("not an image, or a damaged one") from error
    (width, height), (whole_width, whole_height) = upright.size, photo.size
    # A scaled side is rounded, by up to a pixel.
    if abs(width * whole_height - height * whole_width) > max(photo.size):
        raise Gone(f"{width}x{height} pixels, of another shape than {whole_width}x{whole_height}")
    if side is None or max(upright.size) <= side:
        return content, upright.size
    factor = side / max(upright.size)
    smaller = tuple(max(1, round(length * factor)) for length in upright.size)
    scaled = upright.convert("RGB").resize(smaller, Image.Resampling.LANCZOS)
    stored = io.BytesIO()
    scaled.save(stored, "PNG" if photo.name.lower().endswith(".png") else "JPEG", quality=QUALITY)
    return stored.getvalue(), scaled.size


if __name__ == "__main__":
    sys.exit(main())
