"""Calibrations by themselves, as --mode=calibrate fits them, of what is stored."""

import dataclasses
from functools import partial

import numpy as np

from trashseg_jax import calibrate
from trashseg_jax.data.taxonomy import IGNORE_LABEL
from trashseg_jax.refine.calibration import IMAGES, Calibration
from tuning.candidates import Candidate
from tuning.scoring import Scorer
from tuning.store import Store
from tuning.subject import Subject


def fit_all(subject: Subject, scorer: Scorer) -> dict[str, Calibration]:
    """Returns what --mode=calibrate would fit to the even, the odd and all images; {} for none."""
    prior, config = subject.prior, subject.config
    if prior is None:
        return {}
    strengths = calibrate.STRENGTHS if calibrate.has_weights(prior) else (0.0,)
    every = range(len(scorer.store.labels))
    curve = np.stack([scorer.confusion(Candidate(True, strength), every) for strength in strengths])
    pixels = draw_pixels(scorer.store, per_half=config.calibration.pixels, seed=config.seed)
    by_strength = [dataclasses.replace(prior, strength=strength) for strength in strengths]
    fit = partial(calibrate.fit_all, prior, by_strength, pixels, curve, strength=None)
    return {images: fit(images=images)["prior"] for images in IMAGES}


def draw_pixels(stored: Store, *, per_half: int, seed: int) -> calibrate.Pixels:
    """Returns about `per_half` pixels of each half, drawn at random from those with a label."""
    rng, drawn = np.random.default_rng(seed), []
    share = min(2 * per_half / stored.labels.size, 1.0)
    for place, labels in enumerate(stored.labels):
        taken = (labels != IGNORE_LABEL) & (rng.random(labels.shape) < share)
        logits = np.asarray(stored.log_probs[place][taken], np.float32)
        drawn.append((logits, labels[taken], np.full(len(logits), place)))
    return calibrate.Pixels(*map(np.concatenate, zip(*drawn, strict=True)))


def alone(fitted: Calibration) -> Candidate:
    """Returns the candidate that is calibrated so and has no CRF."""
    return Candidate(True, fitted.strength, fitted.temperature)
