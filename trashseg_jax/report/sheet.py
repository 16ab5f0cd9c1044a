"""The sheet of samples: photograph, truth and prediction side by side."""

import dataclasses
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from trashseg_jax.data import taxonomy
from trashseg_jax.report.files import write_bytes

CELL = 160  # pixels of a sample's side on the sheet

MARGIN = 8


@dataclasses.dataclass(frozen=True)
class Sample:
    """One evaluated image."""

    image: UInt8[np.ndarray, "h w 3"]
    label: UInt8[np.ndarray, "h w"]
    prediction: UInt8[np.ndarray, "h w"]
    refined: UInt8[np.ndarray, "h w"] | None = None  # by the CRF


def save_samples(
    path: Path,
    samples: Sequence[Sample],
    *,
    classes: Sequence[str],
    colors: UInt8[np.ndarray, "k 3"] | None = None,
) -> None:
    """Saves a sheet: two samples a row, each as photograph, truth, prediction; a legend below.

    A refined prediction makes a fourth panel. Ignored pixels are grey in the truth. Nothing is
    written without samples. Classes have `colors`, or else the palette's, as they are shown.
    """
    if not samples:
        return
    font = ImageFont.load_default(14)
    palette = taxonomy.palette(len(classes)) if colors is None else colors
    used = taxonomy.shown_colors(palette)
    columns, header = 2, 24
    rows = math.ceil(len(samples) / columns)
    legend_rows = math.ceil(len(classes) / 6)
    pitch = CELL + MARGIN
    panels = 3 if samples[0].refined is None else 4
    sample_width = panels * pitch + 2 * MARGIN
    width = columns * sample_width
    sheet = Image.new("RGB", (width, header + rows * pitch + 22 * legend_rows + 8), "white")
    draw = ImageDraw.Draw(sheet)
    for i, sample in enumerate(samples):
        left = MARGIN + i % columns * sample_width
        for j, (title, panel) in enumerate(_panels(sample, used)):
            x, y = left + j * pitch, header + i // columns * pitch
            sheet.paste(panel, (x, y))
            if i < columns:
                draw.text((x, 4), title, "black", font)
    for i, (name, color) in enumerate(zip(classes, used, strict=True)):
        x, y = MARGIN + i % 6 * (width // 6), header + rows * pitch + i // 6 * 22
        draw.rectangle((x, y, x + 15, y + 15), tuple(map(int, color)), "black")
        draw.text((x + 22, y - 1), name, "black", font)
    content = io.BytesIO()
    sheet.save(content, "PNG")
    write_bytes(path, content.getvalue())


def draw_strip(sample: Sample, *, classes: Sequence[str]) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a sample's panels side by side, as on the sheet."""
    panels = _panels(sample, taxonomy.shown_colors(taxonomy.palette(len(classes))))
    return np.concatenate([np.asarray(panel) for _, panel in panels], axis=1)


def _panels(sample: Sample, colors: UInt8[np.ndarray, "k 3"]):
    """Yields the title and picture of each of a sample's panels, CELL pixels square."""
    ignored = sample.label == taxonomy.IGNORE_LABEL
    truth = colors[np.where(ignored, 0, sample.label)]
    truth[ignored] = 128
    pictures = {"image": sample.image, "truth": truth, "prediction": colors[sample.prediction]}
    if sample.refined is not None:
        pictures["CRF"] = colors[sample.refined]
    for title, pixels in pictures.items():
        yield title, Image.fromarray(pixels).resize((CELL, CELL), Image.Resampling.NEAREST)
