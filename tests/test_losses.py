import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trashseg_jax import losses

RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(RNG.normal(size=(3, 4, 5, 7)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, 7, (3, 4, 5)), jnp.uint8)


def cross_entropy(logits, labels, label_smoothing=0.0):
    return losses.cross_entropy(logits, labels, label_smoothing=label_smoothing, ignore_label=255)


def test_cross_entropy_equals_optax():
    expected = optax.softmax_cross_entropy_with_integer_labels(LOGITS, LABELS).mean((1, 2))
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS), expected, rtol=1e-5)


def test_label_smoothing_equals_optax_on_smoothed_targets():
    targets = optax.smooth_labels(jax.nn.one_hot(LABELS, 7), 0.1)
    expected = optax.softmax_cross_entropy(LOGITS, targets).mean((1, 2))
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS, 0.1), expected, rtol=1e-5)


def test_equal_logits_cost_the_logarithm_of_the_class_count():
    actual = cross_entropy(jnp.zeros_like(LOGITS), LABELS)
    np.testing.assert_allclose(actual, np.full(3, np.log(7)), rtol=1e-6)


def test_ignored_pixels_change_neither_value_nor_gradient():
    labels = LABELS.at[:, 0].set(255)
    actual = cross_entropy(LOGITS, labels)
    np.testing.assert_allclose(actual, cross_entropy(LOGITS[:, 1:], LABELS[:, 1:]), rtol=1e-6)
    gradient = jax.grad(lambda x: cross_entropy(x, labels).sum())(LOGITS)
    assert not np.any(gradient[:, 0])
    assert np.all(np.any(gradient[:, 1:], axis=-1))


def test_image_without_valid_pixels_costs_nothing():
    labels = jnp.full_like(LABELS, 255)
    value, gradient = jax.value_and_grad(lambda x: cross_entropy(x, labels).sum())(LOGITS)
    assert value == 0
    assert not np.any(gradient)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_saturated_logits_give_finite_values_and_gradients(dtype):
    logits = jnp.where(jax.nn.one_hot(LABELS, 7) > 0, -1e4, 1e4).astype(dtype)
    value, gradient = jax.value_and_grad(lambda x: cross_entropy(x, LABELS).sum())(logits)
    # Each pixel: 2e4 to the top, six classes sharing it; bfloat16 rounds 1e4 to 9984.
    top = 2 * float(jnp.asarray(1e4, dtype))
    np.testing.assert_allclose(value, 3 * (top + np.log(6)), rtol=1e-5)
    assert np.all(np.isfinite(gradient.astype(jnp.float32)))
