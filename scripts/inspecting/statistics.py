"""What a data set holds, in numbers: by class and split, and of its images and objects."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from inspecting.objects import Object
from inspecting.scan import Scan, Scanned
from trashseg_jax.data.taxonomy import IGNORE_LABEL

FEW = 10  # objects of a class: what is said of it is said of these
QUANTILES = (0.1, 0.5, 0.9)  # of objects' sizes
SHOWN_SIZES = 8  # of images
SIDES = (2, 4, 8, 16, 32, 64, 128, 256)  # pixels: between these lie the bars of objects' sizes
RATIOS = (0.5, 0.6, 0.7, 0.8, 0.95, 1.05, 1.25, 1.4, 1.7, 2.0)  # width over height
NUMBERS = (1, 2, 3, 4, 6, 9, 13, 21, 41)  # objects of an image


class Bar(NamedTuple):
    """A bar of a chart: how much there is, by split."""

    label: str
    counts: tuple[int, ...]


def count_pixels(images: Sequence[Scanned], num_classes: int) -> Int64[np.ndarray, "n k"]:
    """Returns the pixels of each class in each image, as a training counts them."""
    return np.array([one.facts.pixels for one in images], np.int64).reshape(-1, num_classes)


def count_objects(images: Sequence[Scanned], num_classes: int) -> Int64[np.ndarray, "n k"]:
    """Returns the objects of each class in each image, as a training counts them."""
    return np.array([one.facts.counted for one in images], np.int64).reshape(-1, num_classes)


def describe_classes(scan: Scan, splits: Sequence[str], *, image_size: int) -> list[dict[str, Any]]:
    """Returns a row for each class: what each split has of it, and how large its objects are."""
    rows: list[dict[str, Any]] = [{"name": name, "splits": []} for name in scan.classes]
    for split in splits:
        images = scan.of_split(split)
        pixels = count_pixels(images, len(scan.classes))
        objects = count_objects(images, len(scan.classes)).sum(0)
        shares = pixels.sum(0) / max(pixels.sum(), 1)
        for k, row in enumerate(rows):
            row["splits"].append(
                {
                    "objects": int(objects[k]) if k else None,
                    "images": int((pixels[:, k] > 0).sum()),
                    "pixels": int(pixels[:, k].sum()),
                    "share": float(shares[k]),
                }
            )
    sides = sides_by_class(scan, image_size=image_size)
    for k, row in enumerate(rows):
        row["sides"] = (
            [float(n) for n in np.quantile(sides[k], (0.1, 0.5, 0.9))] if sides[k] else None
        )
    return rows


def sides_by_class(scan: Scan, *, image_size: int) -> list[list[float]]:
    """Returns, by class, the sides of squares as large as its objects, as the network sees them."""
    sides: list[list[float]] = [[] for _ in scan.classes]
    for image in scan.images:
        for one in counting(image):
            sides[one.label].append(shown_side(one, image, image_size=image_size))
    return sides


def counting(image: Scanned) -> list[Object]:
    """Returns the objects of an image that have pixels and a class."""
    return [one for one in image.facts.objects if one.area and one.label != IGNORE_LABEL]


def shown_side(one: Object, image: Scanned, *, image_size: int) -> float:
    return float(np.sqrt(one.area)) * image_size / max(image.facts.size)


def chart_images(scan: Scan, splits: Sequence[str]) -> dict[str, list[Bar]]:
    """Returns the bars of images' sizes, ratios of their sides, and numbers of their objects."""
    images = [scan.of_split(split) for split in splits]
    sizes = [Counter(f"{one.facts.size[1]} x {one.facts.size[0]}" for one in of) for of in images]
    ratios = [[one.facts.size[1] / one.facts.size[0] for one in of] for of in images]
    numbers = [[len(counting(one)) for one in of] for of in images]
    return {
        "sizes": _frequent(sizes),
        "ratios": _histogram(ratios, RATIOS, "{:g}"),
        "numbers": _histogram(numbers, NUMBERS, "{}", whole=True),
    }


def chart_objects(scan: Scan, splits: Sequence[str], *, image_size: int) -> list[Bar]:
    """Returns the bars of objects' sizes, as the network is shown them."""
    sides = [
        [
            shown_side(one, image, image_size=image_size)
            for image in scan.of_split(split)
            for one in counting(image)
        ]
        for split in splits
    ]
    return _histogram(sides, SIDES, "{:g}")


def _frequent(counters: Sequence[Counter[str]]) -> list[Bar]:
    """Returns the most frequent keys of all counters, and one bar of the others."""
    total = sum(counters, Counter())
    shown = [key for key, _ in total.most_common(SHOWN_SIZES)]
    bars = [Bar(key, tuple(counter[key] for counter in counters)) for key in shown]
    if others := len(total) - len(shown):
        left = tuple(c.total() - sum(c[key] for key in shown) for c in counters)
        bars.append(Bar(f"{others} other sizes", left))
    return bars


def _histogram(
    values: Sequence[Sequence[float]], edges: Sequence[float], text: str, *, whole: bool = False
) -> list[Bar]:
    """Returns a bar for what lies below the first edge, between each two, and from the last on."""
    counts = [np.bincount(np.digitize(one, edges), minlength=len(edges) + 1) for one in values]
    said = [text.format(edge) for edge in edges]
    inner = [
        first if whole and below - above == 1 else f"{first} to {f'{below - 1}' if whole else last}"
        for first, last, above, below in zip(said, said[1:], edges, edges[1:], strict=False)
    ]
    labels = [f"{edges[0] - 1}" if whole else f"below {said[0]}", *inner, f"{said[-1]} or more"]
    columns = zip(labels, zip(*(of.tolist() for of in counts), strict=True), strict=True)
    bars = [Bar(label, tuple(column)) for label, column in columns]
    filled = [place for place, bar in enumerate(bars) if any(bar.counts)]
    return bars[filled[0] : filled[-1] + 1] if filled else []


def find_doubts(scan: Scan, splits: Sequence[str]) -> list[str]:
    """Returns a line for each class that a split lacks, or of which it has few objects."""
    lines = []
    for split in splits:
        images = scan.of_split(split)
        objects = count_objects(images, len(scan.classes)).sum(0)
        pixels = count_pixels(images, len(scan.classes)).sum(0)
        absent = [name for name, n in zip(scan.classes, pixels, strict=True) if not n]
        few = [
            f"{name} ({n})"
            for name, n, p in zip(scan.classes[1:], objects[1:], pixels[1:], strict=True)
            if p and n < FEW
        ]
        if absent:
            lines.append(f"{split} has no pixel of {_join(absent)}{_MEANS[split == 'train']}")
        if few:
            lines.append(f"{split} has fewer than {FEW} objects of {_join(few)}")
    return lines


_MEANS = {
    True: ": a model cannot learn such a class",
    False: ": its mIoU says nothing of such a class",
}


def _join(names: Sequence[str], at_most: int = 12) -> str:
    more = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {more} more" if more > 0 else "")
