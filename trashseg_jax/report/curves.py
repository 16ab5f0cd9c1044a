"""Pictures of a calibration: what it does to the scores, and how far probabilities are believed."""

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trashseg_jax.data import taxonomy
from trashseg_jax.refine.calibration import RAW
from trashseg_jax.report.files import write_bytes
from trashseg_jax.report.table import RARE, most_weighed

WIDTH, HEIGHT, MARGIN = 420, 420, 52
Number = float | int
GREY, LIGHT, BLUE = (110, 110, 110), (225, 225, 225), (0, 102, 204)


class Axes(NamedTuple):
    """A square of a picture, `left` from its edge, whose x goes to `end` and whose y to `top`."""

    draw: ImageDraw.ImageDraw
    left: int
    end: float
    top: float

    def at(self, x: Number, y: Number) -> tuple[Number, Number]:
        side = WIDTH - 2 * MARGIN
        return self.left + MARGIN + x / self.end * side, MARGIN + (1 - y / self.top) * side


def save_strengths(path: Path, report: dict[str, Any]) -> None:
    """Draws mIoU and the rare classes' IoU over the strength, and which one is taken."""
    curve, fitted = report["curve"], report["calibration"]
    names = most_weighed(fitted)
    drawn = [curve["miou"], *(curve["iou"][name] for name in names)]
    top = max(value for values in drawn for value in values if value is not None)
    # The next fifth, so that rare classes' low scores can be told apart.
    top = max(np.ceil(top * 5) / 5, 0.2)
    picture, axes = _picture(count=1, legend=RARE + 1, end=curve["strength"][-1], top=top)
    _grid(axes[0], "IoU over the strength of the prior correction", "strength")
    x = fitted["strength"]
    axes[0].draw.line([axes[0].at(x, 0), axes[0].at(x, top)], GREY, 1)
    colors = taxonomy.shown_colors(taxonomy.palette(len(fitted["classes"])))
    lines: list[Any] = [("mIoU", curve["miou"], (0, 0, 0), 3)]
    for name in names:
        color = tuple(map(int, colors[fitted["classes"].index(name)]))
        lines.append((name, curve["iou"][name], color, 2))
    for place, (name, values, color, width) in enumerate(lines):
        points = [
            axes[0].at(s, v)
            for s, v in zip(curve["strength"], values, strict=True)
            if v is not None
        ]
        axes[0].draw.line(points, color, width)
        _legend(axes[0], place, name, color)
    _save(path, picture)


def save_reliability(path: Path, report: dict[str, Any]) -> None:
    """Draws what the predicted classes' probabilities came true as, before and after."""
    method = report["calibration"]["method"]
    picture, axes = _picture(count=2, legend=0, end=1.0, top=1.0)
    for one, name in zip(axes, (RAW, method), strict=True):
        figures = report["two_fold"][name]
        _grid(one, f"{name}: ECE {figures['ece']:.3f}", "probability; share that came true")
        _bars(one, figures["bins"])
    _save(path, picture)


def _bars(axes: Axes, bins: dict[str, list[Any]]) -> None:
    """A bar a bin, as high as what came true, its width as many pixels as are in it at most."""
    number, most = len(bins["counts"]), max(bins["counts"])
    for i, (count, true) in enumerate(zip(bins["counts"], bins["true"], strict=True)):
        if count:
            half = 0.45 * max(np.sqrt(count / most), 0.15) / number
            centre = (i + 0.5) / number
            left, top = axes.at(centre - half, true)
            right, bottom = axes.at(centre + half, 0)
            axes.draw.rectangle((left, top, right, bottom), BLUE)
    axes.draw.line([axes.at(0, 0), axes.at(1, 1)], GREY, 1)


def _picture(
    *, count: int, legend: int, end: Number, top: Number
) -> tuple[Image.Image, list[Axes]]:
    height = HEIGHT + 20 * legend
    picture = Image.new("RGB", (count * WIDTH, height), "white")
    draw = ImageDraw.Draw(picture)
    return picture, [Axes(draw, i * WIDTH, end, top) for i in range(count)]


def _grid(axes: Axes, title: str, label: str) -> None:
    font = ImageFont.load_default(13)
    for i in range(6):
        y, x = i / 5 * axes.top, i / 5 * axes.end
        axes.draw.line([axes.at(0, y), axes.at(axes.end, y)], LIGHT, 1)
        _text(axes, axes.at(0, y), f"{y:.2g}", font, shift=(-26, -8))
        _text(axes, axes.at(x, 0), f"{x:.1f}", font, shift=(-9, 4))
    _text(axes, (axes.left + MARGIN, 18), title, ImageFont.load_default(15), shift=(0, 0))
    _text(axes, axes.at(0, 0), label, font, shift=(0, 22))


def _text(axes: Axes, at: tuple[Number, Number], text: str, font: Any, *, shift) -> None:
    axes.draw.text((at[0] + shift[0], at[1] + shift[1]), text, "black", font)


def _legend(axes: Axes, place: int, name: str, color: tuple[int, ...]) -> None:
    x, y = axes.left + MARGIN, HEIGHT + 20 * place
    axes.draw.rectangle((x, y, x + 14, y + 12), color)
    axes.draw.text((x + 22, y - 2), name, "black", ImageFont.load_default(13))


def _save(path: Path, picture: Image.Image) -> None:
    content = io.BytesIO()
    picture.save(content, "PNG")
    write_bytes(path, content.getvalue())
