"""The photographs that a command line names: folders, files, globs, the images of a COCO json."""

import collections
import glob
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from trashseg_jax.data.image_files import find_places
from trashseg_jax.errors import InputError, show

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".mpo", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"),
    *(".heic", ".heif"),
)


class Photo(NamedTuple):
    """A photograph, and what it is called in the outputs."""

    path: Path
    listed: str  # its name below the input, as a sample submission or a json has it
    name: str  # of its outputs, below their folders and without ending; no other one's
    image_id: int | str  # the json's, where that is the only input; else its place, from 1 on
    fault: str  # why a json's image can't be found; "" where it can


class Found(NamedTuple):
    path: Path
    listed: str
    own_id: int | str | None
    fault: str


def list_photos(inputs: Sequence[str], *, output: Path) -> tuple[Photo, ...]:
    """Returns the photographs in the order of `inputs`, each once; in a folder by their names.

    What lies below `output` is left out: it was written by an earlier call. Raises InputError for
    an input without photographs.
    """
    found: dict[Path, Found] = {}
    for text in inputs:
        some = [one for one in _find(text) if not _is_below(one.path, output)]
        if not some:
            raise InputError(
                f"--input={text}: has no photographs ({', '.join(s[1:] for s in SUFFIXES)}); "
                "name a folder, a file, a glob in quotes, or a COCO json"
            )
        for one in some:
            found.setdefault(one.path.absolute(), one)
    names = output_names([one.listed for one in found.values()])
    keeps_ids = len(inputs) == 1
    return tuple(
        Photo(
            one.path,
            one.listed,
            name,
            one.own_id if keeps_ids and one.own_id is not None else place,
            one.fault,
        )
        for place, (one, name) in enumerate(zip(found.values(), names, strict=True), start=1)
    )


def output_names(listed: Sequence[str]) -> list[str]:
    """Returns a name without ending for each; those that differ in it alone keep theirs.

    Case does not count: some file systems know none.
    """
    paths = [
        PurePosixPath(*(p for p in PurePosixPath(n).parts if p not in ("/", ".."))) for n in listed
    ]
    stems = collections.Counter(str(path.with_suffix("")).casefold() for path in paths)
    taken: set[str] = set()
    names = []
    for path in paths:
        stem = str(path.with_suffix(""))
        base = name = stem if stems[stem.casefold()] == 1 else str(path)
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _find(text: str) -> Iterable[Found]:
    path = Path(text).expanduser()
    if path.is_dir():
        return _in_folder(path)
    if path.suffix.lower() == ".json":
        return _in_json(path)
    if path.is_file():
        return [Found(path, path.name, None, "")]
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
    files = (Found(m, m.name, None, "") for m in matches if _is_photo(m))
    below = (one for m in matches if m.is_dir() for one in _in_folder(m))
    # A pattern such as **/* gives a folder and its files: each counts once.
    return [*files, *below] if matches else []


def _in_folder(folder: Path) -> Iterator[Found]:
    for path in sorted(folder.rglob("*")):
        if _is_photo(path):
            yield Found(path, path.relative_to(folder).as_posix(), None, "")


def _in_json(path: Path) -> Iterator[Found]:
    images = _read_images(path)
    split = "val" if "val" in path.stem else "train"
    places = find_places(path.parent, path, split=split, named="")
    ids = collections.Counter(image.get("id") for image in images)
    for place, image in enumerate(images):
        name, own_id = image.get("file_name"), image.get("id")
        if not isinstance(name, str) or not name or not isinstance(own_id, (int, str)):
            raise InputError(
                f"{path}: images[{place}] has the file_name {show(name)} and the id {show(own_id)};"
                " they must be a name, and a number or text; correct the file"
            )
        if ids[own_id] > 1:
            raise InputError(f"{path}: images has the id {show(own_id)} twice; give each its own")
        try:
            yield Found(places.find(name).path, name, own_id, "")
        except InputError as error:
            yield Found(path.parent / name, name, own_id, str(error))


def _read_images(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"--input={path}: can't be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"--input={path}: is not json ({error}); was it copied whole?") from error
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        raise InputError(f'--input={path}: is not a COCO json; one has a list of "images"')
    return images


def _is_photo(path: Path) -> bool:
    hidden = path.name.startswith(".")  # macOS leaves ._a.jpg beside a.jpg
    return path.suffix.lower() in SUFFIXES and not hidden and path.is_file()


def _is_below(path: Path, folder: Path) -> bool:
    return path.absolute().is_relative_to(folder.absolute())
