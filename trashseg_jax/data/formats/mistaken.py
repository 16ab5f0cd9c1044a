"""Recognises what else people have, and take for a COCO json: each with what to do.

Worker processes import this module: it needs neither jax nor tensorflow.
"""

import re
from collections.abc import Mapping
from typing import Any

_EXPORT = "export it as COCO instances"

# Of a json's object: keys that it must have.
_OBJECTS = (
    ({"shapes", "imagePath"}, "a Labelme file, of one image; convert its folder with labelme2coco"),
    ({"_via_img_metadata"}, f"a VIA project; {_EXPORT} (Annotation, Export Annotations as COCO)"),
    ({"project", "metadata", "file"}, f"a VIA project; {_EXPORT} or mark regions in VIA 2"),
    ({"version", "item", "annotations"}, f"a V7 Darwin file, of one image; {_EXPORT}"),
    ({"size", "objects", "tags"}, f"a Supervisely file, of one image; {_EXPORT}"),
    ({"imgHeight", "imgWidth", "objects"}, "a Cityscapes file, of one image; use its label images"),
    ({"items", "categories"}, "a Datumaro file; convert it with datum convert -f coco"),
    ({"type", "features"}, f"GeoJSON; {_EXPORT}"),
)
# Of the objects in a json's list.
_LISTS = (
    ({"image_id", "category_id", "score"}, "a file of results; name the annotations in its place"),
    ({"data", "annotations"}, f"a Label Studio json; {_EXPORT}"),
    ({"data", "completions"}, f"a Label Studio json; {_EXPORT}"),
    ({"image", "annotations"}, f"a CreateML file, of boxes; {_EXPORT}"),
    ({"Labeled Data"}, f"a Labelbox json; {_EXPORT}"),
    ({"file_name", "annotations", "image_id"}, f"a list of Detectron2's records; {_EXPORT}"),
)
_YOLO_LINE = re.compile(r"\d+( +-?\d*\.?\d+(e-?\d+)?){4,}\s*", re.IGNORECASE)
_YOLO_REMEDY = (
    "it has one text of outlines an image; convert the folder to COCO, or export it anew so"
)


def name_json(content: Any) -> str | None:
    """Returns what a parsed json is and the remedy, None where that is not known."""
    if isinstance(content, list):
        items, known = [item for item in content[:3] if isinstance(item, dict)], _LISTS
        return next((what for keys, what in known for item in items if keys <= item.keys()), None)
    if not isinstance(content, dict):
        return None
    for keys, what in _OBJECTS:
        if keys <= content.keys():
            return what
    values = list(content.values())[:3]
    if values and all(isinstance(v, dict) and {"filename", "regions"} <= v.keys() for v in values):
        return f"VIA's own json of annotations; {_EXPORT} (Annotation, Export Annotations as COCO)"
    return _name_coco(content)


def _name_coco(content: Mapping[str, Any]) -> str | None:
    """Names the files of COCO's other tasks, which have the same lists."""
    annotations = content.get("annotations")
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    if not isinstance(first, dict):
        return None
    if "segments_info" in first:
        return (
            "a panoptic json, whose outlines are in PNG files; name the json of instances, or "
            "convert it with panopticapi's panoptic2detection_coco_format.py"
        )
    if "caption" in first and "category_id" not in first:
        return "a json of captions; name that of instances"
    return None


def name_text(data: bytes) -> str | None:
    """Returns what a file that is no json is and the remedy, None where that is not known."""
    if data.startswith(b"PK\x03\x04"):
        return "a zip archive; unpack it"
    if data.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file; fetch it with git lfs pull"
    lines = data[:20_000].decode("utf-8", errors="replace").strip().splitlines()
    text = "\n".join(lines)
    if lines and all(_YOLO_LINE.fullmatch(line) for line in lines[:-1] or lines):
        return f"a YOLO file, of one image; {_YOLO_REMEDY}"
    if re.search(r"^names\s*:", text, re.M) and re.search("^(nc|train|val|path)", text, re.M):
        return f"a YOLO data set's yaml; {_YOLO_REMEDY}"
    if re.search(r"<annotation\b", text):
        return f"a PASCAL VOC file, of one image's boxes; {_EXPORT}"
    if re.search(r"<annotations\b", text):
        return f"a CVAT xml; {_EXPORT} (COCO 1.0)"
    if lines and lines[0].lower().startswith(("filename,file_size,", "#filename,file_size,")):
        return f"VIA's table of annotations; {_EXPORT} (Annotation, Export Annotations as COCO)"
    if len(lines) > 1 and all(re.match(r'\{(?!.*"images")', line) for line in lines[:2]):
        return f"json objects, one a line; {_EXPORT}"
    return None
