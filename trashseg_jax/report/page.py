"""The HTML page of an evaluation."""

import base64
import html
import json
from pathlib import Path
from typing import Any

import numpy as np

from trashseg_jax.report.files import write_text
from trashseg_jax.report.table import (
    SUMMARY,
    class_scores,
    data_notes,
    describe_scoring,
    describe_weights,
    format_number,
    score_titles,
    total_scores,
)


def write_html(path: Path, figures: dict[str, Any], *, log: Path) -> None:
    """Writes one self-contained page: figures, loss curve, samples (from the page's folder)."""
    samples = path.with_name("samples.png")
    picture = ""
    if samples.exists():
        data = base64.b64encode(samples.read_bytes()).decode()
        picture = f'<h2>Samples</h2><img alt="samples" src="data:image/png;base64,{data}">'
    title = html.escape(f"{figures['dataset']}/{figures['split']}, {describe_weights(figures)}")
    notes = "".join(f"<p>{html.escape(line)}</p>" for line in data_notes(figures))
    about = f"<p>{figures['num_images']} images, loss {format_number(figures['loss'])}</p>"
    about += f"<p>{html.escape(describe_scoring(figures))}</p>"
    body = f"<h1>{title}</h1>{about}{_summary_html(figures)}{notes}{_curve_svg(log)}{picture}"
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
