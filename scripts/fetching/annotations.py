"""COCO annotations that fit photographs of another size."""

from collections.abc import Mapping
from typing import Any

Size = tuple[int, int]  # width, height


def fit(content: dict[str, Any], sizes: Mapping[str, Size]) -> dict[str, Any]:
    """Returns annotations of those images whose names have a size, scaled to it.

    Outlines are lists of x, y, ...; run lengths, which TACO has none of, raise ValueError.
    """
    images = [image for image in content["images"] if image["file_name"] in sizes]
    factors = {
        image["id"]: tuple(
            new / image[side]
            for new, side in zip(sizes[image["file_name"]], ("width", "height"), strict=True)
        )
        for image in images
    }
    annotations = [
        _scale(annotation, *factors[annotation["image_id"]])
        for annotation in content["annotations"]
        if annotation["image_id"] in factors
    ]
    images = [
        {**image, **dict(zip(("width", "height"), sizes[image["file_name"]], strict=True))}
        for image in images
    ]
    return {**content, "images": images, "annotations": annotations}


def _scale(annotation: dict[str, Any], x: float, y: float) -> dict[str, Any]:
    if isinstance(annotation["segmentation"], dict):
        raise ValueError(f"annotation {annotation['id']}: run lengths cannot be scaled")
    left, top, width, height = annotation["bbox"]
    return {
        **annotation,
        "segmentation": [_scale_outline(part, x, y) for part in annotation["segmentation"]],
        "bbox": [left * x, top * y, width * x, height * y],
        "area": annotation["area"] * x * y,
    }


def _scale_outline(outline: list[float], x: float, y: float) -> list[float]:
    return [value * (x if place % 2 == 0 else y) for place, value in enumerate(outline)]
