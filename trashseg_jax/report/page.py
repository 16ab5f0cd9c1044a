"""What a run leaves for people: the table, the sheet of samples, the HTML page."""

import base64
import dataclasses
import html
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from trashseg_jax.data import taxonomy

CELL = 160  # pixels of a sample's side on the sheet
MARGIN = 8


@dataclasses.dataclass(frozen=True)
class Sample:
    """One evaluated image."""

    image: UInt8[np.ndarray, "h w 3"]
    label: UInt8[np.ndarray, "h w"]
    prediction: UInt8[np.ndarray, "h w"]
    refined: UInt8[np.ndarray, "h w"] | None = None  # by the CRF


def write_json(path: Path, value: Any) -> None:
    """Writes `value` so that the file is there whole or not at all."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file under another name and renames it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def format_table(figures: dict[str, Any]) -> str:
    """Returns metrics.json's figures as a table for the terminal."""
    width = max(map(len, [*figures["iou"], *SUMMARY.values()]))
    head = "".join(f"  {title:>6}" for title in score_titles(figures))
    lines = [f"{'class':<{width}}{head}  share of pixels"]
    for name, value in figures["iou"].items():
        cells = "".join(f"  {cell:>6}" for cell in class_scores(figures, name))
        share = figures["pixel_share"][name]
        note = "" if value != 0 else "  never hit" if share else "  not in the truth"
        lines.append(f"{name:<{width}}{cells}  {share:8.2%}{note}")
    for key, name in SUMMARY.items():
        cells = "".join(f"  {cell:>6}" for cell in total_scores(figures, key))
        lines.append(f"{name:<{width}}{cells}")
    if interval := figures["miou_interval"]:
        lines.append("95 % of resamples of the images: mIoU {:.4f} to {:.4f}".format(*interval))
    lines.append(
        f"{figures['dataset']}/{figures['split']}: {figures['num_images']} images, "
        f"step {figures['step']}"
    )
    return "\n".join([*lines, *data_notes(figures)])


def format_balance(derived: dict[str, Any]) -> str:
    """Returns config.json's `derived` as a table for the terminal."""
    alpha, shares = derived["alpha"], derived["image_shares"]
    width = max(len(name) for name in alpha)
    lines = [f"{'class':<{width}}  {'alpha':>9}  images with it  as drawn"]
    for name, value in alpha.items():
        before, after = shares["before"][name], shares["after"][name]
        lines.append(f"{name:<{width}}  {value:9.4g}  {before:14.1%}  {after:8.1%}")
    return "\n".join(lines)


def data_notes(figures: dict[str, Any]) -> list[str]:
    """Returns lines on the images left out or not refined, and on what was clipped, if any."""
    skipped, clipped = figures["skipped"], figures["clipped_annotations"]
    lines = [f"skipped as bad: {len(skipped)}", *skipped] if skipped else []
    if clipped:
        lines.append(f"annotations that reached outside their image, clipped: {clipped}")
    if failed := figures["crf"]["failed"] if "crf" in figures else []:
        lines.append(f"the CRF failed, so that these count as predicted: {len(failed)}")
        lines += [f"image {image['id']}: {image['reason']}" for image in failed]
    return lines


SUMMARY = {
    "miou": "mIoU",
    "miou_common": "mIoU, common",
    "miou_per_image": "mIoU per image",
    "mean_dice": "mean Dice",
    "pixel_accuracy": "pixel acc.",
}


def score_titles(figures: dict[str, Any]) -> list[str]:
    return ["IoU", "CRF", "change"] if "crf" in figures else ["IoU"]


def class_scores(figures: dict[str, Any], name: str) -> list[str]:
    """Returns a class's IoU and, where a CRF ran, the refined one and the difference."""
    both = [part["iou"][name] for part in _raw_and_refined(figures)]
    return ["absent" if v is None else f"{v:.4f}" for v in both] + _change(both)


def total_scores(figures: dict[str, Any], key: str) -> list[str]:
    """Returns the same of one of SUMMARY."""
    both = [part[key] for part in _raw_and_refined(figures)]
    return [format_number(v) for v in both] + _change(both)


def _raw_and_refined(figures: dict[str, Any]) -> list[dict[str, Any]]:
    return [figures, figures["crf"]] if "crf" in figures else [figures]


def _change(scores: list[float | None]) -> list[str]:
    """Returns the second less the first, if there are two; a class may be absent in one."""
    if len(scores) < 2:
        return []
    raw, refined = scores
    return ["" if raw is None or refined is None else f"{refined - raw:+.4f}"]


def format_number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def save_samples(path: Path, samples: Sequence[Sample], *, classes: Sequence[str]) -> None:
    """Saves a sheet: two samples a row, each as photograph, truth, prediction; a legend below.

    A refined prediction makes a fourth panel. Ignored pixels are grey in the truth. Nothing is
    written without samples.
    """
    if not samples:
        return
    font = ImageFont.load_default(14)
    colors = taxonomy.palette(len(classes))
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
        for j, (title, panel) in enumerate(_panels(sample, colors)):
            x, y = left + j * pitch, header + i // columns * pitch
            sheet.paste(panel, (x, y))
            if i < columns:
                draw.text((x, 4), title, "black", font)
    for i, (name, color) in enumerate(zip(classes, colors, strict=True)):
        x, y = MARGIN + i % 6 * (width // 6), header + rows * pitch + i // 6 * 22
        draw.rectangle((x, y, x + 15, y + 15), tuple(map(int, color)), "black")
        draw.text((x + 22, y - 1), name, "black", font)
    sheet.save(path)


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


def write_html(path: Path, figures: dict[str, Any], *, log: Path) -> None:
    """Writes one self-contained page: figures, loss curve, samples (from the page's folder)."""
    samples = path.with_name("samples.png")
    picture = ""
    if samples.exists():
        data = base64.b64encode(samples.read_bytes()).decode()
        picture = f'<h2>Samples</h2><img alt="samples" src="data:image/png;base64,{data}">'
    title = html.escape(f"{figures['dataset']}/{figures['split']}, step {figures['step']}")
    notes = "".join(f"<p>{html.escape(line)}</p>" for line in data_notes(figures))
    body = f"<h1>{title}</h1>{_summary_html(figures)}{notes}{_curve_svg(log)}{picture}"
    body += f"<h2>Confusion (rows: truth, share of the row)</h2>{_confusion_html(figures)}"
    style = (
        "body{font:15px sans-serif;max-width:70em;margin:2em auto;padding:0 1em}"
        "td,th{padding:.15em .6em;text-align:right}td:first-child,th:first-child{text-align:left}"
        "img,svg{max-width:100%}"
    )
    write_text(
        path,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{style}</style>{body}</html>\n",
    )


def _summary_html(figures: dict[str, Any]) -> str:
    rows = [
        f"<tr><td>{html.escape(name)}<td>{'<td>'.join(class_scores(figures, name))}"
        f"<td>{figures['pixel_share'][name]:.2%}"
        for name in figures["iou"]
    ]
    totals = [
        f"<tr><td>{name}<td>{'<td>'.join(total_scores(figures, key))}<td>"
        for key, name in SUMMARY.items()
    ]
    head = f"<tr><th>class<th>{'<th>'.join(score_titles(figures))}<th>share of pixels"
    return f"<table>{head}{''.join(rows)}{''.join(totals)}</table>"


def _curve_svg(log: Path) -> str:
    """Draws the training loss over the steps, if the log has any."""
    if not log.exists():
        return ""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    points = [(e["step"], e["loss"]) for e in entries if e.get("loss") is not None]
    if len(points) < 2:
        return ""
    x, y = np.array(points, float).T
    px = 40 + 640 * (x - x[0]) / (x[-1] - x[0])
    py = 180 - 160 * y / y.max()
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(px, py, strict=True))
    return (
        '<h2>Training loss</h2><svg viewBox="0 0 700 210" font-size="12">'
        f'<polyline points="{path}" fill="none" stroke="#06c" stroke-width="1.5"/>'
        f'<text x="0" y="24">{y.max():.3f}</text><text x="0" y="184">0</text>'
        f'<text x="40" y="204">step {int(x[0])}</text>'
        f'<text x="680" y="204" text-anchor="end">{int(x[-1])}</text></svg>'
    )


def _confusion_html(figures: dict[str, Any]) -> str:
    """Shades each cell by its share of the true pixels of its row."""
    names = [html.escape(name) for name in figures["iou"]]
    rows = ["<tr><th>" + "".join(f"<th>{name}" for name in names)]
    for name, counts in zip(names, figures["confusion"], strict=True):
        shares = np.array(counts) / max(sum(counts), 1)
        cells = "".join(f'<td style="background:rgba(0,102,204,{s:.2f})">{s:.2f}' for s in shares)
        rows.append(f"<tr><td>{name}{cells}")
    return f"<table>{''.join(rows)}</table>"
