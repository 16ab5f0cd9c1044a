"""An annotation's outline in the forms that tools write it, as polygons or an RLE.

Worker processes import this module: it needs neither jax nor tensorflow.
"""

from typing import Any, NamedTuple

from trashseg_jax.data.formats.coco_fields import as_number, as_whole


class Outline(NamedTuple):
    """Polygons or an RLE, None where there is nothing, and how many parts were left out of it."""

    segmentation: Any
    left_out: int


def clean_outline(segmentation: Any) -> Outline:
    """Returns a segmentation as COCO has it.

    Left out is what can hold no pixel: parts of less than three points. What can't be understood
    stays as it is, for `painting.segmentation_fault` to say so.
    """
    if isinstance(segmentation, dict) and segmentation:
        return Outline(_clean_rle(segmentation), 0)
    if not isinstance(segmentation, list):
        return Outline(segmentation or None, 0)
    parts = [_clean_polygon(part) for part in _parts(segmentation)]
    kept = [part for part in parts if not _is_degenerate(part)]
    return Outline(kept or None, len(parts) - len(kept))


def _parts(segmentation: list) -> list:
    """Returns the polygons of a list: a flat one is one, and so is one of points, [[x, y], ...]."""
    if segmentation and all(as_number(value) is not None for value in segmentation):
        return [segmentation]
    if len(segmentation) > 2 and all(_is_point(part) for part in segmentation):
        return [[value for point in segmentation for value in point]]
    return segmentation


def _clean_polygon(part: Any) -> Any:
    """Returns a list of numbers: points are joined, and numbers may be written as text."""
    if not isinstance(part, list):
        return part
    if part and all(_is_point(point) for point in part):
        part = [value for point in part for value in point]
    if any(isinstance(value, str) for value in part):
        numbers = [as_number(value) if isinstance(value, str) else value for value in part]
        return [a if b is None else b for a, b in zip(part, numbers, strict=True)]
    return part


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and None not in map(as_number, value)


def _is_degenerate(part: Any) -> bool:
    """Whether it has less than three points, even if a number were missing."""
    return isinstance(part, list) and len(part) < 5 and None not in map(as_number, part)


def _clean_rle(rle: dict[str, Any]) -> dict[str, Any]:
    """Returns size and counts of an RLE; what else it holds may be anything."""
    size, counts = rle.get("size"), rle.get("counts")
    if isinstance(size, list):
        size = [value if (whole := as_whole(value)) is None else whole for value in size]
    if isinstance(counts, str) and counts.startswith("b'") and counts.endswith("'"):
        counts = counts[2:-1].replace("\\\\", "\\")  # as Python shows bytes; COCO's have no quote
    elif isinstance(counts, list) and not all(type(run) is int for run in counts):
        whole = [as_whole(run) for run in counts]
        counts = counts if None in whole else whole
    return {"size": size, "counts": counts}
