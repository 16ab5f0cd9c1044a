"""What a calibration does to logits: against closed forms, and what is stored of it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from trashseg_jax import alphas, losses
from trashseg_jax.errors import InputError
from trashseg_jax.refine import calibration, likelihood
from trashseg_jax.refine.calibration import Calibration

CLASSES = ("Background", "Paper", "Battery")
IDENTITY = Calibration(
    classes=CLASSES,
    method="prior",
    gamma=0.0,
    log_weight=(0.0, 0.0, 0.0),
    strength=0.0,
    temperature=1.0,
    bias=(0.0, 0.0, 0.0),
    dataset="demo",
    split="val",
    images="even",
    num_images=50,
    step=1000,
)
ALPHA = np.array([1.0, 3.0, 142.0])
RNG = np.random.default_rng(0)
# Where an x is one of 40, everything is a finite sum: p(x, y), and so p(y | x).
JOINT = RNG.dirichlet(np.full(120, 0.3)).reshape(40, 3)
POSTERIOR = JOINT / JOINT.sum(1, keepdims=True)


def prior_correction(log_weight, **changes):
    values = {"log_weight": tuple(np.asarray(log_weight).tolist()), "strength": 1.0}
    return dataclasses.replace(IDENTITY, **values, **changes)


def gradient_of_risk(logits, posterior, pixel_loss):
    """The gradient of the expected loss by the logits of each x; zero where they minimise it."""
    labels = jnp.arange(3, dtype=jnp.int32)[:, None, None]

    def risk(one, given):
        repeated = jnp.broadcast_to(one, (3, 1, 1, 3))
        return (given * pixel_loss(repeated, labels)).sum()

    return jax.vmap(jax.grad(risk))(jnp.asarray(logits, jnp.float32), jnp.asarray(posterior))


def cross_entropy(logits, labels):
    options = {"label_smoothing": 0.0, "bootstrap": 0.0, "hard_share": 1.0, "reduction": "mean"}
    alpha = jnp.asarray(ALPHA, jnp.float32)
    return losses.cross_entropy(logits, labels, alpha=alpha, ignore_label=255, **options)


def focal_loss(logits, labels, *, gamma):
    options = {"label_smoothing": 0.0, "hard_share": 1.0, "reduction": "mean"}
    alpha = jnp.asarray(ALPHA, jnp.float32)
    return losses.focal_loss(logits, labels, gamma=gamma, alpha=alpha, ignore_label=255, **options)


def test_at_strength_1_the_posterior_comes_back_from_the_minimiser_of_weighted_cross_entropy():
    """In closed form log(alpha_y p(y|x)) + c is the minimiser: our loss has no gradient there."""
    minimiser = np.log(ALPHA * POSTERIOR) + RNG.normal(size=(40, 1))
    risk = gradient_of_risk(minimiser, POSTERIOR, cross_entropy)
    np.testing.assert_allclose(risk, 0, atol=1e-5 * ALPHA.max())
    natural = JOINT.sum(0)
    weight = alphas.log_effective_weights(ALPHA, natural, natural, logit_adjustment=0.0)
    probs = jax.nn.softmax(prior_correction(weight).apply(jnp.asarray(minimiser)))
    np.testing.assert_allclose(probs, POSTERIOR, rtol=2e-4, atol=1e-6)


def test_at_strength_1_the_posterior_comes_back_after_resampling():
    """Images of one pixel and class each are drawn by their weights, as sampling draws them."""
    natural = JOINT.sum(0)
    pixels = np.eye(3, dtype=np.int64)
    image_weights = natural * np.array([0.5, 2.0, 30.0])
    priors = alphas.class_priors(pixels, image_weights, by_image=True)
    resampled = JOINT * (priors / natural)  # p(x | y) is as it was
    minimiser = np.log(ALPHA * resampled / resampled.sum(1, keepdims=True))
    weight = alphas.log_effective_weights(ALPHA, priors, natural, logit_adjustment=0.0)
    probs = jax.nn.softmax(prior_correction(weight).apply(jnp.asarray(minimiser)))
    np.testing.assert_allclose(probs, POSTERIOR, rtol=2e-4, atol=1e-6)


def test_at_strength_1_the_posterior_comes_back_from_adjusted_logits():
    """Menon et al. 2021: softmax(f + tau log prior) is the posterior, and f predicts."""
    natural = JOINT.sum(0)
    logits = np.log(POSTERIOR) - 1.5 * np.log(natural)
    weight = alphas.log_effective_weights(np.ones(3), natural, natural, logit_adjustment=1.5)
    probs = jax.nn.softmax(prior_correction(weight).apply(jnp.asarray(logits)))
    np.testing.assert_allclose(probs, POSTERIOR, rtol=2e-4, atol=1e-6)


def test_a_class_that_the_training_lacks_is_left_alone():
    alpha, priors = np.array([1.0, 0.0, 2.0]), np.array([0.5, 0.5, 0.0])
    weight = alphas.log_effective_weights(alpha, priors, np.full(3, 1 / 3), logit_adjustment=1.0)
    np.testing.assert_allclose(weight, [np.log(1.5) - np.log(0.5), 0, 0])


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_undone_logits_are_of_the_posterior_that_the_focal_loss_is_minimised_for(gamma):
    """Any logits minimise our focal loss for some posterior; for this one its gradient is 0."""
    logits = jnp.asarray(RNG.normal(size=(200, 3)) * 3, jnp.float32)
    weighted = calibration.undo_focal(logits, gamma=gamma)
    posterior = jax.nn.softmax(weighted - jnp.log(jnp.asarray(ALPHA, jnp.float32)))

    def loss(logits, labels):
        return focal_loss(logits, labels, gamma=gamma)

    risk = gradient_of_risk(logits, posterior, loss)
    scale = gradient_of_risk(logits, jnp.full((200, 3), 1 / 3), loss)
    assert np.abs(risk).max() < 1e-3 * np.abs(scale).max()
    # Not so for what is not undone, or for another gamma.
    plain = jax.nn.softmax(logits - jnp.log(jnp.asarray(ALPHA, jnp.float32)))
    assert np.abs(gradient_of_risk(logits, plain, loss)).max() > 0.02 * np.abs(scale).max()


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_undoing_the_focal_loss_keeps_the_order_of_the_classes_and_stays_finite(gamma):
    logits = jnp.asarray(np.concatenate([RNG.normal(size=(99, 11)) * s for s in (1, 10, 1e4)]))
    undone = calibration.undo_focal(logits, gamma=gamma)
    assert np.isfinite(undone).all()
    np.testing.assert_array_equal(jnp.argmax(undone, -1), jnp.argmax(logits, -1))


def test_gamma_0_and_strength_0_change_nothing():
    logits = jnp.asarray(RNG.normal(size=(4, 5, 3)), jnp.float32)
    weight = tuple(np.log(ALPHA).tolist())
    same = dataclasses.replace(IDENTITY, log_weight=weight).apply(logits)
    np.testing.assert_array_equal(same, logits)
    assert calibration.calibrated(logits, None) is logits


def test_temperature_and_bias_come_after_the_prior():
    """(z - s w) / T + b, by hand."""
    found = prior_correction([1.0, 2.0, 4.0], temperature=2.0, bias=(0.5, 0.0, -0.5))
    np.testing.assert_allclose(found.apply(jnp.array([1.0, 4.0, 8.0])), [0.5, 1.0, 1.5])


# What is fitted by likelihood.


def draw_labels(logits, rng):
    probs = np.exp(likelihood.log_softmax(logits))
    return np.array([rng.choice(probs.shape[1], p=row) for row in probs])


def test_temperature_and_bias_of_a_known_posterior_are_found():
    """Labels drawn from softmax(z / 2 + b); the standard errors at 20,000 are about 0.03."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(20_000, 3)) * 3
    bias = np.array([0.7, 0.1, -0.8])
    labels = draw_labels(logits / 2 + bias, rng)
    found = likelihood.fit(logits, labels, bias=True)
    assert found.temperature == pytest.approx(2.0, rel=0.06)
    np.testing.assert_allclose(found.bias, bias, atol=0.1)


@pytest.mark.parametrize("bias", [False, True])
def test_the_fit_is_where_another_optimizer_finds_it(bias):
    """SciPy's BFGS on the same likelihood, its gradient by differences."""
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(300, 4)) * 2
    labels = draw_labels(logits / 1.7 + [0.5, 0, 0, -0.5], rng)

    def loss(theta):
        scaled = logits * theta[0] + (theta[1:] if bias else 0.0)
        return -scipy.special.log_softmax(scaled, 1)[np.arange(300), labels].mean()

    theta = scipy.optimize.minimize(loss, [1.0, 0, 0, 0, 0], method="BFGS").x
    found = likelihood.fit(logits, labels, bias=bias)
    assert found.temperature == pytest.approx(1 / theta[0], rel=1e-4)
    np.testing.assert_allclose(found.bias, theta[1:] - theta[1:].mean(), atol=1e-4)


def test_a_class_without_labels_keeps_its_bias_and_hopeless_logits_a_temperature():
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(500, 3))
    found = likelihood.fit(logits, rng.integers(0, 2, 500), bias=True)
    assert found.bias[2] == 0
    assert found.bias[:2].sum() == pytest.approx(0, abs=1e-9)
    # Labels that are always those of the smallest logit: the best factor would be negative.
    worst = likelihood.fit(logits, logits.argmin(1), bias=False)
    assert worst.temperature == pytest.approx(likelihood.HIGHEST)
    # And always those of the largest: infinitely sure.
    best = likelihood.fit(logits, logits.argmax(1), bias=False)
    assert best.temperature < 0.05


# What is stored.

FITTED = prior_correction(np.log(ALPHA), temperature=1.25, bias=(0.25, 0.0, -0.25), gamma=2.0)


def write_file(folder, content):
    path = folder / calibration.FILE
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_what_is_written_is_read_back(tmp_path):
    write_file(tmp_path, {"calibration": FITTED.to_json(), "two_fold": {}})
    assert calibration.of_run(tmp_path, classes=CLASSES, step=1000) == FITTED
    assert calibration.of_run(tmp_path / "elsewhere", classes=CLASSES, step=1000) is None


def test_the_digest_is_of_everything():
    others = {dataclasses.replace(FITTED, **{key: value}).digest() for key, value in CHANGES}
    assert len(others | {FITTED.digest()}) == len(CHANGES) + 1


CHANGES = [
    ("classes", ("Background", "Battery", "Paper")),
    ("gamma", 1.0),
    ("log_weight", (0.0, 1.0, 2.0)),
    ("strength", 0.5),
    ("temperature", 1.0),
    ("bias", (0.0, 0.0, 0.0)),
    ("split", "train"),
]
REFUSALS = {
    "was fitted for the classes": {"classes": ["Background", "Battery", "Paper"]},
    "'temperature' is 0; it must be a number above 0": {"temperature": 0},
    "'gamma' is -1": {"gamma": -1},
    "'method' is 'magic'; it must be one of temperature": {"method": "magic"},
    "'bias' is .* it must be a list of 3 numbers, one a class": {"bias": [0.0, 0.0]},
    "'log_weight' is .* each a number from -1000 to 1000": {"log_weight": [0.0, "x", 0.0]},
    "'split' is 3; it must be text": {"split": 3},
    "'step' is True": {"step": True},
    "the calibration has .*it must have classes, method": {"surplus": 1},
}


@pytest.mark.parametrize("said", REFUSALS)
def test_a_file_that_is_wrong_is_refused_by_key_value_and_rule(tmp_path, said):
    path = write_file(tmp_path, {"calibration": {**FITTED.to_json(), **REFUSALS[said]}})
    with pytest.raises(InputError, match=rf"calibration\.json.*{said}"):
        calibration.read(path, classes=CLASSES)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"calibration": 3}'])
def test_a_file_that_is_no_calibration_is_refused(tmp_path, content):
    with pytest.raises(InputError, match=r"calibration\.json: .*calibrate the run again"):
        calibration.read(write_file(tmp_path, content), classes=CLASSES)


def test_a_file_of_another_step_is_refused(tmp_path):
    write_file(tmp_path, {"calibration": FITTED.to_json()})
    with pytest.raises(InputError, match=r"weights of step 1000, and these are of step 1250"):
        calibration.of_run(tmp_path, classes=CLASSES, step=1250)
