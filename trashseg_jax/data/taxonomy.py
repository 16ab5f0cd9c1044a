"""The classes, their colours, and the maps from a data set's categories or pixels to them."""

import dataclasses
import difflib
import importlib.resources
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from trashseg_jax.errors import InputError

CLASSES = (
    "Background",
    "General trash",
    "Paper",
    "Paper pack",
    "Metal",
    "Glass",
    "Plastic",
    "Styrofoam",
    "Plastic bag",
    "Battery",
    "Clothing",
)
IGNORE_LABEL = 255
IGNORE_NAME = "ignore"  # what a class map's file calls IGNORE_LABEL
CLASS_MAPS = (  # shipped in class_maps/
    *("recycle_trash", "taco", "uavvaste", "mju_waste"),
    *("zerowaste", "zerowaste_as_recycle_trash", "spectralwaste", "beachlitter"),
)
MAX_VALUE = 65535  # of a pixel of a label image

# The competition's colours for CLASSES, in order.
_COLORS = (
    (0, 0, 0),
    (192, 0, 128),
    (0, 128, 192),
    (0, 128, 64),
    (128, 0, 0),
    (64, 0, 128),
    (64, 0, 192),
    (192, 128, 64),
    (192, 192, 128),
    (64, 64, 128),
    (128, 0, 192),
)
# Those that pictures for people show in their place. The competition's have four blues and purples,
# and two that look alike to whom red cones are missing; tests/test_taxonomy.py measures both.
_SHOWN_COLORS = (
    (0, 0, 0),
    (224, 32, 160),
    (64, 128, 255),
    (0, 96, 96),
    (128, 0, 0),
    (0, 0, 128),
    (224, 192, 255),
    (255, 160, 128),
    (128, 128, 0),
    (255, 255, 0),
    (192, 255, 224),
)


@dataclasses.dataclass(frozen=True)
class ClassMap:
    """Classes, the first of which is the background, and the labels of what stands for them.

    A COCO json has category names; a label image's pixels have values, or colours as 0xRRGGBB.
    """

    classes: tuple[str, ...]
    categories: Mapping[str, int]
    values: Mapping[int, int] = dataclasses.field(default_factory=dict)
    colors: Mapping[int, int] = dataclasses.field(default_factory=dict)

    def label_of(self, category_name: str) -> int:
        """Returns a class index or IGNORE_LABEL; neither case nor outer blanks matter.

        Raises InputError for a name that the map does not hold.
        """
        labels = {_key(name): label for name, label in self.categories.items()}
        if _key(category_name) not in labels:
            raise InputError(
                f"category {category_name!r} is not in the class map"
                f"{_nearest(category_name, self.categories)}; "
                "add it to a class map of your own and name that in --config.data.class_map"
            )
        return labels[_key(category_name)]


def load_class_map(name_or_path: str) -> ClassMap:
    """Loads a shipped class map by its name, or a json file of yours (see docs/class_maps.md).

    Raises InputError naming the file and what is wrong in it.
    """
    content = _parse(_read(name_or_path), name_or_path)
    classes = _check_classes(content.get("classes", list(CLASSES)), name_or_path)
    if not content.keys() & _KINDS.keys():
        raise InputError(
            f"class map {name_or_path}: maps nothing to a class; it must have "
            f"{', '.join(map(_quoted, _KINDS))}, or several of them"
        )
    maps = {kind: _labels(content, kind, classes, name_or_path) for kind in _KINDS}
    if maps["values"]:
        maps["values"].setdefault(IGNORE_LABEL, IGNORE_LABEL)
    for kind in ("values", "colors"):
        if maps[kind] and 0 not in maps[kind].values():  # nothing is the background: 0 is, or black
            maps[kind].setdefault(0, 0)
    return ClassMap(classes, **maps)


def relabel(class_map: ClassMap, classes: Sequence[str]) -> ClassMap:
    """Returns the map with the labels that its classes have, by their names, among `classes`.

    Raises InputError where it maps something to a class that is not among them, or where its
    background, what nothing is mapped to, is not theirs.
    """
    known = {_key(name): label for label, name in enumerate(classes)}
    background = class_map.classes[0]
    if known.get(_key(background)) != 0:
        raise InputError(
            f"its background is {background!r}, and that of the run {classes[0]!r}; give it a "
            "config.data.class_map with the run's classes"
        )
    kinds = {kind: getattr(class_map, kind) for kind in _KINDS}
    used = {label for labels in kinds.values() for label in labels.values()} - {IGNORE_LABEL}
    others = [class_map.classes[label] for label in sorted(used)]
    if others := [name for name in others if _key(name) not in known]:
        raise InputError(
            f"it maps to {', '.join(map(repr, others))}, and the run's classes are only "
            f"{', '.join(classes)}; give it a config.data.class_map with these"
        )
    new = {label: known[_key(class_map.classes[label])] for label in used}
    new[IGNORE_LABEL] = IGNORE_LABEL
    return ClassMap(
        tuple(classes),
        **{kind: {key: new[label] for key, label in kinds[kind].items()} for kind in kinds},
    )


def palette(num_classes: int) -> UInt8[np.ndarray, "k 3"]:
    """Returns one RGB colour per class: the competition's eleven, then the rest of VOC's colours.

    Raises InputError unless 1 <= num_classes <= 255.
    """
    if not 1 <= num_classes <= IGNORE_LABEL:
        raise InputError(f"num_classes is {num_classes}; it must be from 1 to {IGNORE_LABEL}")
    more = [color for color in map(_voc_color, range(256)) if color not in _COLORS]
    return np.array([*_COLORS, *more][:num_classes], np.uint8)


def shown_colors(palette: UInt8[np.ndarray, "k 3"]) -> UInt8[np.ndarray, "k 3"]:
    """Returns the colours for pictures: the palette's own, but for the competition's."""
    count = len(palette)
    if not np.array_equal(palette, _COLORS[:count]):
        return palette
    return np.array(_SHOWN_COLORS[:count], np.uint8)


def _voc_color(index: int) -> tuple[int, int, int]:
    """Returns PASCAL VOC's colour: the index's bits dealt to the channels' high bits in turn."""
    red, green, blue = (
        sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3))
        for channel in range(3)
    )
    return red, green, blue


def _key(name: str) -> str:
    return name.strip().casefold()


def _nearest(name: str, known: Iterable[str]) -> str:
    """Returns '; did you mean ...?' with the known name that is nearest, or nothing."""
    names = {_key(other): other for other in known}
    near = difflib.get_close_matches(_key(name), names, n=1)
    return f"; did you mean {names[near[0]]!r}?" if near else ""


def _read(name_or_path: str) -> str:
    if not name_or_path:
        raise InputError(
            "class map '': the name is empty; --config.data.class_map must name a json file of "
            f"yours (docs/class_maps.md) or one of {', '.join(CLASS_MAPS)}"
        )
    path: Any = Path(name_or_path)
    if name_or_path in CLASS_MAPS:
        folder = importlib.resources.files("trashseg_jax.data")
        path = folder / "class_maps" / f"{name_or_path}.json"
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"class map {name_or_path}: is not UTF-8 text ({error})") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(
            f"class map {name_or_path!r} is neither one of {', '.join(CLASS_MAPS)} nor a "
            f"file that can be read{_nearest(name_or_path, CLASS_MAPS)}"
        ) from error


def _parse(text: str, source: str) -> dict[str, Any]:
    """Parses the json object; refuses repeated keys, of which json would keep the last."""

    def to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if repeated := _first_repeated(names):
            raise InputError(f"class map {source}: {repeated!r} appears twice; remove one")
        return dict(pairs)

    try:
        content = json.loads(text, object_pairs_hook=to_dict)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"class map {source}: is not json ({error})") from error
    if not isinstance(content, dict):
        raise InputError(
            f"class map {source}: is a json {type(content).__name__}; it must be an object "
            'like {"categories": {"Can": "Metal"}}'
        )
    known = ["classes", *_KINDS]
    if unknown := sorted(set(content) - set(known)):
        raise InputError(
            f"class map {source}: has the key {unknown[0]!r}; only "
            f"{', '.join(map(_quoted, known))} are known{_nearest(unknown[0], known)}"
        )
    return content


def _check_classes(classes: Any, source: str) -> tuple[str, ...]:
    if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
        raise InputError(f'class map {source}: "classes" must be a list of names')
    if not 2 <= len(classes) <= IGNORE_LABEL:
        raise InputError(
            f'class map {source}: "classes" has {len(classes)} names; there must be from 2 '
            f"(the first is the background) to {IGNORE_LABEL}"
        )
    if repeated := _first_repeated(classes):
        raise InputError(f"class map {source}: class {repeated!r} appears twice; remove one")
    for name in classes:
        if _key(name) in ("", IGNORE_NAME):
            raise InputError(f"class map {source}: a class can't be called {name!r}; rename it")
    return tuple(name.strip() for name in classes)


# What a class map's file may map to classes: how a key of each kind is read, None if it is none.


def _value(text: str) -> int | None:
    whole = re.fullmatch("[0-9]{1,5}", text.strip())
    return int(text) if whole and int(text) <= MAX_VALUE else None


def _color(text: str) -> int | None:
    return int(text.strip()[1:], 16) if re.fullmatch("#[0-9a-fA-F]{6}", text.strip()) else None


_KINDS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "categories": ("a category name", str),
    "values": (f"a whole number from 0 to {MAX_VALUE}", _value),
    "colors": ("a colour like #c00080", _color),
}


def _labels(
    content: dict[str, Any], kind: str, classes: Sequence[str], source: str
) -> dict[Any, int]:
    """Returns the label of each key that the file has under `kind`; none where it lacks that."""
    rule, read = _KINDS[kind]
    names = content.get(kind, {})
    if not isinstance(names, dict) or (kind in content and not names):
        raise InputError(
            f'class map {source}: "{kind}" must be an object that maps at least one key, '
            f"{rule}, to a class name"
        )
    result: dict[Any, int] = {}
    for text, name in names.items():
        key = read(text)
        if key is None:
            raise InputError(
                f'class map {source}: "{kind}" has the key {text!r}; it must be {rule}'
            )
        if key in result:
            raise InputError(f"class map {source}: {text!r} appears twice; remove one")
        result[key] = _label(text, name, classes, source)
    return result


def _label(text: str, name: Any, classes: Sequence[str], source: str) -> int:
    labels = {_key(other): index for index, other in enumerate(classes)}
    labels[IGNORE_NAME] = IGNORE_LABEL
    if not isinstance(name, str) or _key(name) not in labels:
        near = _nearest(name, [*classes, IGNORE_NAME]) if isinstance(name, str) else ""
        raise InputError(
            f"class map {source}: {text!r} is mapped to {name!r}, which must be the name of a "
            f'class or "{IGNORE_NAME}"{near}'
        )
    return labels[_key(name)]


def _quoted(name: str) -> str:
    return f'"{name}"'


def _first_repeated(names: list[str]) -> str | None:
    """Returns the first name that equals an earlier one but for case and outer blanks."""
    seen = set()
    for name in names:
        if _key(name) in seen:
            return name
        seen.add(_key(name))
    return None
