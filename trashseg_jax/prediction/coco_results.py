"""predictions.json: COCO's format of results, one for each class of a photograph."""

from collections.abc import Iterable, Sequence
from typing import Any

from trashseg_jax.prediction.inputs import Photo
from trashseg_jax.prediction.outputs import Record


def to_results(
    records: Iterable[tuple[Photo, Record]], *, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Returns the results; a category's id is the class's index, and the background has none.

    Together an image's masks give back its classes. `score` is the mean confidence of a mask.
    """
    return [
        {
            "image_id": photo.image_id,
            "file_name": photo.listed,
            "category_id": names.index(name),
            "category_name": name,
            "segmentation": found["rle"],
            "score": found["confidence"],
            "area": found["pixels"],
            "bbox": found["box"],
        }
        for photo, record in records
        for name, found in record["classes"].items()
        if name != names[0]
    ]
