"""Doubtful objects as a COCO json, which annotation tools open."""

from collections.abc import Sequence
from typing import Any

from pycocotools import mask as mask_utils

from inspecting.label_errors import Doubt, LabelErrors
from inspecting.outlines import trace_polygons
from inspecting.pictures import box_of
from trashseg_jax.data.formats.coco import Annotations


def to_coco(errors: LabelErrors, *, classes: Sequence[str]) -> dict[str, Any]:
    """Returns the list: what is annotated under its class, what is missing under the model's.

    Besides COCO's own, an annotation has `score`, the model's mean probability of the label (the
    list begins with the lowest); `doubtful`, the share of its pixels that are; `suggested`, the
    model's class; `kind`, label or missing; `annotation_id`, that of the data set's json.
    """
    doubts = sorted((*errors.objects, *errors.missing), key=lambda one: one.verdict.score)
    ids = {id(image.record): n for n, (image, *_) in enumerate(_images(errors, doubts), start=1)}
    return {
        "images": [
            {
                "id": ids[id(image.record)],
                "file_name": image.record.file_name,
                "height": image.facts.size[0],
                "width": image.facts.size[1],
                "split": image.split,
                "doubtful": round(share, 6),
            }
            for image, share in _images(errors, doubts)
        ],
        "annotations": [
            {"id": n, "image_id": ids[id(one.image.record)], **_annotation(one, classes)}
            for n, one in enumerate(doubts, start=1)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(classes) if k],
    }


def _images(errors: LabelErrors, doubts: Sequence[Doubt]) -> list[tuple[Any, float]]:
    """Returns the images of the doubts with their doubtful shares, the largest first."""
    listed = {id(one.image.record) for one in doubts}
    return [(one.image, one.share) for one in errors.images if id(one.image.record) in listed]


def _annotation(one: Doubt, classes: Sequence[str]) -> dict[str, Any]:
    missing = one.place < 0
    own_id = "" if missing else one.image.facts.objects[one.place].id
    return {
        "category_id": one.verdict.suggested if missing else one.label,
        "segmentation": _polygons(one),
        "area": int(mask_utils.area(one.rle)),
        "bbox": list(box_of(one.rle)),
        "iscrowd": 0,
        "score": round(one.verdict.score, 6),
        "doubtful": round(one.verdict.share, 6),
        "suggested": classes[one.verdict.suggested],
        "kind": "missing" if missing else "label",
        **({} if own_id == "" else {"annotation_id": own_id}),
    }


def _polygons(one: Doubt) -> list:
    """Returns the annotation's own polygons, or else the outline of its pixels."""
    source = one.image.record.source
    if isinstance(source, Annotations) and one.place >= 0:
        own = source.items[one.place].segmentation
        if isinstance(own, list):
            return own
    return trace_polygons(mask_utils.decode(one.rle).view(bool))
