"""Class weights (alpha) for the loss, from how often each class occurs; 0 for one that never does.

All schemes take counts of the training split: pixels or annotations per image and class [n, k], or
their sums [k]. Class 0 is the background. `own_weights` are the user's. What the loss may take in
place of weights is here too: `class_priors` and their logarithms.
"""

import difflib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from trashseg_jax.errors import InputError, show
from trashseg_jax.rules import CLASS_WEIGHT

Weights = Float64[np.ndarray, "k"]

RAREST_PRIOR = 1e-6  # of a class that occurs: the logarithm of less says little and shifts much


def class_counts(
    pixels: Int64[np.ndarray, "n k"], annotations: Int64[np.ndarray, "n k"]
) -> dict[str, Int64[np.ndarray, "k"]]:
    """Returns each class's pixels, the images that it occurs in, and its annotations.

    The background, which nobody annotates, counts as one annotation in each of its images.
    """
    images = (pixels > 0).sum(0)
    return {
        "pixels": pixels.sum(0),
        "images": images,
        "annotations": np.append(images[0], annotations.sum(0)[1:]),
    }


def annotation_ratio(annotations: Int64[np.ndarray, "k"]) -> Weights:
    """The annotations of the most annotated class over those of each, rounded; background 1.

    The "balanced alpha" of AIstage-segmentation.
    """
    objects = annotations[1:]
    return np.append(1.0, np.round(_divide(objects.max(initial=0), objects)))


def inverse_frequency(counts: Int64[np.ndarray, "k"], *, power: float) -> Weights:
    """share^-power, scaled to a mean of 1 over what is counted, so that the loss keeps its scale.

    With power 1 it is scikit-learn's "balanced": total / (number of classes x count).
    """
    share = counts / max(counts.sum(), 1)
    raw = np.where(share > 0, np.where(share > 0, share, 1) ** -power, 0)
    return raw / max((share * raw).sum(), np.finfo(float).tiny)


def median_frequency(pixels: Int64[np.ndarray, "n k"]) -> Weights:
    """median(f) / f, f being a class's pixels over all pixels of the images that it occurs in.

    Eigen & Fergus 2015.
    """
    images = (pixels > 0) * pixels.sum(1, keepdims=True)
    frequency = _divide(pixels.sum(0), images.sum(0))
    occurs = frequency > 0
    return _divide(np.median(frequency[occurs]) if occurs.any() else 0.0, frequency)


def effective_number(counts: Int64[np.ndarray, "k"], *, beta: float) -> Weights:
    """(1 - beta) / (1 - beta^count), scaled to a mean of 1 over the classes that occur.

    Cui et al. 2019, section 4. Counts far above 1 / (1 - beta), as those of pixels are, all give
    the same weight.
    """
    raw = _divide(1 - beta, 1 - beta**counts)
    return raw * ((counts > 0).sum() / max(raw.sum(), np.finfo(float).tiny))


def enet(pixels: Int64[np.ndarray, "k"]) -> Weights:
    """1 / ln(1.02 + share of the pixels), from 1.4 to 50.5 (Paszke et al. 2016)."""
    share = pixels / max(pixels.sum(), 1)
    return np.where(share > 0, 1 / np.log(1.02 + share), 0.0)


def class_priors(
    pixels: Int64[np.ndarray, "n k"], image_weights: Float64[np.ndarray, "n"], *, by_image: bool
) -> Float64[np.ndarray, "k"]:
    """Returns each class's share of the pixels of the images as drawn; they sum to 1.

    `by_image`: each image counts alike however many valid pixels it has, as in a loss that is a
    mean over an image's pixels.
    """
    sizes = np.maximum(pixels.sum(1, keepdims=True), 1) if by_image else 1
    mass = image_weights @ (pixels / sizes)
    return mass / max(mass.sum(), np.finfo(float).tiny)


def log_priors(priors: Float64[np.ndarray, "k"]) -> Float64[np.ndarray, "k"]:
    """Returns the logarithms, of no less than RAREST_PRIOR, and 0 for classes that never occur.

    Minus infinity, or any large negative number, would spare the logit of such a class in training
    all that teaches it to be low: it would win where it is used unadjusted.
    """
    return np.where(priors > 0, np.log(np.maximum(priors, RAREST_PRIOR)), 0.0)


def log_effective_weights(
    alpha: Weights, priors: Weights, pixel_share: Weights, *, logit_adjustment: float
) -> Weights:
    """Returns by how much the training raises each class's logit above the posterior's.

    That is log(alpha * priors / pixel_share): a class's weight in the loss, times what sampling and
    the reduction made of its share of the pixels. With `logit_adjustment` the loss sees more than
    what predicts, by that times the log prior, which is therefore subtracted. 0 for a class that
    the training does not have.
    """
    known = (alpha > 0) & (priors > 0) & (pixel_share > 0)
    ratio = np.where(known, alpha * priors / np.where(known, pixel_share, 1), 1)
    raised = np.log(np.where(known, ratio, 1)) - logit_adjustment * log_priors(priors)
    return np.where(known, raised, 0.0)


def own_weights(values: tuple[int | float, ...] | str, *, classes: Sequence[str]) -> Weights:
    """Returns `config.loss.alpha_values`: one number a class, or "NAME=NUMBER,..." and 1 elsewhere.

    Raises InputError for another number of weights, an unknown name, or what is no weight.
    """
    try:
        weights = _by_name(values, classes) if isinstance(values, str) else values
        if len(weights) != len(classes):
            raise InputError(
                f"has {len(weights)} weights; it must have one for each of the {len(classes)} "
                f"classes, {', '.join(classes)}, or name some of them: {classes[-1]}=20"
            )
        if not any(weights):
            raise InputError("is 0 for every class; at least one weight must be above 0")
    except InputError as error:
        raise InputError(f"config.loss.alpha_values={show(values)}: {error}") from error
    return np.array(weights, np.float64)


def _by_name(text: str, classes: Sequence[str]) -> list[float]:
    """Returns the weights of all classes; neither case nor outer blanks of a name matter."""
    known = {name.casefold(): name for name in classes}
    given: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = part.rpartition("=")
        key = name.strip().casefold()
        if not equals:
            raise InputError(f"{part.strip()!r} must be CLASS=NUMBER")
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0)[0]
            raise InputError(f"there is no class {name.strip()!r}; the nearest is {known[near]!r}")
        if key in given:
            raise InputError(f"class {known[key]!r} appears twice; remove one")
        given[key] = _own_weight(number.strip())
    return [given.get(name, 1.0) for name in known]


def _own_weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not CLASS_WEIGHT.holds(weight):
        raise InputError(f"the weight {text!r} must be {CLASS_WEIGHT.says}")
    return weight


def _divide(part, whole) -> Weights:
    """Divides; 0 where `whole` is 0."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), 0.0)
