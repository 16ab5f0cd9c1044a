"""The images of a COCO json: which belong to a split, their sizes and files.

Worker processes import this module: it needs neither jax nor tensorflow.
"""

import collections
import os
import posixpath
from pathlib import Path
from typing import Any, NamedTuple

from trashseg_jax.data.formats.coco_fields import Content, Key, find_id, read_size
from trashseg_jax.data.formats.faults import Faults
from trashseg_jax.data.image_files import AbsentImage, ImageFile, Places
from trashseg_jax.data.records import DataFolder
from trashseg_jax.data.split_lists import index_names, match_name, read_names
from trashseg_jax.errors import InputError, show


class ListedImage(NamedTuple):
    """An image as the json has it; `size` is height and width, None where it doesn't say."""

    size: tuple[int, int] | None
    file: ImageFile


def image_name(key: Key, image: Content) -> str:
    """Returns how messages call an image."""
    return f"image {show(key)} ({show(image.get('file_name'))})"


def choose_images(
    listed: dict[Key, Content], folder: DataFolder, split: str, faults: Faults
) -> dict[Key, Content]:
    """Returns the images, in the json's order, that the split's list names; all without a list."""
    name = {"train": folder.train_list, "val": folder.val_list}[split]
    if not name:
        return listed
    list_file = folder.path / Path(name).expanduser()
    index = index_names({key: str(item.get("file_name")) for key, item in listed.items()})
    chosen, unknown = set(), []
    for one in read_names(list_file, split=split):
        own_id = find_id(listed, one)
        found = match_name(one, index) or ([] if own_id is None else [own_id])
        if len(found) > 1:
            both = " and ".join(image_name(key, listed[key]) for key in found[:2])
            raise InputError(f"{list_file}: lists {show(one)}, which may be {both}; write it whole")
        chosen.update(found)
        unknown += [] if found else [one]
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        faults.add(None, f"has no image {show(unknown[0])}{more}, which {list_file} lists")
    return {key: item for key, item in listed.items() if key in chosen}


def read_images(
    listed: dict[Key, Content], places: Places | None, folder: DataFolder, faults: Faults
) -> dict[Key, ListedImage]:
    """Returns the images that have no fault; without `places` nothing is looked for."""
    images: dict[Key, ListedImage] = {}
    wrong: dict[Key, InputError] = {}
    for key, item in listed.items():
        try:
            file = _find_file(item.get("file_name"), places, folder)
            images[key] = ListedImage(read_size(item), file)
        except InputError as error:
            wrong[key] = error
    absent = sum(isinstance(error, AbsentImage) for error in wrong.values())
    faults_of = {
        key: f"{error}{_count(absent) if isinstance(error, AbsentImage) else ''}"
        for key, error in wrong.items()
    }
    faults_of |= _shared_files(images, listed)
    for key in listed:  # in the json's order
        if key in faults_of:
            faults.add(key, f"{image_name(key, listed[key])} {faults_of[key]}")
    return {key: image for key, image in images.items() if key not in faults_of}


def _count(absent: int) -> str:
    return f" (it is one of {absent} such images)" if absent > 1 else ""


def _find_file(name: Any, places: Places | None, folder: DataFolder) -> ImageFile:
    if not isinstance(name, str):
        raise InputError(f"has the file_name {show(name)}; it must be text")
    if places is None:
        return ImageFile(folder.path / name, posixpath.normpath(name))
    return places.find(name)


def _shared_files(images: dict[Key, ListedImage], listed: dict[Key, Content]) -> dict[Key, str]:
    """Returns the fault of each image whose file another one has, too: either may lack labels."""
    sharing: dict[str, list[Key]] = collections.defaultdict(list)
    for key, image in images.items():
        sharing[os.path.normpath(image.file.path)].append(key)
    result = {}
    for keys in (keys for keys in sharing.values() if len(keys) > 1):
        for key in keys:
            other = keys[1] if key == keys[0] else keys[0]
            more = f" and {len(keys) - 2} more" if len(keys) > 2 else ""
            result[key] = (
                f"is the same file as {image_name(other, listed[other])}{more}; list it once, "
                "with all of its annotations"
            )
    return result
