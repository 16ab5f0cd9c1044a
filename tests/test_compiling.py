import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trashseg_jax.devices import compiling


@pytest.fixture
def asked_anew():
    compiling.compiler_options.cache_clear()
    yield
    compiling.compiler_options.cache_clear()


def test_options_that_this_xla_does_not_know_are_left_out(asked_anew, monkeypatch):
    known = dict(compiling.CPU_OPTIONS)
    monkeypatch.setattr(compiling, "CPU_OPTIONS", {**known, "xla_cpu_no_such_option": True})
    assert compiling.compiler_options() == known


def test_other_backends_get_no_options(asked_anew, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiling.compiler_options() == {}


def test_convolutions_with_the_options_are_those_without():
    """Forward and both derivatives, to float32's rounding."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 9, 9, 16)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 16, 8)), jnp.float32)

    def convolve(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)

    def all_three(x, kernel):
        y, gradient = jax.vjp(convolve, x, kernel)
        return y, *gradient(y)

    options = compiling.compiler_options()
    actual = jax.jit(all_three, compiler_options=options)(x, kernel)
    for a, b in zip(actual, jax.jit(all_three)(x, kernel), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))


def test_updating_in_place_changes_no_bit():
    """Adam's two moments and the weights depend on each other's old values."""

    def update(state, gradient):
        weights, first, second = state
        first_new = 0.9 * first + 0.1 * gradient
        second_new = 0.99 * second + 0.01 * gradient**2
        new = (weights - 0.1 * first_new / (jnp.sqrt(second_new) + 1e-3), first_new, second_new)
        good = jnp.isfinite(gradient.sum())
        return jax.tree.map(lambda new, old: jnp.where(good, new, old), new, state)

    rng = np.random.default_rng(0)
    start = tuple(np.abs(rng.normal(size=(3, 3, 64, 64))).astype(np.float32) for _ in range(3))
    gradients = rng.normal(size=(3, 3, 3, 64, 64)).astype(np.float32)
    ends = []
    for options in ({}, compiling.compiler_options()):
        step = jax.jit(update, donate_argnums=0, compiler_options=options)
        state = jax.tree.map(jnp.asarray, start)
        for gradient in gradients:
            state = step(state, gradient)
        ends.append(jax.device_get(state))
    jax.tree.map(np.testing.assert_array_equal, *ends)
