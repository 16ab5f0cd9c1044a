"""Segmentation metrics, all of them functions of confusion matrices (rows: truth)."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, UInt8

RESAMPLES = 1000


def confusion_matrix(
    labels: Integer[Array, "b h w"],
    predictions: Integer[Array, "b h w"],
    *,
    num_classes: int,
    by_pixel: bool,
) -> Integer[Array, "b k k"]:
    """Counts pixels by (truth, prediction) per image; a label outside 0..k-1 counts nowhere.

    `by_pixel` adds pixel by pixel, on CPUs some thirty times as fast as the product of one-hot
    codes, which accelerators have units for.
    """
    count = add_pixels if by_pixel else multiply_codes
    return jax.vmap(partial(count, num_classes=num_classes))(labels, predictions)


def add_pixels(
    labels: Integer[Array, "h w"], predictions: Integer[Array, "h w"], *, num_classes: int
) -> Integer[Array, "k k"]:
    pairs = labels.astype(jnp.int32) * num_classes + predictions
    ignored = num_classes**2
    pairs = jnp.where((labels >= 0) & (labels < num_classes), pairs, ignored)
    counts = jnp.bincount(pairs.ravel(), length=ignored + 1)[:ignored]
    return counts.reshape(num_classes, num_classes)


def multiply_codes(
    labels: Integer[Array, "h w"], predictions: Integer[Array, "h w"], *, num_classes: int
) -> Integer[Array, "k k"]:
    """A float32 sum of ones is exact for images of up to 2^24 pixels."""
    truth, hit = (jax.nn.one_hot(x.ravel(), num_classes) for x in (labels, predictions))
    return (truth.T @ hit).astype(jnp.int32)


def count_confusion(
    labels: UInt8[np.ndarray, "b h w"],
    predictions: UInt8[np.ndarray, "b h w"],
    *,
    num_classes: int,
) -> Integer[np.ndarray, "b k k"]:
    """Counts on the host what `confusion_matrix` counts on the device."""
    rows = np.arange(len(labels))[:, None, None]
    pairs = (rows * num_classes + labels) * num_classes + predictions
    counts = np.bincount(
        pairs[labels < num_classes], minlength=len(labels) * num_classes * num_classes
    )
    return counts.reshape(-1, num_classes, num_classes)


def iou(confusion: Integer[np.ndarray, "*b k k"]) -> Float[np.ndarray, "*b k"]:
    """Intersection over union per class; NaN for a class in neither truth nor prediction."""
    return ratio(*_overlaps(confusion))


def dice(confusion: Integer[np.ndarray, "*b k k"]) -> Float[np.ndarray, "*b k"]:
    """Dice coefficient (F1) per class; NaN as for `iou`."""
    hit, truth, predicted = _margins(confusion)
    return ratio(2 * hit, truth + predicted)


def pixel_accuracy(confusion: Integer[np.ndarray, "k k"]) -> float:
    """Share of the valid pixels that are predicted right; NaN where there is none."""
    return float(ratio(np.trace(confusion), confusion.sum()))


def summarize(
    per_image: Integer[np.ndarray, "n k k"],
    *,
    classes: Sequence[str],
    common_share: float,
    resamples: int,
) -> dict[str, Any]:
    """Returns the figures of a data set from its images' confusion matrices.

    `miou` is over the classes present in truth or prediction; `miou_common` over those of them
    that have at least `common_share` of the true pixels; `miou_per_image` is the mean over images
    of each image's own mean; `miou_interval` and `miou_common_interval` are those of
    `bootstrap_interval`, left out where `resamples` is 0. Undefined figures are None, as json has
    no NaN.
    """
    confusion = per_image.sum(0, dtype=np.int64)
    scores = iou(confusion)
    share = confusion.sum(1) / max(confusion.sum(), 1)
    common, interval = share >= common_share, {}
    if resamples:
        for key, among in (("miou_interval", None), ("miou_common_interval", common)):
            interval[key] = bootstrap_interval(per_image, resamples=resamples, among=among)
    return {
        "num_images": len(per_image),
        "miou": mean(scores),
        **interval,
        "iou": {name: number(v) for name, v in zip(classes, scores, strict=True)},
        "miou_common": mean(scores[common]),
        "miou_per_image": mean(np.array([mean(v) for v in iou(per_image)], float)),
        "pixel_accuracy": number(pixel_accuracy(confusion)),
        "mean_dice": mean(dice(confusion)),
        "pixel_share": {name: float(v) for name, v in zip(classes, share, strict=True)},
        "confusion": confusion.tolist(),
    }


def bootstrap_interval(
    per_image: Integer[np.ndarray, "n k k"],
    *,
    resamples: int,
    among: Bool[np.ndarray, "k"] | None = None,
) -> list[float] | None:
    """Returns the 2.5 and 97.5 % quantiles of the mIoU of resampled images (Efron 1979).

    The mean is over the classes that occur, or those of them that are `among` the ones given.

    They say how much another choice of as many images would change it, not another training. The
    mean is always over the classes of the whole set: one that a resample lacks keeps its IoU, as
    left out it would move the mean without any score having changed. An IoU is a ratio of sums,
    and resampling biases one of few images, in the extreme so much that all of the quantiles lie on
    one side of the mIoU: the interval then reaches to it. It is too narrow where many classes occur
    in a handful of images: it covered the true value in 83 to 95 % of simulated sets of 100 to
    1,500 images. Dirichlet weights (Rubin 1981), which lose no class, covered it in 72 to 93 %.
    """
    _, union = _overlaps(per_image)
    occurs = union.sum(0) > 0
    if among is not None:
        occurs &= among
    if not occurs.any():
        return None
    return _interval(*_resample(per_image, occurs, resamples))


def difference_interval(
    before: Integer[np.ndarray, "n k k"], after: Integer[np.ndarray, "n k k"], *, resamples: int
) -> list[float] | None:
    """Returns the same quantiles of the second mIoU less the first, of the same images.

    Both are of the same resamples, what is hard about an image is so for both, and of the same
    classes, those in the truth.
    """
    occurs = before.sum((0, 2)) > 0
    if not occurs.any():
        return None
    both = (_resample(one, occurs, resamples) for one in (before, after))
    (first, firsts), (second, seconds) = both
    return _interval(second - first, seconds - firsts)


def iou_intervals(
    per_image: Integer[np.ndarray, "n k k"], *, resamples: int
) -> Float[np.ndarray, "k 2"]:
    """Returns the same quantiles of each class's IoU; NaN for a class that does not occur."""
    _, union = _overlaps(per_image)
    occurs = union.sum(0) > 0
    bounds = np.full((len(occurs), 2), np.nan)
    if occurs.any():
        bounds[occurs] = _intervals(*_resample_classes(per_image, occurs, resamples))
    return bounds


def iou_difference_intervals(
    before: Integer[np.ndarray, "n k k"], after: Integer[np.ndarray, "n k k"], *, resamples: int
) -> Float[np.ndarray, "k 2"]:
    """Returns those of each class's second IoU less the first, of the same images.

    NaN for a class that is not in the truth.
    """
    occurs = before.sum((0, 2)) > 0
    bounds = np.full((len(occurs), 2), np.nan)
    if occurs.any():
        both = (_resample_classes(one, occurs, resamples) for one in (before, after))
        (first, firsts), (second, seconds) = both
        bounds[occurs] = _intervals(second - first, seconds - firsts)
    return bounds


def _resample(per_image, occurs, resamples) -> tuple[float, Float[np.ndarray, "r"]]:
    """Returns the mean IoU of classes that occur, and that of each resample; always the same."""
    whole, drawn = _resample_classes(per_image, occurs, resamples)
    return whole.mean(), drawn.mean(1)


def _resample_classes(per_image, occurs, resamples):
    """Returns the IoU of classes that occur, and those of each resample; always the same."""
    hit, union = _overlaps(per_image)
    hit, union = hit[:, occurs], union[:, occurs]
    whole = hit.sum(0) / union.sum(0)
    count = len(per_image)
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), resamples)
    hits, unions = np.split(drawn.astype(float) @ np.hstack([hit, union]), 2, axis=1)
    return whole, np.where(unions > 0, hits / np.maximum(unions, 1), whole)


def _interval(whole, values) -> list[float]:
    return [float(bound) for bound in _intervals(whole, values)]


def _intervals(whole, values):
    """Returns quantiles over the resamples, which reach to the whole set's figures."""
    low, high = np.quantile(values, (0.025, 0.975), axis=0)
    return np.stack([np.minimum(low, whole), np.maximum(high, whole)], -1)


def _overlaps(confusion):
    """Returns what truth and prediction share, and what they cover together."""
    hit, truth, predicted = _margins(confusion)
    return hit, truth + predicted - hit


def _margins(confusion):
    """Returns the diagonal and the sums of rows and of columns, int64, without a wide copy."""
    hit = np.diagonal(confusion, 0, -2, -1).astype(np.int64)
    return hit, confusion.sum(-1, dtype=np.int64), confusion.sum(-2, dtype=np.int64)


def ratio(part, whole):
    """Divides; NaN where `whole` is 0."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def mean(values: np.ndarray) -> float | None:
    """The mean of the numbers among `values`, None where there is none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else None


def number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
