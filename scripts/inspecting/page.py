"""The page: what the parts found, in pictures and as the template's context."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from inspecting import choice, statistics
from inspecting.balance import Balance
from inspecting.choice import Chosen
from inspecting.label_errors import Doubt, DoubtfulImage, LabelErrors
from inspecting.pictures import Draw, Painter, Wanted, draw_all
from inspecting.scan import Scan, Scanned
from inspecting.statistics import Bar
from inspecting.suspicious import Case, Finding
from inspecting.twins import Twins
from trashseg_jax.data.label_codec import decode_label
from trashseg_jax.report.inks import hex_colors
from trashseg_jax.report.render import data_uri, format_count, format_percent, render

GROUPS = 16  # of images that look alike
OF_A_GROUP = 6  # of its images
PROBLEMS = 50  # lines
DOUBTS = 24  # objects of each of the two lists
DOUBTFUL_IMAGES = 8


class Findings(NamedTuple):
    """What the page is about; `balance` is of the training split, `errors` are of runs, if any."""

    scan: Scan
    splits: tuple[str, ...]
    image_size: int
    balance: Balance
    suspicious: list[Finding]
    twins: list[Twins]
    errors: LabelErrors | None


class Album:
    """Pictures that the page asks for while it is put together; they are drawn at the end."""

    def __init__(self, painter: Painter):
        self.painter, self._wanted = painter, list[Wanted]()

    def add(self, image: Scanned, draw: Draw) -> int:
        """Returns the number under which `draw` will have it."""
        self._wanted.append(Wanted(image.record, draw))
        return len(self._wanted) - 1

    def draw(self, *, num_classes: int) -> list[dict[str, Any]]:
        """Returns each one's address and size, without which the page would move as it loads."""
        drawn = draw_all(self._wanted, num_classes=num_classes)
        return [
            {"uri": data_uri(content, "webp"), "width": width, "height": height}
            for content, (height, width, _) in drawn
        ]


def format_page(findings: Findings, *, title: str, facts: Sequence[str]) -> str:
    """Returns the page, which needs no other file and no network."""
    scan, size = findings.scan, findings.image_size
    amounts = choice.amounts_for(len(scan.classes))
    album = Album(Painter(num_classes=len(scan.classes), side=amounts.side))
    context = {
        "title": title,
        "facts": facts,
        "splits": findings.splits,
        "image_size": size,
        "side": amounts.side,
        "colors": hex_colors(album.painter.colors[: len(scan.classes)]),
        "classes": scan.classes,
        "doubts": statistics.find_doubts(scan, findings.splits),
        "rows": statistics.describe_classes(scan, findings.splits, image_size=size),
        "charts": _charts(findings),
        "balance": findings.balance,
        "chosen": [_show_class(one, album) for one in choice.choose(scan, amounts)],
        "groups": [_show_group(one, scan, album) for one in findings.twins[:GROUPS]],
        "more_groups": max(len(findings.twins) - GROUPS, 0),
        "across": sum(group.across for group in findings.twins),
        "suspicious": [_show_finding(one, album) for one in findings.suspicious],
        "problems": scan.problems[:PROBLEMS],
        "more_problems": max(len(scan.problems) - PROBLEMS, 0),
        "errors": _show_errors(findings.errors, scan.classes, album) if findings.errors else None,
    }
    return render("data.html", pictures=album.draw(num_classes=len(scan.classes)), **context)


def _charts(findings: Findings) -> list[dict[str, Any]]:
    scan, splits, size = findings.scan, findings.splits, findings.image_size
    charts = statistics.chart_images(scan, splits)
    objects = statistics.chart_objects(scan, splits, image_size=size)
    return [
        {"title": title, "rows": _scale_bars(bars)}
        for title, bars in (
            ("Size of the images, in pixels", charts["sizes"]),
            ("Width over height", charts["ratios"]),
            ("Objects of an image", charts["numbers"]),
            (f"Side of a square as large as an object, in images scaled to {size} pixels", objects),
        )
    ]


def _scale_bars(bars: Sequence[Bar]) -> list[dict[str, Any]]:
    """Returns rows with a length for each bar, its share of its split; the longest one's is 1."""
    counts = np.array([bar.counts for bar in bars], float)
    shares = counts / np.maximum(counts.sum(0), 1)
    lengths = (shares / np.maximum(shares.max(initial=0), 1e-9)).tolist()
    return [
        {"label": bar.label, "bars": [*zip(bar.counts, of_bar, strict=True)]}
        for bar, of_bar in zip(bars, lengths, strict=True)
    ]


def _figure(picture: int, image: Scanned, text: str = "", *, wide: bool = False) -> dict[str, Any]:
    return {
        "pictures": [picture],
        "name": image.record.file_name,
        "split": image.split,
        "text": text,
        "wide": wide,
    }


def _show_class(one: Chosen, album: Album) -> dict[str, Any]:
    painter = album.painter
    images = [_figure(album.add(image, painter.labelled), image) for image in one.images]
    return {
        "name": one.name,
        "total": one.total,
        "more": one.total - len(images),
        "images": images,
        "extremes": [
            _figure(album.add(image, painter.object(place)), image, _describe_area(image, place))
            for image, place in (*one.smallest, *one.largest)
        ],
    }


def _describe_area(image: Scanned, place: int) -> str:
    height, width = image.facts.size
    area = image.facts.objects[place].area
    return f"{format_count(area)} pixels, {format_percent(area / (height * width))}"


def _show_group(group: Twins, scan: Scan, album: Album) -> dict[str, Any]:
    images = [scan.images[place] for place in group.places]
    shown = sorted(images, key=lambda image: image.split)
    if group.across:  # some of each split
        first = {image.split: image for image in reversed(shown)}
        shown = [*first.values(), *(image for image in shown if image not in first.values())]
    shown = shown[:OF_A_GROUP]
    return {
        "across": group.across,
        "same": group.same,
        "count": len(images),
        "more": len(images) - len(shown),
        "figures": [_figure(album.add(one, album.painter.photo), one) for one in shown],
    }


def _show_finding(finding: Finding, album: Album) -> dict[str, Any]:
    return {
        "title": finding.title,
        "total": finding.total,
        "more": finding.more,
        "figures": [
            _figure(album.add(case.image, _draw_case(case, album.painter)), case.image, case.text)
            for case in finding.shown
        ],
    }


def _draw_case(case: Case, painter: Painter) -> Draw:
    return painter.object(*case.places) if case.places else painter.labelled


def _show_errors(errors: LabelErrors, classes: Sequence[str], album: Album) -> dict[str, Any]:
    doubt = partial(_show_doubt, classes=classes, album=album)
    return {
        "judged": dict(errors.judged),
        "seen": dict(errors.seen),
        "objects": [doubt(one) for one in errors.objects[:DOUBTS]],
        "num_objects": len(errors.objects),
        "missing": [doubt(one) for one in errors.missing[:DOUBTS]],
        "num_missing": len(errors.missing),
        "images": [_show_image(one, album) for one in errors.images[:DOUBTFUL_IMAGES]],
    }


def _show_doubt(one: Doubt, *, classes: Sequence[str], album: Album) -> dict[str, Any]:
    """Shows the object as it is annotated, and what the model sees there."""
    painter, verdict = album.painter, one.verdict
    label = verdict.suggested if one.place < 0 else one.label
    draw = painter.mask(one.rle, label)
    seen = painter.mask(one.rle, label, prediction=decode_label(one.prediction))
    said = f"annotated as {classes[one.label]}" if one.place >= 0 else "not annotated"
    text = f"{said}, seen as {classes[verdict.suggested]}, score {verdict.score:.3f}"
    figure = _figure(album.add(one.image, draw), one.image, text, wide=True)
    figure["pictures"].append(album.add(one.image, seen))
    return figure


def _show_image(one: DoubtfulImage, album: Album) -> dict[str, Any]:
    painter = album.painter
    text = f"{format_percent(one.share)} of its pixels are doubtful"
    figure = _figure(album.add(one.image, painter.labelled), one.image, text, wide=True)
    seen = painter.seen(decode_label(one.prediction))
    figure["pictures"].append(album.add(one.image, seen))
    return figure
