"""Confusion matrices of stored images under a candidate."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int64, UInt8

from trashseg_jax import metrics
from trashseg_jax.refine import engines, pool
from trashseg_jax.refine.calibration import Calibration
from tuning.candidates import Candidate
from tuning.store import Store

AT_ONCE = 16  # images whose probabilities are held

Places = Sequence[int]


class Scorer:
    """Scores candidates on stored images, with an engine that has been started.

    `prior` is what calibrates: a run's focal loss and weights, whose strength and temperature are
    the candidate's.
    """

    def __init__(self, store: Store, engine: engines.Engine, prior: Calibration | None):
        self.store, self._engine = store, engine
        self._prior = prior
        self.failed = 0  # images that the CRF could not refine: these count as predicted

    def confusion(self, candidate: Candidate, places: Places) -> Int64[np.ndarray, "n k k"]:
        """Returns the confusion matrix of each of the images at these places, in their order."""
        num_classes = self.store.log_probs.shape[-1]
        counts = [
            metrics.count_confusion(self.store.labels[part], found, num_classes=num_classes)
            for part, found in self.classes(candidate, places)
        ]
        return np.concatenate(counts)

    def maps(self, candidate: Candidate, places: Places) -> UInt8[np.ndarray, "n s s"]:
        """Returns the classes of each of these images, padding being 0."""
        return np.concatenate([found for _, found in self.classes(candidate, places)])

    def classes(
        self, candidate: Candidate, places: Places
    ) -> Iterator[tuple[list[int], UInt8[np.ndarray, "b s s"]]]:
        """Yields images by some at a time: their places, and their classes; padding is 0."""
        for start in range(0, len(places), AT_ONCE):
            part = [int(place) for place in places[start : start + AT_ONCE]]
            stored = np.asarray(self.store.log_probs[part], np.float32)
            probs = calibrated_probs(stored, candidate, self._prior)
            if candidate.crf is None:
                yield part, probs.argmax(-1).astype(np.uint8)
            else:
                yield part, self._refine(probs, part, candidate.crf)

    def _refine(
        self, probs: Float32[np.ndarray, "b s s k"], places: list[int], options: Any
    ) -> UInt8[np.ndarray, "b s s"]:
        """As an evaluation does: without the padding, which would pull at the edge."""
        refined = np.zeros(probs.shape[:3], np.uint8)
        sizes = self.store.sizes[places].tolist()
        answers = [
            self._engine.submit(
                probs[row, :height, :width], self.store.images[place, :height, :width], **options
            )
            for row, (place, (height, width)) in enumerate(zip(places, sizes, strict=True))
        ]
        for row, (answer, (height, width)) in enumerate(zip(answers, sizes, strict=True)):
            try:
                refined[row, :height, :width] = answer.result()
            except pool.CrfError:
                refined[row, :height, :width] = probs[row, :height, :width].argmax(-1)
                self.failed += 1
        return refined


def calibrated_probs(
    log_probs: Float32[np.ndarray, "*b k"], candidate: Candidate, prior: Calibration | None
) -> Float32[np.ndarray, "*b k"]:
    """Returns a candidate's probabilities of log-probabilities as they are stored."""
    if prior is None or not candidate.calibrated:
        return np.asarray(jax.nn.softmax(log_probs))
    moved = dataclasses.replace(
        prior, strength=candidate.strength, temperature=candidate.temperature
    )
    return np.asarray(jax.nn.softmax(moved.apply(jnp.asarray(log_probs))))
