"""summary.csv: a row a photograph, for spreadsheets."""

import csv
import io
from collections.abc import Iterable, Sequence

from trashseg_jax.prediction.inputs import Photo
from trashseg_jax.prediction.outputs import Record


def trash_share(record: Record, *, background: str) -> float:
    """Returns the share of the pixels that are of any class but the background."""
    kept = record["classes"].get(background, {"pixels": 0})["pixels"]
    return 1 - kept / (record["height"] * record["width"])


def format_summary(records: Iterable[tuple[Photo, Record]], *, names: Sequence[str]) -> str:
    """Returns the file's text: share, pixels, connected pieces, mean confidence of each class.

    A class that a photograph lacks has no confidence. Pixels that touch at a corner are of one
    piece. A bad photograph has no row.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = ("share", "pixels", "pieces", "confidence")
    per_class = [f"{name} {column}" for name in names for column in columns]
    writer.writerow(["photograph", "width", "height", "trash share", "confidence", *per_class])
    for photo, record in records:
        size = record["width"], record["height"]
        share = f"{trash_share(record, background=names[0]):.6f}"
        row = [photo.listed, *size, share, record["confidence"]]
        for name in names:
            row += _class_columns(record["classes"].get(name), pixels=size[0] * size[1])
        writer.writerow(row)
    return file.getvalue()


def _class_columns(found: Record | None, *, pixels: int) -> list:
    if found is None:
        return ["0.000000", 0, 0, ""]
    return [
        f"{found['pixels'] / pixels:.6f}",
        found["pixels"],
        found["pieces"],
        found["confidence"],
    ]
