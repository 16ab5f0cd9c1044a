import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trashseg_jax import losses

RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(2 * RNG.normal(size=(3, 4, 5, 7)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, 7, (3, 4, 5)), jnp.uint8)
ALPHA = jnp.asarray([1, 3, 1, 14, 17, 0, 148], jnp.float32)
SOME_IGNORED = LABELS.at[:, 0].set(255)


def cross_entropy(logits, labels, **options):
    defaults = {"alpha": jnp.ones(7), "label_smoothing": 0.0, "bootstrap": 0.0}
    defaults |= {"hard_share": 1.0, "reduction": "mean"}
    return losses.cross_entropy(logits, labels, **{**defaults, "ignore_label": 255, **options})


def focal(logits, labels, **options):
    defaults = {"gamma": 2.0, "alpha": jnp.ones(7), "label_smoothing": 0.0}
    defaults |= {"hard_share": 1.0, "reduction": "mean"}
    return losses.focal_loss(logits, labels, **{**defaults, "ignore_label": 255, **options})


def dice(logits, labels):
    return losses.dice_loss(logits, labels, ignore_label=255)


def tversky(logits, labels, alpha=0.3, beta=0.7):
    return losses.tversky_loss(logits, labels, alpha=alpha, beta=beta, ignore_label=255)


def lovasz(logits, labels):
    return losses.lovasz_softmax(logits, labels, ignore_label=255)


ALL = {"cross_entropy": cross_entropy, "dice": dice, "tversky": tversky, "lovasz": lovasz}
ALL |= {
    "hard pixels": partial(cross_entropy, hard_share=0.3),
    "hard pixels, focal": partial(focal, hard_share=0.3, alpha=ALPHA, reduction="alpha"),
    "bootstrap": partial(cross_entropy, bootstrap=0.4),
    "bootstrap, hard pixels": partial(cross_entropy, bootstrap=0.4, hard_share=0.3),
    "adjusted": losses.adjust_logits(cross_entropy, jnp.log(jnp.arange(1.0, 8.0) / 28)),
}
ALL |= {
    f"focal, gamma {gamma}, {reduction}": lambda logits, labels, g=gamma, r=reduction: focal(
        logits, labels, gamma=g, alpha=ALPHA, reduction=r
    )
    for gamma, reduction in itertools.product([0.0, 0.5, 2.0, 5.0], losses.REDUCTIONS)
}
every_loss = pytest.mark.parametrize("loss", ALL.values(), ids=ALL.keys())


def softmax(logits):
    """In float64, for the transcriptions below."""
    powers = np.exp(np.asarray(logits, np.float64))
    return powers / powers.sum(-1, keepdims=True)


def test_cross_entropy_equals_optax():
    expected = optax.softmax_cross_entropy_with_integer_labels(LOGITS, LABELS).mean((1, 2))
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS), expected, rtol=1e-5)


def test_label_smoothing_equals_optax_on_smoothed_targets():
    targets = optax.smooth_labels(jax.nn.one_hot(LABELS, 7), 0.1)
    expected = optax.softmax_cross_entropy(LOGITS, targets).mean((1, 2))
    actual = cross_entropy(LOGITS, LABELS, label_smoothing=0.1)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_equal_logits_cost_the_logarithm_of_the_class_count():
    actual = cross_entropy(jnp.zeros_like(LOGITS), LABELS)
    np.testing.assert_allclose(actual, np.full(3, np.log(7)), rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_of_gamma_zero_is_cross_entropy(smoothing):
    targets = optax.smooth_labels(jax.nn.one_hot(LABELS, 7), smoothing)
    expected = optax.softmax_cross_entropy(LOGITS, targets).mean((1, 2))
    actual = focal(LOGITS, LABELS, gamma=0.0, label_smoothing=smoothing)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_equals_its_formula(gamma):
    """-alpha_y (1 - p_y)^gamma log p_y, pixel by pixel; the ignored ones count nowhere."""
    p = softmax(LOGITS)
    for image in range(3):
        pixels, alphas = [], []
        for row, column in np.ndindex(4, 5):
            y = int(SOME_IGNORED[image, row, column])
            if y != 255:
                p_y = p[image, row, column, y]
                pixels.append(-ALPHA[y] * (1 - p_y) ** gamma * np.log(p_y))
                alphas.append(ALPHA[y])
        for reduction, divisor in (("mean", 15), ("alpha", sum(alphas))):
            actual = focal(LOGITS, SOME_IGNORED, gamma=gamma, alpha=ALPHA, reduction=reduction)
            np.testing.assert_allclose(actual[image], sum(pixels) / divisor, rtol=1e-5)


def test_focal_stays_exact_for_pixels_that_are_nearly_right():
    """Two classes, 8 apart: 1 - p = 1 / (1 + e^8), 3e-4, far above where the power is clamped."""
    logits = jnp.array([[[[8.0, 0.0]]]])
    rest = 1 / (1 + np.exp(8.0))
    actual = focal(logits, jnp.zeros((1, 1, 1), int), gamma=2.0, alpha=jnp.ones(2))
    np.testing.assert_allclose(actual, -(rest**2) * np.log1p(-rest), rtol=1e-3)


@pytest.mark.parametrize("gamma", [2.0, 5.0])
def test_reference_reduction_equals_the_references_formula(gamma):
    """p = softmax + 1e-8; the mean over all pixels. At these logits the 1e-8 decides."""
    logits = LOGITS.at[0].multiply(20)
    p = softmax(logits) + 1e-8
    p_y = np.take_along_axis(p, np.asarray(LABELS, int)[..., None], -1)[..., 0]
    pixel = -np.asarray(ALPHA)[LABELS] * (1 - p_y) ** gamma * np.log(p_y)
    actual = focal(logits, LABELS, gamma=gamma, alpha=ALPHA, reduction="reference")
    np.testing.assert_allclose(actual, pixel.mean((1, 2)), rtol=1e-5)
    plain = focal(logits, LABELS, gamma=gamma, alpha=ALPHA)
    assert plain[0] > 1.05 * actual[0]  # where a p is below 1e-8
    np.testing.assert_allclose(plain[1:], actual[1:], rtol=1e-4)


@pytest.mark.parametrize("loss", [cross_entropy, focal])
def test_reference_reduction_divides_by_the_ignored_pixels_too(loss):
    actual = loss(LOGITS, SOME_IGNORED, reduction="reference")
    expected = loss(LOGITS[:, 1:], LABELS[:, 1:]) * 15 / 20
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_equals_keras(smoothing):
    keras = pytest.importorskip("keras")
    expected = keras.losses.categorical_focal_crossentropy(
        jax.nn.one_hot(LABELS, 7),
        LOGITS,
        alpha=np.asarray(ALPHA),
        gamma=2.0,
        from_logits=True,
        label_smoothing=smoothing,
    )
    actual = focal(LOGITS, LABELS, alpha=ALPHA, label_smoothing=smoothing)
    np.testing.assert_allclose(actual, np.asarray(expected).mean((1, 2)), rtol=1e-5)


@pytest.mark.parametrize("loss", [cross_entropy, focal])
def test_alpha_reduction_does_not_depend_on_alphas_scale(loss):
    actual = loss(LOGITS, SOME_IGNORED, alpha=10 * ALPHA, reduction="alpha")
    expected = loss(LOGITS, SOME_IGNORED, alpha=ALPHA, reduction="alpha")
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_alpha_weighs_each_pixel_by_its_class():
    pixel = optax.softmax_cross_entropy_with_integer_labels(LOGITS, LABELS)
    expected = (ALPHA[LABELS] * pixel).mean((1, 2))
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS, alpha=ALPHA), expected, rtol=1e-5)


# Hard pixels.


def pixel_losses(labels, alpha=ALPHA):
    """A list for each image: the weighted cross-entropies of its valid pixels, and their alphas."""
    codes = jax.nn.one_hot(labels, 7)
    plain = np.asarray(optax.softmax_cross_entropy(LOGITS, codes))
    for pixel, y in zip(plain, np.asarray(labels), strict=True):
        alphas = np.asarray(alpha)[y[y != 255]]
        yield pixel[y != 255] * alphas, alphas


@pytest.mark.parametrize("loss", [cross_entropy, partial(focal, gamma=0.0)])
@pytest.mark.parametrize("share", [1 / 15, 0.4, 14 / 15])
def test_hard_pixels_are_the_largest_losses_of_the_valid_ones(loss, share):
    """Of 15 valid pixels, sorted; the reductions divide by what counts."""
    number = round(15 * share)
    for reduction in ("mean", "alpha"):
        actual = loss(LOGITS, SOME_IGNORED, alpha=ALPHA, hard_share=share, reduction=reduction)
        expected = []
        for pixel, alphas in pixel_losses(SOME_IGNORED):
            hard = np.argsort(-pixel)[:number]
            divisor = number if reduction == "mean" else alphas[hard].sum()
            expected.append(pixel[hard].sum() / divisor)
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("share", [0.01, 0.333, 0.5, 0.97])
def test_mean_of_the_hard_pixels_is_the_conditional_value_at_risk(share):
    """min over t of t + mean(max(l - t, 0)) / share, whose best t is one of the losses.

    Rockafellar & Uryasev 2000, theorem 1. Alpha is 0 for a class: ties at 0; and whole rows tie.
    """
    alpha = ALPHA.at[2:].set(0)
    logits = LOGITS.at[:, 2].set(LOGITS[:, 2, :1]).at[:, 2:].set(0)
    plain = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS)
    pixel = np.asarray(plain * alpha[LABELS]).reshape(3, 20)
    assert all(len(set(row.tolist())) < 16 for row in pixel)
    expected = [
        min(t + np.maximum(row - t, 0).mean() / share for t in row.tolist()) for row in pixel
    ]
    actual = cross_entropy(logits, LABELS, alpha=alpha, hard_share=share)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_equal_losses_divide_what_counts_among_them():
    """One of 5 costs most; of the 2.5 that count, the three next share 1.5."""
    pixel = jnp.array([[[2.0, 7.0, 2.0, 2.0, 1.0, 9.0]]])
    valid = jnp.array([[[True, True, True, True, True, False]]])
    counts = losses.hard_pixels(pixel, valid, share=0.5)
    np.testing.assert_allclose(counts, [[[0.5, 1, 0.5, 0.5, 0, 0]]], rtol=1e-6)


def test_pixels_that_do_not_count_have_no_gradient_and_the_others_have_theirs():
    gradient = jax.grad(lambda x: cross_entropy(x, LABELS, hard_share=0.25).sum())(LOGITS)
    plain = jax.grad(lambda x: cross_entropy(x, LABELS).sum())(LOGITS)
    pixel = np.asarray(optax.softmax_cross_entropy_with_integer_labels(LOGITS, LABELS))
    hard = np.stack([row >= np.sort(row.ravel())[-5] for row in pixel])
    np.testing.assert_allclose(gradient, 4 * plain * hard[..., None], rtol=1e-5)


def test_loss_of_a_pixel_that_is_not_a_number_is_not_passed_over():
    logits = LOGITS.at[0, 0, 0].set(jnp.nan)
    actual = cross_entropy(logits, LABELS, hard_share=0.1)
    assert np.isnan(actual).tolist() == [True, False, False]


# Bootstrap.


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_bootstrap_equals_optax_on_targets_mixed_with_the_prediction(share):
    targets = (1 - share) * jax.nn.one_hot(LABELS, 7) + share * jax.nn.softmax(LOGITS)
    pixel = optax.softmax_cross_entropy(LOGITS, targets)
    actual = cross_entropy(LOGITS, LABELS, bootstrap=share)
    np.testing.assert_allclose(actual, pixel.mean((1, 2)), rtol=1e-5)
    weighted = cross_entropy(LOGITS, LABELS, bootstrap=share, alpha=ALPHA)
    np.testing.assert_allclose(weighted, (ALPHA[LABELS] * pixel).mean((1, 2)), rtol=1e-5)


def test_bootstrap_gradient_sharpens_the_prediction():
    """(1 - b) (p - t) - b p (log p + H): a constant target p would leave the first term alone."""
    p = softmax(LOGITS)
    entropy = -(p * np.log(p)).sum(-1, keepdims=True)
    labelled = 0.7 * (p - np.eye(7)[np.asarray(LABELS)])
    expected = (labelled - 0.3 * p * (np.log(p) + entropy)) / 20
    actual = jax.grad(lambda x: cross_entropy(x, LABELS, bootstrap=0.3).sum())(LOGITS)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-7)


# Logit adjustment.

PRIORS = np.array([0.7, 0.1, 0.1, 0.05, 0.03, 0.015, 0.005])


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_adjusted_loss_equals_its_formula(tau):
    """log(1 + sum over other classes of (prior / prior_y)^tau e^(f - f_y)); Menon 2021, eq. 10."""
    adjusted = losses.adjust_logits(cross_entropy, jnp.asarray(tau * np.log(PRIORS), jnp.float32))
    f, y = np.asarray(LOGITS, np.float64), np.asarray(LABELS, int)[..., None]
    margins = (PRIORS / PRIORS[y]) ** tau * np.exp(f - np.take_along_axis(f, y, -1))
    others = np.where(np.arange(7) == y, 0, margins).sum(-1)
    expected = np.log1p(others).mean((1, 2))
    np.testing.assert_allclose(adjusted(LOGITS, LABELS), expected, rtol=1e-5)


def test_best_logits_of_the_adjusted_loss_are_those_of_equally_common_classes():
    """Where they are log P(x | y), the gradient of the mean over the labels that occur is 0."""
    posterior = np.random.default_rng(1).dirichlet(np.ones(7))  # P(y | x) at one pixel
    likelihood = jnp.asarray(np.log(posterior / PRIORS), jnp.float32)
    adjusted = losses.adjust_logits(cross_entropy, jnp.asarray(np.log(PRIORS), jnp.float32))

    def expected_loss(logits):
        each = jnp.tile(logits, (7, 1, 1, 1))  # one image for each label
        return adjusted(each, jnp.arange(7)[:, None, None]) @ jnp.asarray(posterior)

    np.testing.assert_allclose(jax.grad(expected_loss)(likelihood), np.zeros(7), atol=1e-6)


# Region terms.


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.7), (1.0, 1.0), (0.5, 0.5)])
def test_tversky_equals_its_definition_class_by_class(alpha, beta):
    p, labels = softmax(LOGITS), np.asarray(SOME_IGNORED)
    for image, actual in enumerate(tversky(LOGITS, SOME_IGNORED, alpha, beta)):
        terms = []
        for c in set(labels[image][labels[image] != 255].tolist()):
            tp = fp = fn = 0.0
            for row, column in np.ndindex(4, 5):
                p_c, y = p[image, row, column, c], labels[image, row, column]
                tp += p_c * (y == c)
                fn += (1 - p_c) * (y == c)
                fp += p_c * (y not in (c, 255))
            terms.append(1 - tp / (tp + alpha * fp + beta * fn))
        np.testing.assert_allclose(actual, np.mean(terms), rtol=1e-5)


def test_dice_of_hard_predictions_is_one_minus_f1():
    """By hand: truth AAAB, prediction AABB: A has F1 4/5, B 2/3."""
    labels = jnp.array([[[0, 0], [0, 1]]])
    logits = 1e4 * jax.nn.one_hot(jnp.array([[[0, 0], [1, 1]]]), 3)
    np.testing.assert_allclose(dice(logits, labels), [1 - (4 / 5 + 2 / 3) / 2], rtol=1e-6)


def test_dice_equals_its_definition():
    p = softmax(LOGITS).reshape(3, 20, 7)
    truth = np.eye(7)[np.asarray(LABELS)].reshape(3, 20, 7)
    scores = 2 * (p * truth).sum(1) / (p.sum(1) + truth.sum(1))
    expected = [1 - s[t.any(0)].mean() for s, t in zip(scores, truth, strict=True)]
    np.testing.assert_allclose(dice(LOGITS, LABELS), expected, rtol=1e-5)


def lovasz_of_sets(errors, truth):
    """The extension of Jaccard's set function: sum of errors times what each pixel adds to it.

    Berman et al. 2018, eq. 6 and definition 1: with M mispredicted, |M| / |truth or M|.
    """

    def jaccard(mispredicted):
        union = {i for i, t in enumerate(truth) if t} | mispredicted
        return len(mispredicted) / len(union)

    total, seen = 0.0, set()
    for i in sorted(range(len(errors)), key=lambda i: -errors[i]):
        total += errors[i] * (jaccard(seen | {i}) - jaccard(seen))
        seen.add(i)
    return total


def test_lovasz_equals_the_extension_of_its_set_function():
    p, labels = softmax(LOGITS), np.asarray(SOME_IGNORED)
    for image, actual in enumerate(lovasz(LOGITS, SOME_IGNORED)):
        valid = labels[image] != 255
        y, p_image = labels[image][valid], p[image][valid]
        terms = [lovasz_of_sets(np.abs((y == c) - p_image[:, c]).tolist(), y == c) for c in set(y)]
        np.testing.assert_allclose(actual, np.mean(terms), rtol=1e-5)


def test_lovasz_of_hard_predictions_is_one_minus_mean_iou():
    prediction = RNG.integers(0, 7, LABELS.shape)
    labels = np.asarray(SOME_IGNORED)
    expected = []
    for y, z in zip(labels, prediction, strict=True):
        y, z = y[y != 255], z[y != 255]
        ious = [((y == c) & (z == c)).sum() / ((y == c) | (z == c)).sum() for c in set(y)]
        expected.append(1 - np.mean(ious))
    actual = lovasz(1e4 * jax.nn.one_hot(prediction, 7), SOME_IGNORED)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_lovasz_gradient_equals_finite_differences():
    """Along a random direction; no two errors are the same, so it is smooth here."""
    direction = jnp.asarray(RNG.normal(size=LOGITS.shape), jnp.float32)
    _, slope = jax.jvp(lambda x: lovasz(x, LABELS).sum(), (LOGITS,), (direction,))
    ahead, behind = (lovasz(LOGITS + s * direction, LABELS).sum() for s in (1e-2, -1e-2))
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-2, rtol=2e-2)


@pytest.mark.parametrize("count", [1, 2, 33, 300_000])
def test_lovasz_order_is_that_of_a_stable_sort(count):
    """Errors are multiples of 2^-10, many of them equal; -1 marks ignored pixels."""
    errors = np.random.default_rng(2).integers(0, 1025, (2, 1, count)).astype(np.float32) / 1024
    errors[..., ::7] = -1
    actual = losses._largest_first(jnp.asarray(errors))
    np.testing.assert_array_equal(actual, np.argsort(-errors, -1, kind="stable"))


def test_region_term_is_added_with_its_weight():
    loss = losses.add_region(cross_entropy, dice, weight=0.3)
    expected = cross_entropy(LOGITS, LABELS) + 0.3 * dice(LOGITS, LABELS)
    np.testing.assert_allclose(loss(LOGITS, LABELS), expected, rtol=1e-6)


@every_loss
def test_ignored_pixels_change_neither_value_nor_gradient(loss):
    other = LOGITS.at[:, 0].multiply(-3)
    np.testing.assert_allclose(loss(LOGITS, SOME_IGNORED), loss(other, SOME_IGNORED), rtol=1e-6)
    gradient = jax.grad(lambda x: loss(x, SOME_IGNORED).sum())(LOGITS)
    assert not np.any(gradient[:, 0])
    assert np.any(gradient[:, 1:])


@pytest.mark.parametrize("loss", [cross_entropy, focal, dice, tversky, lovasz])
def test_ignoring_pixels_equals_leaving_them_out(loss):
    actual = loss(LOGITS, SOME_IGNORED)
    np.testing.assert_allclose(actual, loss(LOGITS[:, 1:], LABELS[:, 1:]), rtol=1e-5)


@every_loss
def test_image_without_valid_pixels_costs_nothing(loss):
    labels = LABELS.at[1].set(255)
    value, gradient = jax.value_and_grad(lambda x: loss(x, labels)[1])(LOGITS)
    assert value == 0
    assert not np.any(gradient)


@every_loss
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_saturated_logits_give_finite_values_and_gradients(loss, dtype):
    wrong = jnp.where(jax.nn.one_hot(LABELS, 7) > 0, -1e4, 1e4).astype(dtype)
    values = []
    for logits in (wrong, -wrong):
        value, gradient = jax.value_and_grad(lambda x: loss(x, LABELS).sum())(logits)
        assert value.dtype == jnp.float32
        assert np.all(np.isfinite(gradient.astype(jnp.float32)))
        values.append(value)
    assert np.isfinite(values[0])
    assert values[0] > 2.99  # of three images: a region term's largest value
    assert abs(values[1]) < 1e-6


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_saturated_and_wrong_pixels_still_cost_their_distance(dtype):
    """Each pixel: 2e4 to the top, six classes sharing it; bfloat16 rounds 1e4 to 9984."""
    logits = jnp.where(jax.nn.one_hot(LABELS, 7) > 0, -1e4, 1e4).astype(dtype)
    top = 2 * float(jnp.asarray(1e4, dtype))
    for loss in (cross_entropy, focal):
        expected = np.full(3, top + np.log(6))
        np.testing.assert_allclose(loss(logits, LABELS), expected, rtol=1e-5)


def test_tversky_without_weight_on_misses_is_finite_where_nothing_is_predicted():
    logits = jnp.where(jax.nn.one_hot(LABELS, 7) > 0, -1e4, 1e4)
    value, gradient = jax.value_and_grad(lambda x: tversky(x, LABELS, 0.0, 0.0).sum())(logits)
    assert value == 3
    assert np.all(np.isfinite(gradient))
