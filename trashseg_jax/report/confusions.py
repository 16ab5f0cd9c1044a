"""Each image's confusion matrix on disk, so that runs can be compared image by image."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Integer

from trashseg_jax.report.files import write_bytes

FILE = "confusions.npz"


class Confusions(NamedTuple):
    """The images of a split, in its order."""

    names: list[str]  # of their files
    classes: list[str]
    per_image: Int64[np.ndarray, "n k k"]  # rows: truth


def save_confusions(
    path: Path,
    names: Sequence[str],
    classes: Sequence[str],
    per_image: Integer[np.ndarray, "n k k"],
) -> None:
    """Writes the cells that are not 0: of 150 classes an image has a handful."""
    image, truth, predicted = np.nonzero(per_image)
    content = io.BytesIO()
    np.savez_compressed(
        content,
        names=np.array(names, np.str_),
        classes=np.array(classes, np.str_),
        image=image.astype(np.uint32),
        truth=truth.astype(np.uint8),
        predicted=predicted.astype(np.uint8),
        pixels=per_image[image, truth, predicted].astype(np.uint32),
    )
    write_bytes(path, content.getvalue())


def load_confusions(path: Path) -> Confusions:
    with np.load(path, allow_pickle=False) as file:
        columns = dict(file)
    names, classes = columns["names"].tolist(), columns["classes"].tolist()
    per_image = np.zeros((len(names), len(classes), len(classes)), np.int64)
    per_image[columns["image"], columns["truth"], columns["predicted"]] = columns["pixels"]
    return Confusions(names, classes, per_image)
