"""submission.csv: the competition's form."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from trashseg_jax.errors import InputError
from trashseg_jax.prediction.inputs import Photo

HEADER = ["image_id", "PredictionString"]
SIDE = 256


def read_sample(path: Path) -> list[str]:
    """Returns the image ids of a sample submission, in its order."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"--submission={path}: can't be read ({error})") from error
    if not rows or not rows[0].get(HEADER[0]):
        raise InputError(f"--submission={path}: has no column {HEADER[0]}; name the sample's csv")
    return [row[HEADER[0]] for row in rows]


def match_sample(ids: Sequence[str], photos: Sequence[Photo], *, sample: Path) -> dict[str, Photo]:
    """Returns the photograph of each id: its name below the input, or one that ends so."""
    by_name = {photo.listed: photo for photo in photos}
    result = {}
    for image_id in ids:
        near = [photo for name, photo in by_name.items() if name.endswith(f"/{image_id}")]
        photo = by_name.get(image_id) or (near[0] if len(near) == 1 else None)
        if photo is None:
            raise InputError(
                f"--submission={sample}: {image_id} is not among the photographs of --input"
            )
        result[image_id] = photo
    return result


def shrink(classes: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "256 256"]:
    """Resizes to the nearest pixel as OpenCV does: floor(i * height / 256)."""
    height, width = classes.shape
    side = np.arange(SIDE)
    return classes[np.ix_(side * height // SIDE, side * width // SIDE)]


def format_row(image_id: str, classes: UInt8[np.ndarray, "h w"]) -> str:
    return f"{image_id},{' '.join(map(str, shrink(classes).ravel().tolist()))}\n"


def format_submission(masks: Iterable[tuple[str, UInt8[np.ndarray, "h w"]]]) -> str:
    """Returns the file's text, of image ids and their masks."""
    return ",".join(HEADER) + "\n" + "".join(format_row(*one) for one in masks)
