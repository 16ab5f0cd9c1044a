"""Losses: one value per example; the caller averages. All compute in float32.

A pixel labelled `ignore_label` adds nothing to a value or a gradient; an image of nothing else
costs 0. `alpha` are the class weights; only in `tversky_loss` it is a constant of the paper's.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

# What an image's sum over pixels is divided by, from how much each of them counts (0 where ignored)
# and its class weight (alpha).
REDUCTIONS = {
    "mean": lambda counts, alpha: counts.sum((1, 2)),
    "alpha": lambda counts, alpha: (counts * alpha).sum((1, 2)),
    # All pixels, the ignored ones too, as its code divided: it had none of them.
    "reference": lambda counts, alpha: jnp.full(counts.shape[0], counts[0].size),
}


def cross_entropy(
    logits: Float[Array, "b h w k"],
    labels: Integer[Array, "b h w"],
    *,
    alpha: Float[Array, "k"],
    label_smoothing: float,
    bootstrap: float,
    hard_share: float,
    reduction: str,
    ignore_label: int,
) -> Float[Array, "b"]:
    """Softmax cross-entropy, -sum_c t_c alpha_c log p_c, reduced over an image's pixels.

    `label_smoothing` moves that share of the target t to the uniform distribution
    (Szegedy et al. 2016, section 7), `bootstrap` to the prediction itself: see
    `_trust_prediction`. Of an image's valid pixels `hard_share` count, those that cost most: see
    `hard_pixels`. `reduction`: "mean" divides by the number of pixels that count, "alpha" by the
    sum of their class weights, image by image, "reference" by the number of all pixels.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    targets = _targets(labels, log_p.shape[-1], label_smoothing, ignore_label)
    pixel = -jnp.sum(targets * alpha * log_p, -1)  # b h w
    weights = _pixel_weights(labels, alpha, ignore_label)
    if bootstrap:
        pixel = _trust_prediction(pixel, log_p, weights, bootstrap)
    return _reduce(pixel, labels, weights, reduction, hard_share, ignore_label)


def focal_loss(
    logits: Float[Array, "b h w k"],
    labels: Integer[Array, "b h w"],
    *,
    gamma: float,
    alpha: Float[Array, "k"],
    label_smoothing: float,
    hard_share: float,
    reduction: str,
    ignore_label: int,
) -> Float[Array, "b"]:
    """Softmax focal loss, -sum_c t_c alpha_c (1 - p_c)^gamma log p_c (Lin et al. 2017, eq. 5).

    Options as for `cross_entropy`. "reference" is the form of AIstage-segmentation to the last
    constant: p is the softmax plus 1e-8.
    """
    logits = logits.astype(jnp.float32)
    if reduction == "reference":
        p = jax.nn.softmax(logits) + 1e-8
        log_p, rest = jnp.log(p), 1 - p
    else:
        log_p = jax.nn.log_softmax(logits)
        rest = -jnp.expm1(log_p)  # 1 - p without cancellation
    # Clamped: at p = 1 the power's gradient is infinite for gamma below 1.
    focus = jnp.maximum(rest, 1e-6) ** gamma
    targets = _targets(labels, log_p.shape[-1], label_smoothing, ignore_label)
    pixel = -jnp.sum(targets * alpha * focus * log_p, -1)  # b h w
    weights = _pixel_weights(labels, alpha, ignore_label)
    return _reduce(pixel, labels, weights, reduction, hard_share, ignore_label)


def dice_loss(
    logits: Float[Array, "b h w k"], labels: Integer[Array, "b h w"], *, ignore_label: int
) -> Float[Array, "b"]:
    """1 - Dice, 2 |pt| / (|p| + |t|) of the probabilities, averaged as in `tversky_loss`.

    Milletari et al. 2016, without their squares.
    """
    return tversky_loss(logits, labels, alpha=0.5, beta=0.5, ignore_label=ignore_label)


def tversky_loss(
    logits: Float[Array, "b h w k"],
    labels: Integer[Array, "b h w"],
    *,
    alpha: float,
    beta: float,
    ignore_label: int,
) -> Float[Array, "b"]:
    """1 - TP / (TP + alpha FP + beta FN), the mean over the classes that occur in the image.

    Salehi et al. 2017: `beta` above `alpha` favours recall. Neither is a class weight.
    """
    p, truth, valid = _regions(logits, labels, ignore_label)
    hit = jnp.sum(p * truth, 1)  # b k
    false_positive = jnp.sum(p * (valid & ~truth), 1)
    false_negative = jnp.sum((1 - p) * truth, 1)
    # Clamped: with beta = 0 it is 0 where nothing is predicted.
    whole = jnp.maximum(hit + alpha * false_positive + beta * false_negative, 1e-6)
    return _mean_where(1 - hit / whole, truth.any(1))


def lovasz_softmax(
    logits: Float[Array, "b h w k"], labels: Integer[Array, "b h w"], *, ignore_label: int
) -> Float[Array, "b"]:
    """The Lovász extension of 1 - IoU, the mean over the classes that occur in the image.

    Berman et al. 2018, algorithm 1, with its options "per image" and "present".
    """
    regions = _regions(logits, labels, ignore_label)
    p, truth, valid = (jnp.swapaxes(x, 1, 2) for x in regions)  # b k n
    # Ignored pixels come last, where the IoU is 0 already and nothing changes any more.
    errors = jnp.where(valid, jnp.where(truth, 1 - p, p), -1.0)
    order = _largest_first(jax.lax.stop_gradient(errors))
    errors, truth = (jnp.take_along_axis(x, order, -1) for x in (errors, truth))
    # What 1 - IoU is if the pixels up to here are wrong, and what each of them adds to it.
    size, hit = truth.sum(-1, keepdims=True), jnp.cumsum(truth, -1)
    missed = jnp.arange(1, hit.shape[-1] + 1) - hit
    jaccard = 1 - (size - hit) / (size + missed)
    steps = jnp.diff(jaccard, axis=-1, prepend=0.0)
    return _mean_where(jnp.sum(errors * steps, -1), truth.any(-1))


def add_region(
    pixel_loss: Callable[..., Array], region_loss: Callable[..., Array], *, weight: float
) -> Callable[..., Array]:
    """Returns `(logits, labels) -> pixel_loss + weight * region_loss`."""
    return lambda logits, labels: pixel_loss(logits, labels) + weight * region_loss(logits, labels)


def adjust_logits(
    pixel_loss: Callable[..., Array], offset: Float[Array, "k"]
) -> Callable[..., Array]:
    """Returns `(logits, labels) -> pixel_loss(logits + offset, labels)`.

    With tau * log prior as `offset` it is the logit-adjusted loss (Menon et al. 2021, eq. 10).
    """
    return lambda logits, labels: pixel_loss(logits.astype(jnp.float32) + offset, labels)


def hard_pixels(
    pixel: Float[Array, "b h w"], valid: Bool[Array, "b h w"], *, share: float
) -> Float[Array, "b h w"]:
    """Returns how much each pixel counts: 1 for an image's `share` of largest losses, 0 otherwise.

    The counts sum to `share` of the valid pixels exactly, fractions included: pixels that cost as
    much as the last one that counts divide what is left for them. It is the average top-k loss of
    Fan et al. 2017, online hard example mining (Shrivastava et al. 2016) within an image. Takes
    losses of 0 or more; no gradient flows through the choice.
    """
    pixel = jax.lax.stop_gradient(jnp.where(valid & (pixel > 0), pixel, 0.0))
    order = jax.lax.bitcast_convert_type(pixel, jnp.int32)  # ordered as the floats are
    wanted = share * valid.sum((1, 2), keepdims=True)  # b 1 1
    last = _largest_with(order, wanted)
    above, at = valid & (order > last), valid & (order == last)
    rest = wanted - above.sum((1, 2), keepdims=True)
    return above + at * rest / jnp.maximum(at.sum((1, 2), keepdims=True), 1)


def _largest_with(
    values: Integer[Array, "b h w"], wanted: Float[Array, "b 1 1"]
) -> Integer[Array, "b 1 1"]:
    """The largest number that `wanted` or more of an image's values, none negative, reach.

    Found bit by bit from the highest: 6 ms for 8 images of 256x256 on a CPU, where sorting takes
    130 and `top_k` 90.
    """

    def set_bit(i, found):
        higher = found | (1 << (30 - i))
        reached = (values >= higher).sum((1, 2), keepdims=True)
        return jnp.where(reached >= wanted, higher, found)

    return jax.lax.fori_loop(0, 31, set_bit, jnp.zeros(wanted.shape, jnp.int32))


def _trust_prediction(pixel, log_p, weights, bootstrap) -> Float[Array, "b h w"]:
    """Soft bootstrapping: of the target, the share `bootstrap` is the prediction p itself.

    (1 - b) loss + b alpha_y H(p), H being the entropy (Reed et al. 2015, their "soft" form with
    beta = 1 - b).
    The gradient goes through both p, as theirs does. With the target's p held constant the
    gradient of that term is p - p = 0, and all that is left is a smaller step.
    """
    entropy = -jnp.sum(jnp.exp(log_p) * log_p, -1)
    return (1 - bootstrap) * pixel + bootstrap * weights * entropy


def _pixel_weights(labels, alpha, ignore_label) -> Float[Array, "b h w"]:
    """Each pixel's class weight; 0 where ignored."""
    valid = labels != ignore_label
    return alpha[jnp.where(valid, labels, 0)] * valid


def _targets(labels, num_classes, label_smoothing, ignore_label) -> Float[Array, "b h w k"]:
    """Smoothed one-hot codes; all 0 where ignored.

    Multiplying with them instead of indexing spares the gradient a slow scatter.
    """
    valid = labels != ignore_label
    codes = jax.nn.one_hot(labels, num_classes)
    smoothed = (1 - label_smoothing) * codes + label_smoothing / num_classes
    return smoothed * valid[..., None]


def _reduce(pixel, labels, weights, reduction, hard_share, ignore_label) -> Float[Array, "b"]:
    counts = labels != ignore_label
    if hard_share < 1:
        counts = hard_pixels(pixel, counts, share=hard_share)
        pixel = pixel * counts
    divisor = REDUCTIONS[reduction](counts, weights)
    return pixel.sum((1, 2)) / jnp.where(divisor > 0, divisor, 1)


def _regions(
    logits, labels, ignore_label
) -> tuple[Float[Array, "b n k"], Bool[Array, "b n k"], Bool[Array, "b n 1"]]:
    """Returns the probabilities, the truth and which pixels are valid, images flattened."""
    batch, *_, num_classes = logits.shape
    p = jax.nn.softmax(logits.astype(jnp.float32)).reshape(batch, -1, num_classes)
    labels = labels.reshape(batch, -1, 1)
    valid = labels != ignore_label
    return p, (labels == jnp.arange(num_classes)) & valid, valid


def _largest_first(errors: Float[Array, "b k n"]) -> Integer[Array, "b k n"]:
    """The order of errors from 1 down to 0, then of the negative ones; equal ones keep theirs.

    Errors closer than 2^-28 (2^-24 in an image of 1024x1024) may count as equal: too close to show
    in a loss in float32. A radix sort of two digits, as XLA on a CPU sorts single unsigned numbers
    in a fifth of the time that pairs of a key and a place take; a digit and a place make one.
    """
    count = errors.shape[-1]
    place_bits = max((count - 1).bit_length(), 1)
    digit_bits = min(15, 32 - place_bits)
    top = 4**digit_bits - 1
    keys = top - 1 - jnp.minimum((errors * (top + 1)).astype(jnp.int32), top - 1)
    keys = jnp.where(errors < 0, top, keys).astype(jnp.uint32)

    def places(digits):
        numbered = digits << place_bits | jnp.arange(count, dtype=jnp.uint32)
        ordered = jax.lax.sort(numbered, is_stable=False)  # no two are equal
        return (ordered & (2**place_bits - 1)).astype(jnp.int32)

    by_low = places(keys & (2**digit_bits - 1))
    by_high = places(jnp.take_along_axis(keys >> digit_bits, by_low, -1))
    return jnp.take_along_axis(by_low, by_high, -1)


def _mean_where(values: Float[Array, "b k"], present: Bool[Array, "b k"]) -> Float[Array, "b"]:
    """The mean of the values that are present, 0 where none is."""
    return jnp.sum(values * present, -1) / jnp.maximum(present.sum(-1), 1)
