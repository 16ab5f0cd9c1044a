"""Finds the folders of photographs and of label images in a data set's folder.

Worker processes import this module: it needs neither jax nor tensorflow.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from trashseg_jax.errors import InputError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")

# Names in use, whatever their case: of mmseg, PASCAL VOC, ADE20K, Cityscapes, ZeroWaste-f,
# SpectralWaste, BeachLitter, CamVid, PaddleSeg and Roboflow, among others.
_IMAGES = (
    *("images", "image", "imgs", "img", "photos", "img_dir", "JPEGImages", "data", "rgb"),
    *("leftImg8bit",),
)
_LABELS = (
    *("labels", "label", "masks", "mask", "annotations", "ann_dir", "SegmentationClass"),
    *("SegmentationClassPNG", "sem_seg", "semantic", "labels_rgb", "gtFine", "gt", "maskpngs"),
)
_NAMES = {
    "train": ("train", "training", "train2017"),
    "val": ("val", "valid", "validation", "val2017"),
}
# Photographs and labels of a split, with a name of each of the two kinds...
_BY_KIND = ("{kind}/{split}", "{split}/{kind}", "{split}_{kind}", "{kind}_{split}")
# ... or named after the photographs; in one folder, names tell them apart.
_BY_SPLIT = tuple(
    ("{split}", labels) for labels in ("{split}annot", "{split}_labels", "{split}_masks", "{split}")
)
_LISTS = (
    "ImageSets/Segmentation/{split}.txt",
    "ImageSets/{split}.txt",
    "splits/{split}.txt",
    "lists/{split}.txt",
    "{split}.txt",
    "{split}_list.txt",
)


class Place(NamedTuple):
    """A folder of photographs and one of their labels; they may be the same."""

    images: Path
    labels: Path


def find_places(folder: Path) -> dict[str, Place]:
    """Returns the places of "train" and "val", of "train" alone, or of "all" where none is split.

    Raises InputError where no layout fits, or several do.
    """
    below = _folders(folder)
    for split in _NAMES["train"]:
        found = _existing(below, _shapes(*_BY_KIND), split)
        if shape := _only(folder, found) or next(iter(_existing(below, _BY_SPLIT, split)), None):
            vals = [place for val in _NAMES["val"] for place in _at(below, shape, val)]
            return {"train": _at(below, shape, split)[0], **dict(zip(["val"], vals, strict=False))}
    if shape := _only(folder, _existing(below, _shapes("{kind}"), "")):
        return {"all": _at(below, shape, "")[0]}
    raise InputError(
        f"{folder}: has no label images in a place that is known; looked for a folder of "
        f"photographs ({', '.join(_IMAGES)}) and one of labels ({', '.join(_LABELS)}), each with "
        "a folder train in it, both in a folder train, or both without; name yours with "
        "--config.data.train_images and train_labels, val_images and val_labels"
    )


def find_list(folder: Path, split: str) -> Path | None:
    """Returns the list of a split's names, None where there is none."""
    names = [pattern.format(split=name) for name in _NAMES[split] for pattern in _LISTS]
    return next((path for name in names if (path := folder / name).is_file()), None)


def list_images(folder: Path, *, but: Path | None) -> Iterator[str]:
    """Yields the paths, below the folder, of images in it at any depth, in order; `but` left out.

    Hidden files and what macOS adds to archives are none. Raises InputError for a folder that
    can't be read.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: can't be read ({error.strerror}); restore it")

    for root, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        hidden = {name for name in folders if name.startswith((".", "__MACOSX"))}
        folders[:] = sorted(n for n in folders if n not in hidden and Path(root, n) != but)
        for name in sorted(names):
            if name.lower().endswith(IMAGE_ENDINGS) and not name.startswith("."):
                yield Path(root, name).relative_to(folder).as_posix()


def _folders(folder: Path) -> dict[str, Path]:
    """Returns the folders to a depth of two by their paths below this one, in lower case."""
    result: dict[str, Path] = {}
    for depth in ("*", "*/*"):
        for path in sorted(folder.glob(depth)):
            if path.is_dir():
                result.setdefault(path.relative_to(folder).as_posix().casefold(), path)
    return result


def _shapes(*patterns: str) -> list[tuple[str, str]]:
    return [
        (pattern.replace("{kind}", images), pattern.replace("{kind}", labels))
        for pattern in patterns
        for images in _IMAGES
        for labels in _LABELS
    ]


def _at(below: dict[str, Path], shape: tuple[str, str], split: str) -> list[Place]:
    """Returns the place of that shape, if its folders are there and hold images."""
    images, labels = (below.get(name.format(split=split).casefold()) for name in shape)
    found = images and labels and _has_images(images) and _has_images(labels)
    return [Place(images, labels)] if images and labels and found else []


def _existing(
    below: dict[str, Path], shapes: Iterable[tuple[str, str]], split: str
) -> list[tuple[str, str]]:
    return [shape for shape in shapes if _at(below, shape, split)]


def _has_images(folder: Path) -> bool:
    return next(list_images(folder, but=None), None) is not None


def _only(folder: Path, shapes: list[tuple[str, str]]) -> tuple[str, str] | None:
    if len(shapes) > 1:
        pairs = [f"{images} with {labels}".format(split="train") for images, labels in shapes]
        raise InputError(
            f"{folder}: several folders may be the photographs and their labels: "
            f"{'; '.join(pairs)}; say which, with --config.data.train_images and train_labels, "
            "val_images and val_labels"
        )
    return shapes[0] if shapes else None
