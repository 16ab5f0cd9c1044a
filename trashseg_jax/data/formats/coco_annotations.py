"""The annotations of a COCO json: outlines, crowds, boxes, and what an eraser left.

Worker processes import this module: it needs neither jax nor tensorflow.
"""

import collections
from collections.abc import Hashable
from typing import Any, NamedTuple

from trashseg_jax.data.formats.coco_fields import (
    Content,
    Key,
    as_flag,
    as_id,
    as_number,
    find_id,
    is_absent,
    read_box,
)
from trashseg_jax.data.formats.coco_images import ListedImage, image_name
from trashseg_jax.data.formats.faults import Faults
from trashseg_jax.data.formats.outlines import Outline, clean_outline
from trashseg_jax.data.painting import Annotation, segmentation_fault
from trashseg_jax.data.records import DataFolder
from trashseg_jax.data.taxonomy import IGNORE_LABEL
from trashseg_jax.errors import InputError, show

CROWDS = {"class": "crowds_as_class", "ignore": "crowds_ignored"}  # a note by config.data.crowd
BOXES = {"refuse": False, "ignore": True}  # whether they are painted, by config.data.boxes
BOXES_REMEDY = "pass --config.data.boxes=ignore to leave what is in the box out of loss and metrics"


class Objects:
    """An image's annotations, and notes on them as `records.Label` has."""

    def __init__(self):
        self.items: list[Annotation] = []
        self.notes: collections.Counter[str] = collections.Counter()
        self._contents: set[Hashable] = set()
        self._ids: set[Key] = set()

    def add(self, one: Annotation, *, content: Hashable, own_id: Key | None) -> None:
        """Adds an annotation unless it is a copy; raises InputError for another one's id.

        TACO itself has two ids that recur in another image.
        """
        if content in self._contents:
            self.notes["copies"] += 1
            return
        if own_id is not None and own_id in self._ids:
            raise InputError("has the id of another one of that image; give each its own")
        self.items.append(one)
        self._contents.add(content)
        self._ids |= set() if own_id is None else {own_id}


class Reader(NamedTuple):
    """What an annotation is read with; `bare` is how many of the file have no outline."""

    labels: dict[Key, int]
    folder: DataFolder
    bare: int

    def read_into(
        self, objects: Objects, item: Content, outline: Outline, size: tuple[int, int] | None
    ) -> None:
        """Adds an annotation of an image of that size; raises InputError, from a verb on."""
        category = find_id(self.labels, item.get("category_id"))
        if category is None:
            raise InputError(unlisted("category", item.get("category_id")))
        crowd = as_flag(item.get("iscrowd"))
        if crowd is None:
            raise InputError(f"has iscrowd {show(item['iscrowd'])}; it must be 0 or 1")
        label, segmentation = self.labels[category], outline.segmentation
        ignored = crowd and self.folder.crowd == "ignore"
        left_out = outline.left_out
        if segmentation is None:
            if is_erased(item):
                objects.notes["empty"] += 1
                return
            label, ignored, segmentation = IGNORE_LABEL, True, [self._box(item)]
            crowd, left_out = False, 0
            objects.notes["boxes_ignored"] += 1
        if fault := segmentation_fault(segmentation, size=size):
            raise InputError(fault)
        own_id = as_id(item.get("id"))
        one = Annotation("" if own_id is None else own_id, label, segmentation, ignored)
        objects.add(one, content=(category, ignored, repr(segmentation)), own_id=own_id)
        objects.notes[CROWDS[self.folder.crowd]] += crowd
        objects.notes["left_out_parts"] += left_out

    def _box(self, item: Content) -> list[float]:
        """Returns the polygon of the box of an annotation that has no outline."""
        what = "keypoints" if has_keypoints(item) else "a box"
        count = f"{self.bare} of the file's annotations have none"
        box = read_box(item)
        if box is None:
            what = "keypoints and neither" if has_keypoints(item) else "neither"
            raise InputError(
                f"has {what} an outline nor a box: its segmentation is "
                f"{show(item.get('segmentation'))}; {count}"
            )
        if not BOXES[self.folder.boxes]:
            raise InputError(f"has {what} and no outline; {count}; {BOXES_REMEDY}")
        x, y, width, height = box
        return [x, y, x + width, y, x + width, y + height, x, y + height]


def read_annotations(
    annotations: list[Content],
    listed: dict[Key, Content],
    images: dict[Key, ListedImage],
    labels: dict[Key, int],
    folder: DataFolder,
    faults: Faults,
) -> dict[Key, Objects]:
    """Returns the annotations of each of `images`; `listed` are all that the json has."""
    objects = {key: Objects() for key in images}
    outlines = [clean_outline(item.get("segmentation")) for item in annotations]
    bare = sum(outline.segmentation is None for outline in outlines)
    reader = Reader(labels, folder, bare)
    for index, (item, outline) in enumerate(zip(annotations, outlines, strict=True)):
        own_id = as_id(item.get("id"))
        name = f"annotations[{index}]" if own_id is None else f"annotation {show(own_id)}"
        key = find_id(listed, item.get("image_id"))
        if key is None:
            faults.add(None, f"{name} {unlisted('image', item.get('image_id'))}")
        elif key in images:
            try:
                reader.read_into(objects[key], item, outline, images[key].size)
            except InputError as error:
                faults.add(key, f"{name} of {image_name(key, listed[key])} {error}")
    return objects


def unlisted(kind: str, value: Any) -> str:
    if is_absent(value):
        return f"has no {kind}_id"
    return f"is of {kind} {show(value)}, which is not listed"


def has_keypoints(item: Content) -> bool:
    keypoints = item.get("keypoints")
    return isinstance(keypoints, list) and any(as_number(value) for value in keypoints)


def is_erased(item: Content) -> bool:
    """Whether an annotation without an outline says itself that it holds no pixel."""
    if read_box(item) or has_keypoints(item):
        return False
    area = as_number(item.get("area"))
    return area == 0 or (area is None and isinstance(item.get("bbox"), list) and item["bbox"] != [])
