"""Prediction from Python: `trashseg_jax.Predictor("models/x")(image)`."""

import dataclasses
import io
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float16, UInt8
from PIL import Image

from trashseg_jax.data.photos import read_pixels, to_pixels
from trashseg_jax.data.taxonomy import shown_colors
from trashseg_jax.errors import InputError
from trashseg_jax.prediction import models
from trashseg_jax.prediction.measures import count_classes
from trashseg_jax.prediction.overlay import draw_overlay


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """What is where in a photograph; a notebook shows it as a picture."""

    image: UInt8[np.ndarray, "h w 3"]  # upright
    classes: UInt8[np.ndarray, "h w"]  # indices of `names`
    confidence: Float16[np.ndarray, "h w"]  # probability of each pixel's class
    probs: Float16[np.ndarray, "h w k"]
    names: tuple[str, ...]
    palette: UInt8[np.ndarray, "k 3"]

    def shares(self) -> dict[str, float]:
        """Returns the share of the pixels of each class."""
        counts = count_classes(self.classes)[: len(self.names)] / self.classes.size
        return dict(zip(self.names, counts.tolist(), strict=True))

    def overlay(self) -> Image.Image:
        """Returns the photograph under its classes' colours, with a legend."""
        colors = shown_colors(self.palette)
        return draw_overlay(self.image, self.classes, names=self.names, palette=colors)

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.overlay().save(file, "PNG")
        return file.getvalue()


class Predictor:
    """Segments photographs with the model of a run's or a model's folder.

    Of several folders, in a list, it averages the probabilities. The calibrations that come with
    the models are applied, or not. Several threads may call one: they take the device in turn.
    """

    def __init__(
        self,
        model: str | Path | Sequence[str | Path],
        *,
        scale: str = "fit",
        tile_scale: float = 1.0,
        tta: tuple[str, ...] = (),
        checkpoint: str = "latest",
        calibration: bool = True,
    ):
        named = [model] if isinstance(model, (str, Path)) else model
        folders = [Path(folder).expanduser() for folder in named]
        self._model, *others = models.load_all(
            folders, checkpoint=checkpoint, calibration=calibration
        )
        self._segmenter = models.make_segmenter(
            self._model,
            *others,
            scale=scale,
            tile_scale=tile_scale,
            tta=tta,
            batch_size=1,
            keep_probs=True,
        )
        self._lock = threading.Lock()

    @property
    def classes(self) -> tuple[str, ...]:
        return self._model.classes

    def __call__(self, image: str | Path | Image.Image | np.ndarray) -> Prediction:
        """Segments a file, a Pillow image, or uint8 pixels, RGB [h, w, 3] or grey [h, w].

        EXIF rotation is applied. Raises InputError for what is no image.
        """
        pixels = _to_pixels(image)
        with self._lock:
            (found,) = self._segmenter.segment(iter([pixels]))
        classes, confidence, probs = found
        names, palette = self.classes, self._model.palette
        return Prediction(pixels, classes, confidence, probs, names, palette)  # pyright: ignore


def _to_pixels(image: str | Path | Image.Image | np.ndarray) -> np.ndarray:
    if isinstance(image, (str, Path)):
        return read_pixels(Path(image).expanduser())
    if isinstance(image, Image.Image):
        return to_pixels(image)
    grey = image.ndim == 2
    if image.dtype != np.uint8 or not (grey or (image.ndim == 3 and image.shape[2] == 3)):
        raise InputError(
            f"image is {image.dtype}{list(image.shape)}; it must be uint8, [height, width, 3] in "
            "RGB or [height, width]"
        )
    if not image.size:
        raise InputError(f"image is {list(image.shape)}; it has no pixels")
    return np.ascontiguousarray(np.repeat(image[..., None], 3, -1) if grey else image)
