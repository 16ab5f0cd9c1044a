"""report.html: the page of an evaluation, one self-contained file."""

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, Integer, UInt8

from trashseg_jax.report import cells, charts, choice, classes, inks, reference, table
from trashseg_jax.report.files import write_text
from trashseg_jax.report.history import History
from trashseg_jax.report.origin import Origin
from trashseg_jax.report.pictures import Picture, confidence_colors
from trashseg_jax.report.render import render

LISTED = 500  # images that have a row, those with the lowest IoU first
NUMBERED = 25  # classes up to which the matrix shows numbers in its cells
CURVES = 12  # classes up to which all curves are shown from the start
HISTOGRAM = 20  # bins of the images' IoU


@dataclasses.dataclass(frozen=True)
class Details:
    """What the page tells beyond metrics.json; images are in the split's order."""

    names: Sequence[str]  # of their files
    per_image: Integer[np.ndarray, "n k k"]
    confidence: Int64[np.ndarray, "k 256 2"] | None  # reliability.count_confidence
    pictures: Sequence[Picture]
    colors: UInt8[np.ndarray, "k 3"]  # as pictures show the classes
    history: History
    origin: Origin


def write_html(path: Path, figures: dict[str, Any], details: Details) -> None:
    """Writes the page of metrics.json's figures."""
    write_text(path, render("report.html", **describe(figures, details)))


def describe(figures: dict[str, Any], details: Details) -> dict[str, Any]:
    """Returns what the template shows, and under `data` what its script needs besides."""
    names, per_image = tuple(figures["iou"]), details.per_image
    published = reference.published(names)
    colors = inks.hex_colors(details.colors)
    confidence = details.confidence
    confusion = per_image.sum(0, dtype=np.int64)
    means, ranked = choice.mean_ious(per_image), choice.rank_images(per_image)
    listed = ranked[:LISTED]
    shown = {one.place: number for number, one in enumerate(details.pictures)}
    images = {
        place: cells.describe_image(per_image[place].astype(np.int64), iou=means[place])
        for place in dict.fromkeys([*shown, *listed])
    }
    page = {
        "figures": figures,
        "names": names,
        "colors": colors,
        "weights": table.describe_weights(figures),
        "scoring": table.describe_scoring(figures),
        "origin": details.origin,
        "tiles": make_tiles(figures, published),
        "alerts": [*table.left_out(figures), *table.not_refined(figures)],
        "notes": table.read_otherwise(figures),
        "charts": charts.training_charts(details.history),
        "class_chart": class_chart(details, names),
        "rows": classes.class_rows(
            figures, per_image, confidence, colors=colors, published=published
        ),
        "published": published,
        "same_data": figures["dataset"] == reference.DATASET,
        "bars": [] if confidence is None else classes.reliability_bars(confidence),
        "confusion": confusion.tolist(),
        "shares": cells.shares(confusion, axis=1),
        "numbered": len(names) <= NUMBERED,
        "contributors": cells.top_images(per_image),
        "pictures": details.pictures,
        "shown": shown,
        "images": images,
        "groups": groups(ranked, shown, count=len(per_image)),
        "histogram": histogram(means),
        "listed": listed,
        "files": details.names,
        "ramp": inks.hex_colors(confidence_colors()),
        "statistics": data_statistics(figures, details.origin),
    }
    return {**page, "data": to_json(page)}


def make_tiles(
    figures: dict[str, Any], published: dict[str, dict[str, float]]
) -> list[dict[str, Any]]:
    """Returns the headline's figures, the mIoU with its interval first."""
    refined = figures.get("crf", {})
    keys = {**table.SUMMARY, "boundary_miou": "boundary mIoU"}
    empty = {"interval": None, "reference": None, "note": ""}
    tiles = [
        {"name": name, "value": figures[key], "refined": refined.get(key), **empty}
        for key, name in keys.items()
        if key in figures
    ]
    for tile, key in zip(tiles, ("miou_interval", "miou_common_interval"), strict=False):
        tile["interval"] = figures.get(key)
    tiles[1]["note"] = "without rare classes"
    if published:
        title, iou = next(iter(published.items()))
        tiles[0]["reference"] = title, sum(iou.values()) / len(iou)
    return tiles


def class_chart(details: Details, names: Sequence[str]) -> charts.Chart | None:
    """Returns the curves of the classes' IoU; of many classes some are off until toggled."""
    light, dark = inks.inks(details.colors)
    curves = details.history.iou
    common = np.argsort(-details.per_image.sum((0, 2), dtype=np.int64), kind="stable")[:CURVES]
    lines = [
        charts.Line(name, curves[name], light[i], dark[i], shown=i in common)
        for i, name in enumerate(names)
        if name in curves
    ]
    return charts.make_chart("classes", "IoU by class", lines, legend=True, bounds=(0.0, 1.0))


def groups(ranked: Sequence[int], shown: Collection[int], *, count: int) -> dict[str, list[int]]:
    """Returns the places by what they are shown for, in order."""
    found = {
        "Worst": ranked[: choice.WORST],
        "Median": choice.median_of([*ranked]),
        "Best": ranked[::-1][: choice.BEST],
        "Evenly spread": choice.spread(count),
    }
    return {name: [p for p in places if p in shown] for name, places in found.items()}


def histogram(means: Float[np.ndarray, "n"]) -> list[dict[str, float]]:
    """Returns the bars of the images' mean IoU."""
    counts, edges = np.histogram(means[~np.isnan(means)], HISTOGRAM, (0.0, 1.0))
    return [
        {"low": round(low, 2), "high": round(high, 2), "count": count}
        for low, high, count in zip(edges[:-1], edges[1:], counts.tolist(), strict=True)
    ]


def data_statistics(figures: dict[str, Any], origin: Origin) -> dict[str, dict[str, Any]]:
    """Returns columns by their title: the split's classes, and those of the training data."""
    derived = origin.derived
    shares = derived.get("image_shares", {})
    columns = {
        f"pixels, {figures['split']}": figures["pixel_share"],
        "pixels, train": derived.get("pixel_share"),
        "pixels as drawn": derived.get("priors"),
        "images with it, train": shares.get("before"),
        "images as drawn": shares.get("after"),
        "weight in the loss": derived.get("alpha"),
        "objects to paste": derived.get("paste_objects"),
    }
    return {title: values for title, values in columns.items() if values}


def to_json(page: dict[str, Any]) -> dict[str, Any]:
    """Returns what the script needs of the page: no picture, and only names that it shows."""
    contributors, chart = page["contributors"], page["class_chart"]
    named = {place for top in contributors.values() for place, _ in top} | page["images"].keys()
    return {
        "names": page["names"],
        "colors": page["colors"],
        "confusion": page["confusion"],
        "cells": contributors,
        "files": {place: page["files"][place] for place in sorted(named)},
        "shown": page["shown"],
        "images": {place: page["images"][place] for place in page["shown"]},
        "groups": page["groups"],
        "charts": {
            one.key: one.to_json() for one in [*page["charts"], *([chart] if chart else [])]
        },
        "published": {
            title: [iou[name] for name in page["names"]] for title, iou in page["published"].items()
        },
    }
