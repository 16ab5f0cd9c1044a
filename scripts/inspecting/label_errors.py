"""Objects and images whose annotation a model contradicts that was not trained on them."""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from pycocotools import mask as mask_utils

from inspecting.confident import (
    DOUBTFUL,
    Opinion,
    Thresholds,
    Verdict,
    find_doubtful,
    find_missing,
    form_opinion,
    judge,
)
from inspecting.judges import Judge
from inspecting.pictures import Opened, open_image
from inspecting.scan import Scan, Scanned
from trashseg_jax.ahead import map_ahead
from trashseg_jax.data.label_codec import encode_label
from trashseg_jax.data.scaling import fit_photo, fitted_size, scale_label
from trashseg_jax.data.taxonomy import IGNORE_LABEL
from trashseg_jax.prediction.progress import Progress

SIDE = 1024  # pixels: larger photographs are scaled down to be judged
MISSING = 0.001  # of the image: a smaller piece that nobody annotated is not listed
WIDTH = 1 / 32  # of the longer side: nor is a thinner one


class Doubt(NamedTuple):
    """An object that the model contradicts; where `place` is -1 nothing is annotated."""

    image: Scanned
    place: int  # among its image's objects
    label: int
    verdict: Verdict
    rle: Any  # its mask, at the photograph's size
    prediction: bytes  # the image's most probable classes, as label_codec stores them


class DoubtfulImage(NamedTuple):
    image: Scanned
    share: float  # of its pixels, those whose label is doubtful
    prediction: bytes


class LabelErrors(NamedTuple):
    """What is doubtful, the most doubtful first, and how many images were judged or not."""

    objects: list[Doubt]
    missing: list[Doubt]
    images: list[DoubtfulImage]
    judged: Counter[str]  # by split
    seen: Counter[str]  # all runs were trained on these


class Seen(NamedTuple):
    """An image and its label, no larger than SIDE, and its objects at its own size."""

    opened: Opened
    labels: UInt8[np.ndarray, "h w"]


def find_label_errors(scan: Scan, judges: Sequence[Judge]) -> LabelErrors:
    """Predicts each image twice: for the classes' thresholds, and for what they say of it."""
    num_classes = len(scan.classes)
    total = sum(len(one.images) for one in judges)
    with Progress(2 * total) as progress:
        thresholds = Thresholds(num_classes)
        for _, seen, probs in predict(judges, num_classes=num_classes):
            thresholds.add(seen.labels, probs)
            progress.add()
        objects, missing, images = [], [], []
        for image, seen, probs in predict(judges, num_classes=num_classes):
            opinion = form_opinion(probs, thresholds.values)
            objects += judge_objects(image, seen, opinion)
            missing += judge_background(image, seen, opinion)
            share = float(find_doubtful(seen.labels, opinion.confident).mean())
            images.append(DoubtfulImage(image, share, encode_label(opinion.classes)))
            progress.add()
    judged = Counter(one.image.split for one in images)
    everywhere = Counter(image.split for image in scan.images)
    images = sorted((one for one in images if one.share), key=lambda one: -one.share)
    return LabelErrors(_ranked(objects), _ranked(missing), images, judged, everywhere - judged)


def _ranked(doubts: Sequence[Doubt]) -> list[Doubt]:
    return sorted(doubts, key=lambda one: one.verdict.score)


def predict(
    judges: Sequence[Judge], *, num_classes: int
) -> Iterator[tuple[Scanned, Seen, Float[np.ndarray, "h w k"]]]:
    """Yields the images with what is annotated and with the probabilities of each class."""
    see = partial(_see, num_classes=num_classes)
    for _, images, segmenter in judges:
        seen, photos = itertools.tee(map_ahead(see, images))
        segmented = segmenter.segment(one.opened.photo for one in photos)
        for image, one, found in zip(images, seen, segmented, strict=True):
            if found.probs is not None:  # which the segmenter was asked to keep
                yield image, one, found.probs


def _see(image: Scanned, *, num_classes: int) -> Seen:
    opened = open_image(image.record, num_classes=num_classes)
    longer = max(opened.classes.shape)
    if longer <= SIDE:
        return Seen(opened, opened.classes)
    labels = scale_label(opened.classes, fitted_size(opened.classes.shape, SIDE))
    return Seen(opened._replace(photo=fit_photo(opened.photo, SIDE)), labels)


def judge_objects(image: Scanned, seen: Seen, opinion: Opinion) -> Iterator[Doubt]:
    """Yields an image's doubtful objects; what counts of each is where its class is painted."""
    masks, prediction = seen.opened.masks, encode_label(opinion.classes)
    for place, (label, rle) in enumerate(zip(masks.labels, masks.rles, strict=True)):
        if label == IGNORE_LABEL:
            continue
        pixels = _shown(rle, seen.labels.shape) & (seen.labels == label)
        if not pixels.any():
            continue
        verdict = judge(pixels, label, opinion)
        if verdict.share > DOUBTFUL:
            yield Doubt(image, place, label, verdict, rle, prediction)


def _shown(rle: Any, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    return scale_label(mask_utils.decode(rle), size).view(bool)


def judge_background(image: Scanned, seen: Seen, opinion: Opinion) -> Iterator[Doubt]:
    """Yields what the model sees where an image has no annotation."""
    width, prediction = round(WIDTH * max(seen.labels.shape)), encode_label(opinion.classes)
    for k, pixels in find_missing(seen.labels, opinion, share=MISSING, width=width):
        verdict = judge(pixels, 0, opinion)
        whole = scale_label(pixels.view(np.uint8), image.facts.size)
        rle = mask_utils.encode(np.asfortranarray(whole))
        yield Doubt(image, -1, 0, verdict._replace(suggested=k), rle, prediction)
