"""Annotations that someone should look at: what is said of each kind, and the worst of it."""

from collections.abc import Sequence
from typing import NamedTuple

from inspecting.objects import OUTSIDE, OVERLAP, TINY, WHOLE, Suspicion
from inspecting.scan import Scanned
from trashseg_jax.report.table import NOTES


class Kind(NamedTuple):
    """What is said of all of a kind, and of one; `falling`: the largest amounts come first."""

    title: str
    text: str
    falling: bool = True


# By kind of Suspicion, the most serious first.
KINDS = {
    "empty": Kind("Annotations without a pixel in their image", "{name}"),
    "hidden": Kind(
        "Objects that others cover altogether: training sees no pixel of them",
        "{name}, {amount:.0f} pixels",
    ),
    "overlap": Kind(
        f"Objects of two classes in one place (intersection over union above {OVERLAP:g})",
        "{name} and {other}, {amount:.2f}",
    ),
    "outside": Kind(
        f"Outlines that leave the image by more than {OUTSIDE:.0%} of its longer side",
        "{name}, {amount:.0f} pixels outside",
    ),
    "whole": Kind(f"Objects that cover more than {WHOLE:.0%} of the image", "{name}, {amount:.0%}"),
    "tiny": Kind(
        f"Objects of fewer than {TINY:g} pixels once the image is scaled down for the network",
        "{name}, {amount:.3g} pixels",
        falling=False,
    ),
}
# Of the notes on an image, those that no kind above says better.
IMAGE_NOTES = ("crowds_as_class", "crowds_ignored", "boxes_ignored", "copies", "left_out_parts")


class Case(NamedTuple):
    """An object, by its place in its image, and what is said of it; `places` empty: the image."""

    image: Scanned
    places: tuple[int, ...]
    text: str


class Finding(NamedTuple):
    """All cases of a kind; those with pictures are the worst ones."""

    title: str
    total: int
    shown: list[Case]
    more: int  # objects, or images, that are not shown


def find_suspicious(
    images: Sequence[Scanned], *, classes: Sequence[str], shown: int
) -> list[Finding]:
    """Returns what was found of each kind, with up to so many cases to be shown of each."""
    return [*_object_findings(images, classes, shown), *_note_findings(images, shown)]


def _object_findings(
    images: Sequence[Scanned], classes: Sequence[str], shown: int
) -> list[Finding]:
    found: dict[str, list] = {kind: [] for kind in KINDS}
    for image in images:
        for place, one in enumerate(image.facts.objects):
            for suspicion in one.suspicions:
                found[suspicion.kind].append((suspicion.amount, image, place, suspicion))
    findings = []
    for kind, (title, text, falling) in KINDS.items():
        worst = sorted(found[kind], key=lambda case: case[0], reverse=falling)
        cases = [_case(image, place, one, text, classes) for _, image, place, one in worst[:shown]]
        if worst:
            findings.append(Finding(title, len(worst), cases, len(worst) - len(cases)))
    return findings


def _case(
    image: Scanned, place: int, suspicion: Suspicion, text: str, classes: Sequence[str]
) -> Case:
    places = (place,) if suspicion.other < 0 else (place, suspicion.other)
    names = [classes[image.facts.objects[one].label] for one in places]
    said = text.format(name=names[0], other=names[-1], amount=suspicion.amount)
    return Case(image, () if suspicion.kind == "empty" else places, said)


def _note_findings(images: Sequence[Scanned], shown: int) -> list[Finding]:
    findings = []
    for kind in IMAGE_NOTES:
        having = [image for image in images if image.facts.notes.get(kind)]
        having.sort(key=lambda image: -image.facts.notes[kind])
        if having:
            title = NOTES[kind][0].upper() + NOTES[kind][1:]
            count = sum(image.facts.notes[kind] for image in having)
            cases = [
                Case(image, (), f"{image.facts.notes[kind]} in it") for image in having[:shown]
            ]
            findings.append(Finding(title, count, cases, len(having) - len(cases)))
    return findings
