"""Which images and objects of each class are shown: some at random, the smallest, the largest."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from inspecting.scan import Scan, Scanned


class Chosen(NamedTuple):
    """What is shown of a class: images, and (image, place) of its smallest and largest objects."""

    name: str
    total: int  # images that hold it
    images: list[Scanned]
    smallest: list[tuple[Scanned, int]]
    largest: list[tuple[Scanned, int]]


class Amounts(NamedTuple):
    """How many pictures there are of each thing, and their longer side."""

    images: int
    extremes: int
    cases: int
    side: int


def amounts_for(num_classes: int) -> Amounts:
    """Returns fewer and smaller pictures for many classes: the page is to be opened anywhere."""
    for most, amounts in (
        (16, Amounts(images=6, extremes=3, cases=12, side=208)),
        (40, Amounts(images=3, extremes=2, cases=8, side=176)),
        (256, Amounts(images=2, extremes=1, cases=4, side=144)),
    ):
        if num_classes <= most:
            return amounts
    raise ValueError(f"num_classes is {num_classes}; it must be at most 256")


def choose(scan: Scan, amounts: Amounts) -> list[Chosen]:
    """Returns what is shown of each class but the background; the same whenever it is asked."""
    rng = np.random.default_rng(0)
    return [
        Chosen(name, *_of_class(scan.images, k, amounts, rng))
        for k, name in enumerate(scan.classes)
        if k
    ]


def _of_class(
    images: Sequence[Scanned], k: int, amounts: Amounts, rng: np.random.Generator
) -> tuple[int, list[Scanned], list[tuple[Scanned, int]], list[tuple[Scanned, int]]]:
    holding = [image for image in images if image.facts.pixels[k]]
    drawn = rng.permutation(len(holding))[: amounts.images]
    objects = [
        (one.area / (image.facts.size[0] * image.facts.size[1]), number, place)
        for number, image in enumerate(holding)
        for place, one in enumerate(image.facts.objects)
        if one.label == k and one.visible
    ]
    objects.sort()
    count = min(amounts.extremes, (len(objects) + 1) // 2)  # each is shown once
    smallest = [(holding[number], place) for _, number, place in objects[:count]]
    largest = [(holding[n], place) for _, n, place in objects[count:][::-1][:count]]
    return len(holding), [holding[place] for place in sorted(drawn)], smallest, largest
