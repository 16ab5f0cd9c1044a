"""The files of one photograph's prediction; the record is the last: it says that all are whole."""

import dataclasses
import hashlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from trashseg_jax.data.taxonomy import shown_colors
from trashseg_jax.inference import Segmented
from trashseg_jax.prediction.inputs import Photo
from trashseg_jax.prediction.measures import measure
from trashseg_jax.prediction.overlay import draw_overlay, encode_jpeg
from trashseg_jax.report.files import write_bytes, write_text

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """What a photograph's files depend on, besides the photograph."""

    model: str  # its digest; those of several, whose probabilities are averaged, with a + between
    classes: tuple[str, ...]
    palette: tuple[tuple[int, ...], ...]
    scale: str
    tile_scale: float
    tta: tuple[str, ...]
    probs: bool
    min_confidence: float
    crf: tuple[tuple[str, Any], ...] = ()  # its engine and parameters by name; (): none
    format: int = 2  # of the files; the next number where they change

    def as_json(self) -> dict[str, Any]:
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def key(self) -> str:
        text = json.dumps(self.as_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Outputs:
    """A folder of predictions; several processes may write into it, each its own photographs."""

    def __init__(self, folder: Path, options: Options):
        self.folder, self.options = folder, options
        self._key = options.key()
        self._palette = np.array(options.palette, np.uint8)
        self._colors = shown_colors(self._palette)

    def mask(self, photo: Photo) -> Path:
        return self.folder / "masks" / f"{photo.name}.png"

    def overlay(self, photo: Photo) -> Path:
        return self.folder / "overlays" / f"{photo.name}.jpg"

    def probs(self, photo: Photo) -> Path:
        return self.folder / "probs" / f"{photo.name}.npy"

    def record(self, photo: Photo) -> Path:
        return self.folder / "records" / f"{photo.name}.json"

    def read_record(self, photo: Photo) -> Record | None:
        """Returns the record of a photograph, None where there is none that can be read."""
        try:
            record = json.loads(self.record(photo).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    def is_current(self, record: Record) -> bool:
        """Whether it was made with this model and these options."""
        return record.get("key") == self._key

    def is_done(self, photo: Photo, record: Record | None) -> bool:
        """Whether all files of the photograph as it is now are there, by this model and options."""
        if record is None or not self.is_current(record) or "fault" in record:
            return False
        if (record["listed"], record["file"]) != (photo.listed, fingerprint(photo.path)):
            return False
        wanted = [self.mask(photo), self.overlay(photo)]
        return all(path.exists() for path in [*wanted, *self._kept_probs(photo)])

    def write(
        self, photo: Photo, picture: UInt8[np.ndarray, "_ _ 3"], found: Segmented, file: list[int]
    ) -> None:
        """Writes mask, overlay, probabilities where they are kept, and record.

        `picture` is the photograph by `shrink_photo`, `file` its `fingerprint` from before it was
        read.
        """
        names = self.options.classes
        overlay = draw_overlay(picture, found.classes, names=names, palette=self._colors)
        self._put(self.mask(photo), encode_mask(found.classes, palette=self._palette))
        self._put(self.overlay(photo), encode_jpeg(overlay))
        for path in self._kept_probs(photo):
            content = io.BytesIO()
            np.save(content, found.probs)  # pyright: ignore[reportArgumentType]
            self._put(path, content.getvalue())
        min_confidence = self.options.min_confidence
        measured = measure(found, names=names, min_confidence=min_confidence)
        self._put_record(photo, {"file": file, **measured})

    def write_fault(self, photo: Photo, fault: str) -> None:
        """Records why there is nothing of a photograph, and removes what there was."""
        for path in (self.mask(photo), self.overlay(photo), self.probs(photo)):
            path.unlink(missing_ok=True)
        self._put_record(photo, {"fault": fault})

    def _kept_probs(self, photo: Photo) -> list[Path]:
        return [self.probs(photo)] if self.options.probs else []

    def _put_record(self, photo: Photo, content: Record) -> None:
        record = {"key": self._key, "listed": photo.listed, **content}
        path = self.record(photo)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(record, allow_nan=False) + "\n")

    def _put(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)


def fingerprint(path: Path) -> list[int]:
    """Returns size and time of a file: another one means another photograph. [] if it is gone."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def encode_mask(classes: UInt8[np.ndarray, "h w"], *, palette: UInt8[np.ndarray, "k 3"]) -> bytes:
    """Returns a PNG whose pixels are class indices, shown in the palette's colours."""
    image = Image.fromarray(classes)
    image.putpalette(palette.tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=4)
    return file.getvalue()


def read_mask(path: Path) -> UInt8[np.ndarray, "h w"]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of many pixels
        image = Image.open(path)
    with image:
        return np.array(image)
