"""Reads which images belong to a split from a list of their names, a text or a json.

Worker processes import this module: it needs neither jax nor tensorflow.
"""

import json
import posixpath
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from trashseg_jax.errors import InputError, show

SPLIT_KEYS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
}
K = TypeVar("K", bound=Hashable)
Index: TypeAlias = Mapping[str, Sequence[tuple[tuple[str, ...], K]]]


def read_names(list_file: Path, *, split: str) -> list[str]:
    """Returns the names that a list has for a split.

    A text has a name a line; blank lines and what follows a # are none. A json is a list of names,
    an object of such lists by split, as UAVVaste has it, or one that maps each name to its split.
    Raises InputError.
    """
    try:
        text = list_file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(
            f"{list_file}: can't be read ({error.strerror}); correct config.data.{split}_list"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{list_file}: is not UTF-8 text ({error.reason}); save it so") from error
    is_json = list_file.suffix.lower() == ".json" or text.lstrip()[:1] in ("[", "{")
    names = _from_json(text, list_file, split) if is_json else _from_lines(text)
    if not names:
        raise InputError(f"{list_file}: lists no image of {split}; correct it")
    return names


def _from_lines(text: str) -> list[str]:
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _from_json(text: str, list_file: Path, split: str) -> list[str]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{list_file}: is not json ({error}); was it copied whole?") from error
    if isinstance(content, dict):
        content = _of_split(content, split)
    if not isinstance(content, list):
        raise InputError(
            f"{list_file}: has no list of the images of {split}; it must be a list of names, or "
            f'an object of such lists, {{"train": [...], "val": [...]}}'
        )
    names = [item.get("file_name") if isinstance(item, dict) else item for item in content]
    for name in names:
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise InputError(f"{list_file}: lists {show(name)}; it must be the name of an image")
    return [str(name) for name in names]


def _of_split(content: dict[str, Any], split: str) -> Any:
    keys = {key.casefold(): key for key in content}
    for name in SPLIT_KEYS[split]:
        if name in keys:
            return content[keys[name]]
    values = {name: value for name, value in content.items() if isinstance(value, str)}
    if values and len(values) == len(content):
        return [name for name, value in values.items() if value.casefold() in SPLIT_KEYS[split]]
    return None


def match_name(name: str, known: Index[K]) -> list[K]:
    """Returns the keys in an `index_names` that a listed name may mean, best none or one.

    It is a file's whole name, its end, or a path that ends with it, with or without an ending.
    """
    parts = _parts(name)
    found = {key: path for path, key in known.get(parts[-1], ()) if _agree(parts, path)}
    whole = [key for key, path in found.items() if path == parts]
    return whole or list(found)


def index_names(names: Mapping[K, str]) -> dict[str, list[tuple[tuple[str, ...], K]]]:
    """Returns file names by their last part, with and without its ending, for `match_name`."""
    index: dict[str, list[tuple[tuple[str, ...], K]]] = {}
    for key, name in names.items():
        parts = _parts(name)
        for last in {parts[-1], posixpath.splitext(parts[-1])[0]}:
            index.setdefault(last, []).append((parts, key))
    return index


def _parts(name: str) -> tuple[str, ...]:
    return tuple(posixpath.normpath(name.replace("\\", "/")).split("/"))


def _agree(listed: tuple[str, ...], path: tuple[str, ...]) -> bool:
    """Whether the folders that both of them name are the same."""
    depth = min(len(listed), len(path)) - 1
    return depth == 0 or listed[-1 - depth : -1] == path[-1 - depth : -1]
