"""Finds the files of images by the names that a json has for them.

Worker processes import this module: it needs neither jax nor tensorflow.
"""

import dataclasses
import functools
import itertools
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import NamedTuple
from urllib.parse import unquote

from trashseg_jax.errors import InputError, show

_SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation")}
_OTHERS = ("data", "JPEGImages")  # FiftyOne's, labelme2coco's
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^/]*/+")
# Label Studio's ways to its own copies, and the project's number in names of some versions.
_OWN_COPY = re.compile(r"/*(data/local-files/*\?d=|data/upload/\d+/|upload/\d+/|images/\d+/)")
_UPLOAD_HASH = re.compile(r"[0-9a-f]{8}-(?=[^/]+$)")  # before a name of what was uploaded to it
_MOST_FILES = 200_000  # looked through for a name like an absent one


class AbsentImage(InputError):
    """No file is where the image's may be."""


class ImageFile(NamedTuple):
    """An image's file, and its name below the folder in which it was found."""

    path: Path
    name: str


@dataclasses.dataclass(frozen=True)
class Places:
    """The folders in which a split's images are looked for, one after the other."""

    folders: tuple[Path, ...]
    homes: tuple[Path, ...]  # out of which no name may lead
    described: str
    remedy: str

    def find(self, name: str) -> ImageFile:
        """Returns the file of an image's name; raises InputError, a text that begins with a verb.

        A name is tried as it is before it is read as a Windows path, a URL, or a path of the tool
        that wrote it.
        """
        faults = []
        for spelling in _spellings(name):
            if fault := _name_fault(spelling):
                faults.append(fault)
                continue
            for folder in self.folders:
                path = os.path.join(folder, spelling)
                if self._leads_out(path):
                    where = show(os.path.realpath(path))
                    faults.append(
                        f"is a link that leads out of the data folder, to {where}; if that is "
                        f"meant, {self.remedy}"
                    )
                elif os.path.isfile(path):
                    return ImageFile(Path(path), posixpath.normpath(spelling))
        near = self._like(name)
        if faults:
            raise InputError(f"{faults[0]}{near}")
        raise AbsentImage(f"is absent: looked in {self.described}; {self.remedy}{near}")

    def _leads_out(self, path: str) -> bool:
        if not os.path.lexists(path):
            return False
        real = Path(os.path.realpath(path))
        return not any(real.is_relative_to(home) for home in self._real_homes)

    @functools.cached_property
    def _real_homes(self) -> tuple[Path, ...]:
        return tuple(Path(os.path.realpath(home)) for home in self.homes)

    def _like(self, name: str) -> str:
        """Says which file there is of the same last name, whatever its case."""
        near = self._by_last_name.get(_last_name(name))
        return f"; did you mean {near!a}?" if near else ""

    @functools.cached_property
    def _by_last_name(self) -> dict[str, str]:
        names: dict[str, str] = {}
        files = (
            os.path.relpath(os.path.join(root, name), home)
            for home in self.homes
            for root, _, found in os.walk(home)
            for name in found
        )
        for name in itertools.islice(files, _MOST_FILES):
            names.setdefault(_last_name(name), name)
        return names


def find_places(data_dir: Path, json_file: Path, *, split: str, named: str) -> Places:
    """Returns where the images of a split's json are looked for, or the one folder that is named.

    Raises InputError for a folder that is not there.
    """
    if named:
        folder = data_dir / Path(named).expanduser()
        if not folder.is_dir():
            raise InputError(
                f"{folder}: is not a folder; correct config.data.{split}_images={named!r}"
            )
        remedy = f"correct config.data.{split}_images={named!r}"
        return Places((folder,), (folder,), str(folder), remedy)
    if not data_dir.is_dir():
        raise InputError(
            f"{data_dir}: is not a folder; correct config.data.dir, or name the folder of the "
            f"images of {json_file} in config.data.{split}_images"
        )
    # Datumaro and COCO call a folder as the json's name ends: instances_train2017.json.
    ending = re.fullmatch("(instances|annotations|person_keypoints)_(.+)", json_file.stem)
    names = (*_SPLIT_NAMES[split], *([ending[2]] if ending else []))
    below = ["", "images", *(f"images/{n}" for n in names), *names]
    below += [*(f"{n}/images" for n in names), *_OTHERS]
    bases = list(dict.fromkeys((json_file.parent, data_dir)))
    if json_file.parent != data_dir and json_file.parent.is_relative_to(data_dir):
        bases.append(json_file.parent.parent)
    folders = dict.fromkeys(base / name for name in below for base in bases)
    beside = "" if json_file.parent == data_dir else f"{json_file.parent}, "
    return Places(
        tuple(folder for folder in folders if folder.is_dir()),
        tuple(dict.fromkeys((data_dir, json_file.parent))),
        f"{beside}{data_dir}, and there in {', '.join(dict.fromkeys(filter(None, below)))}",
        f"name their folder with --config.data.{split}_images",
    )


def _name_fault(name: str) -> str | None:
    if not name or _UNPRINTABLE.search(name):
        return "has an empty file_name or one with control characters"
    if posixpath.isabs(name) or PureWindowsPath(name).is_absolute():
        return "has an absolute file_name; it must be relative to the data folder"
    if posixpath.normpath(name).split("/")[0] == "..":
        return "has a file_name that climbs out of the data folder"
    return None


def _spellings(name: str) -> Iterator[str]:
    """Yields the name as it is, and then what else it may mean, each once."""
    yield name
    decoded = unquote(name)
    forms = [name.replace("\\", "/"), decoded, decoded.replace("\\", "/")]
    forms += _without_tool(forms[-1])
    forms += [form for known in (name, *forms) for form in _other_forms(known)]
    yield from (form for form in dict.fromkeys(forms) if form != name)


def _without_tool(name: str) -> list[str]:
    """Returns what follows a URL's host or a tool's own folder, and the ends of that path."""
    rest = _SCHEME.sub("", name, count=1)
    copy = _OWN_COPY.match(rest)
    rest = rest[copy.end() :] if copy else rest.split("?")[0]
    parts = rest.split("/") if rest != name else []
    tails = ["/".join(parts[at:]) for at in range(min(len(parts), 20))]
    return [*tails, *(_UPLOAD_HASH.sub("", known) for known in (name, *tails))]


def _other_forms(name: str) -> list[str]:
    """Returns the same characters as macOS and as others write them."""
    if name.isascii():
        return []
    return [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]


def _last_name(name: str) -> str:
    last = re.split(r"[/\\]", unquote(name))[-1]
    return unicodedata.normalize("NFC", last).casefold()
