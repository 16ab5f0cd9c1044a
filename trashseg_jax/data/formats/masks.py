"""Reads folders of photographs with a label image each, PNGs of classes.

Worker processes import this module: it needs neither jax nor tensorflow.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from trashseg_jax.data.label_images import count_objects, read_label, turn_upright
from trashseg_jax.data.layouts import IMAGE_ENDINGS, Place, find_list, find_places, list_images
from trashseg_jax.data.records import SKIP_REMEDY, DataFolder, Label, Record, Splits, hold_out
from trashseg_jax.data.taxonomy import ClassMap
from trashseg_jax.errors import InputError, show

# What follows the common part of a photograph's and its label's name, before their endings: that
# which pairs most of them.
SUFFIXES = (
    ("", ""),
    ("_leftImg8bit", "_gtFine_labelIds"),  # Cityscapes
    *(("", mark + word) for word in ("mask", "masks", "label", "labels") for mark in "_-."),
    *(("", mark + word) for word in ("semantic", "seg", "segmentation", "gt") for mark in "_-."),
    ("", "_L"),  # CamVid
)
KEYS = "--config.data.image_suffix and label_suffix"


@dataclasses.dataclass(frozen=True)
class LabelImage:
    """A label image, to be read when it is wanted (a `records.LabelSource`)."""

    photo: Path
    path: Path
    class_map: ClassMap = dataclasses.field(repr=False)  # one for all: DataFolder shows it

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def draw(self, *, height: int, width: int, num_classes: int) -> Label:
        """Reads the label map; the objects of a class are its connected pieces."""
        stored = read_label(self.path, self.class_map)
        classes = turn_upright(stored, self.path, self.photo, height=height, width=width)
        return Label(classes, count_objects(classes, num_classes=num_classes), notes={})


class Pairs(NamedTuple):
    """Names below a place's folders, by what a photograph and its label have in common."""

    place: Place
    photos: dict[str, str]
    labels: dict[str, str]


def read_splits(folder: DataFolder) -> Splits:
    """Reads "train" and "val" from two places or lists, or holds a share of one out."""
    if not (folder.class_map.values or folder.class_map.colors):
        raise InputError(
            'config.data.class_map: the map has neither "values" nor "colors", which say what the '
            "pixels of a label image are; add one of them (docs/class_maps.md)"
        )
    if folder.exif != "upright":
        raise InputError(
            f"config.data.exif={folder.exif!r}: must be 'upright' for label images, whose own size "
            "says how their photographs are turned"
        )
    places = _given_places(folder) or find_places(folder.path)
    lists = _lists(folder, found="all" in places)
    train_place = places["all" if "all" in places else "train"]
    train, problems = _read(train_place, lists.get("train"), folder, first_id=0)
    if not folder.val_file:
        return Splits({"train": train}, problems, held_out=False)
    if "val" not in places and "val" not in lists:
        records = hold_out(train, val_fraction=folder.val_fraction)
        return Splits(records, problems, held_out=True)
    val_place = places.get("val", train_place)
    val, more = _read(val_place, lists.get("val"), folder, first_id=len(train))
    return Splits({"train": train, "val": val}, problems + more, held_out=False)


def _given_places(folder: DataFolder) -> dict[str, Place]:
    """Returns the places that the options name, if any."""
    if not folder.path.is_dir():
        raise InputError(f"{folder.path}: is not a folder; correct config.data.dir")
    names = {
        "train": (folder.train_images, folder.train_labels),
        "val": (folder.val_images, folder.val_labels),
    }
    for split, pair in names.items():
        if any(pair) != all(pair) or (split == "val" and any(pair) and not any(names["train"])):
            raise InputError(
                f"config.data.{split}_images={pair[0]!r} and config.data.{split}_labels="
                f"{pair[1]!r}: name both folders or neither, and those of val only with those of "
                "train"
            )
    given = {
        split: Place(*(folder.path / name for name in pair))
        for split, pair in names.items()
        if all(pair)
    }
    for path in (path for place in given.values() for path in place):
        if not path.is_dir():
            raise InputError(f"{path}: is not a folder, and config.data names it as one")
    return given


def _lists(folder: DataFolder, *, found: bool) -> dict[str, Path]:
    """Returns the lists of names that the options name, or else those that are found if any."""
    given = {"train": folder.train_list, "val": folder.val_list}
    lists = {split: folder.path / name for split, name in given.items() if name}
    if not lists and found:
        known = {split: find_list(folder.path, split) for split in given}
        lists = {split: path for split, path in known.items() if path}
    if "val" in lists and "train" not in lists:
        raise InputError(
            f"{lists['val']}: lists images of val, and nothing those of train; name their list "
            "with --config.data.train_list"
        )
    return lists


def _read(
    place: Place, list_file: Path | None, folder: DataFolder, *, first_id: int
) -> tuple[list[Record], list[str]]:
    pairs, problems = _pair(place, folder)
    wanted: Iterable[str] = pairs.photos.keys() | pairs.labels.keys()
    if list_file is not None:
        wanted, more = _listed(list_file, pairs, folder)
        problems += more
    photos, labels = pairs.photos, pairs.labels
    bare = [photos[key] for key in sorted(wanted) if key not in labels]
    lone = [labels[key] for key in sorted(wanted) if key not in photos]
    problems += _report(place.images, bare, f"without a label in {place.labels}", folder)
    problems += _report(place.labels, lone, f"without a photograph in {place.images}", folder)
    both = [key for key in sorted(wanted) if key in photos and key in labels]
    records = [_record(number, key, pairs, folder) for number, key in enumerate(both, first_id)]
    if not records:
        raise InputError(f"{list_file or place.images}: names no image with a label")
    return records, problems


def _record(record_id: int, key: str, pairs: Pairs, folder: DataFolder) -> Record:
    name = pairs.photos[key]
    path, label = pairs.place.images / name, pairs.place.labels / pairs.labels[key]
    source = LabelImage(path, label, folder.class_map)
    return Record(id=record_id, file_name=name, path=path, size=None, source=source)


# Which label is which photograph's


def _pair(place: Place, folder: DataFolder) -> tuple[Pairs, list[str]]:
    """Returns the names by their common part under the suffixes that pair most."""
    photos = [*list_images(place.images, but=place.labels)]
    labels = [*list_images(place.labels, but=place.images)]
    given = (folder.image_suffix, folder.label_suffix)
    rules = (given,) if any(given) else SUFFIXES
    matches = [_match(place, photos, labels, *rule) for rule in rules]
    best = max(matches, key=lambda match: len(match[0].keys() & match[1].keys()))
    if not best[0].keys() & best[1].keys():
        raise InputError(
            f"{place.images}: none of its {len(photos)} images{_like(photos)} has a label among "
            f"the {len(labels)} in {place.labels}{_like(labels)}; say with {KEYS} what follows "
            "the common part of their names"
        )
    names, problems = [], []
    for path, found in zip(place, best, strict=True):
        clear = {key: of_key[0] for key, of_key in found.items() if len(of_key) == 1}
        unclear = [name for of_key in found.values() if len(of_key) > 1 for name in of_key]
        text = f"that share all of their names but the ending; rename them, or say with {KEYS} more"
        problems += _report(path, unclear, text, folder)
        names.append(clear)
    return Pairs(place, *names), problems


def _match(
    place: Place, photos: list[str], labels: list[str], image_suffix: str, label_suffix: str
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    label_keys = _by_key(labels, label_suffix)
    if place.images == place.labels:
        if not label_suffix:
            label_keys = _by_key([name for name in labels if _is_png(name)], "")
        taken = {name for names in label_keys.values() for name in names}
        photos = [name for name in photos if name not in taken]
    for key, names in label_keys.items():  # of a PNG and a preview, the PNG
        label_keys[key] = [name for name in names if _is_png(name)] or names
    return _by_key(photos, image_suffix), label_keys


def _by_key(names: list[str], suffix: str) -> dict[str, list[str]]:
    """Returns the names with that suffix by what comes before it."""
    result: dict[str, list[str]] = {}
    for name in names:
        whole = name if suffix.lower().endswith(IMAGE_ENDINGS) else name.rpartition(".")[0]
        if whole.endswith(suffix):
            result.setdefault(whole.removesuffix(suffix), []).append(name)
    return result


def _is_png(name: str) -> bool:
    return name.lower().endswith(".png")


def _like(names: list[str]) -> str:
    return f" (like {show(names[0])})" if names else ""


def _report(path: Path, names: list[str], what: str, folder: DataFolder) -> list[str]:
    """Raises InputError that names some of these files, or under `skip_bad` returns all."""
    if names and not folder.skip_bad:
        some = ", ".join(map(show, names[:3])) + (", ..." if len(names) > 3 else "")
        files = "file" if len(names) == 1 else "files"
        raise InputError(f"{path}: {len(names)} {files} {what}: {some}; add it, {SKIP_REMEDY}")
    return [f"{path / name}: left out, {what}" for name in names]


# Lists of names


def _listed(list_file: Path, pairs: Pairs, folder: DataFolder) -> tuple[list[str], list[str]]:
    """Returns the keys of the listed photographs, and a line for each entry that is skipped.

    A line is a photograph's name with or without its ending, below its folder or the data
    folder; a second column, its label's name, must agree with what the names say.
    """
    try:
        lines = list_file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"{list_file}: can't be read ({why}); correct config.data") from error
    photos = _lookup(pairs.photos, pairs.place.images, folder.path)
    labels = _lookup(pairs.labels, pairs.place.labels, folder.path)
    keys: dict[str, int] = {}
    problems = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if line:
            key, fault = _find(line, photos, labels, keys)
            if fault and not folder.skip_bad:
                raise InputError(f"{list_file}: line {number} {fault}; correct it, {SKIP_REMEDY}")
            problems += [f"{list_file}: line {number} {fault}"] if fault else []
            keys.setdefault(key, number)
    return [key for key in keys if key], problems


def _lookup(names: dict[str, str], folder: Path, root: Path) -> dict[str, str]:
    """Returns the keys by all names that a list may use; the bare one where no other has it."""
    bare = collections.Counter(key.rpartition("/")[2] for key in names)
    result = {}
    for key, name in names.items():
        if bare[key.rpartition("/")[2]] == 1:
            base = name.rpartition("/")[2]
            result |= {base: key, base.rpartition(".")[0]: key}
        for path in (Path(name), folder / name):
            text = (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
            result |= {text: key, text.rpartition(".")[0]: key}
        result[key] = key
    return result


def _find(
    line: str, photos: dict[str, str], labels: dict[str, str], seen: dict[str, int]
) -> tuple[str, str | None]:
    """Returns the key of a list's line, "" if none, and what is wrong with it."""
    columns = [line] if _plain(line) in photos else re.split(r"[\s,]+", line)
    key = photos.get(_plain(columns[0]))
    if key is None:
        lacks = "has no photograph" if _plain(columns[0]) in labels else "is not in the data set"
        return "", f"is {show(line)}, which {lacks}"
    if key in seen:
        return "", f"lists {show(columns[0])}, as line {seen[key]} does"
    if len(columns) > 1 and labels.get(_plain(columns[1])) != key:
        return (
            "",
            f"pairs {show(columns[0])} with {show(columns[1])}, which by name is not its label",
        )
    return key, None


def _plain(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")
