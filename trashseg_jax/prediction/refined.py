"""Photographs to classes that a CRF has refined, as an evaluation with one does."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float32, UInt8

from trashseg_jax.ahead import batched, one_behind
from trashseg_jax.data import scaling
from trashseg_jax.inference import Fitted, Segmented, Segmenter
from trashseg_jax.refine import engines, pool


class Given(NamedTuple):
    """A photograph that the CRF works at: its size, what was predicted, and the answer to come."""

    size: tuple[int, int]
    probs: Float32[np.ndarray, "h w k"]  # of the scaled photograph
    answer: engines.Answer


class RefinedSegmenter:
    """Refines the plain prediction of a scaled photograph, by an engine that has been started.

    Of the segmenter's views only the plain ones are used. Classes, and the network's probability
    of each, are enlarged to the nearest pixel. Where the CRF fails, the prediction stays as it was
    and a line says so.
    """

    def __init__(self, segmenter: Segmenter, crf: engines.Engine):
        self._segmenter, self._crf = segmenter, crf

    def see(self, image: UInt8[np.ndarray, "h w 3"]) -> Fitted:
        """Returns what `segment_seen` needs of a photograph; any thread may."""
        return self._segmenter.fit(image, plain=True)

    def segment_seen(self, photos: Iterator[Fitted]) -> Iterator[Segmented]:
        """Yields what each photograph shows, in their order."""
        # The CRF works on a group while the network is at the next one.
        groups = batched(photos, self._segmenter.batch_size)
        for given in one_behind(map(self._give, groups)):
            yield from map(_enlarge, given)

    def _give(self, group: Sequence[Fitted]) -> list[Given]:
        """Asks the CRF for a group's classes, without the padding, which would pull at the edge."""
        logits = self._segmenter.view_logits(group, plain=True)
        scaled = jax.nn.softmax(self._segmenter.plain_logits(group, logits, plain=True))
        given = []
        for fitted, probs in zip(group, np.asarray(scaled), strict=False):  # behind it: black
            height, width = fitted.valid[0]
            probs = probs[:height, :width]
            answer = self._crf.submit(probs, fitted.images[0][:height, :width])
            given.append(Given(fitted.size, probs, answer))
        return given


def _enlarge(given: Given) -> Segmented:
    try:
        classes = given.answer.result()
    except pool.CrfError as error:
        print(f"warning: a photograph stays as predicted, since the CRF failed: {error}")
        classes = given.probs.argmax(-1).astype(np.uint8)
    found = np.take_along_axis(given.probs, classes[..., None].astype(np.intp), -1)[..., 0]
    confidence = scaling.nearest(found.astype(np.float16), given.size)
    return Segmented(scaling.nearest(classes, given.size), confidence, None)
