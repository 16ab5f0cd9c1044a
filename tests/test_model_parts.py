"""The parts that are ours where Flax has them too, against Flax's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trashseg_jax.models import normalization, pooling, upsampling


def random(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def repeated(x):
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("skip_channels", [0, 3])
@pytest.mark.parametrize("size", [(1, 1), (3, 5)])
def test_up_conv_is_the_convolution_of_repeated_pixels_beside_the_skip(
    size, skip_channels, backend, monkeypatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x = random(2, *size, 4)
    height, width = size
    skip = random(2, 2 * height, 2 * width, skip_channels, seed=1) if skip_channels else None
    plain = nn.Conv(5, (3, 3), padding=1, use_bias=False)
    variables = {"params": {"kernel": random(3, 3, 4 + skip_channels, 5, seed=2)}}

    def expected(variables, x, skip):
        joined = [repeated(x)] if skip is None else [repeated(x), skip]
        return plain.apply(variables, jnp.concatenate(joined, -1))

    def actual(variables, x, skip):
        return upsampling.UpConv(5, jnp.float32).apply(variables, x, skip)

    assert_same_values_and_gradients(actual, expected, variables, x, skip)


def test_up_conv_starts_with_the_weights_of_one_convolution():
    x, skip = random(1, 2, 2, 4), random(1, 4, 4, 3)
    init = nn.initializers.he_normal()
    plain = nn.Conv(5, (3, 3), use_bias=False, kernel_init=init)
    expected = plain.init(jax.random.key(0), jnp.concatenate([repeated(x), skip], -1))
    actual = upsampling.UpConv(5, jnp.float32).init(jax.random.key(0), x, skip)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_is_flaxs(train, dtype):
    x = (3 * random(2, 4, 5, 6) + 1).astype(dtype)
    variables = {
        "params": {"scale": random(6, seed=1), "bias": random(6, seed=2)},
        "batch_stats": {"mean": random(6, seed=3), "var": jnp.abs(random(6, seed=4)) + 0.5},
    }
    ours = normalization.BatchNorm(train=train, dtype=dtype)
    flaxs = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype)

    def outputs_of(module):
        def outputs(params, x):
            y, updated = module.apply({**variables, "params": params}, x, mutable=["batch_stats"])
            return y.astype(jnp.float32), updated["batch_stats"]

        return outputs

    actual, expected = (
        jax.vjp(outputs_of(module), variables["params"], x) for module in (ours, flaxs)
    )
    rtol = 1e-4 if dtype == jnp.float32 else 2e-2
    assert_close(actual[0], expected[0], rtol=rtol)
    gradient = (random(2, 4, 5, 6, seed=5), jax.tree.map(jnp.zeros_like, actual[0][1]))
    assert_close(actual[1](gradient), expected[1](gradient), rtol=rtol)


def test_batch_norm_starts_as_flaxs():
    x = random(2, 4, 5, 6)
    ours = normalization.BatchNorm(train=True, dtype=jnp.float32).init(jax.random.key(0), x)
    flaxs = nn.BatchNorm(use_running_average=False).init(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, ours, flaxs)


LARGE = (16, 512, 512, 2)  # the largest batches of the largest images; one running sum loses 4e-3


def relative_error(actual, expected):
    return np.abs(np.asarray(actual, np.float64) / expected - 1).max()


@pytest.mark.parametrize("shape", [(2, 4, 5, 6), (5, 301, 307, 2), (1, 1, 8191, 3), LARGE])
def test_channel_sums_are_those_of_float64(shape):
    """Of any number of pixels, multiples of what is summed at once or not."""
    x = random(*shape) ** 2
    expected = np.asarray(x, np.float64).sum((0, 1, 2))
    assert relative_error(jax.jit(normalization.channel_sums)(x), expected) < 5e-6


@pytest.mark.parametrize("shape", [(5, 301, 307, 2), LARGE])
def test_batch_moments_are_those_of_float64_ten_deviations_from_zero(shape):
    """Where a mean square less the squared mean would lose two more digits."""
    x = random(*shape) + 10
    scale, bias = jnp.ones(2), jnp.zeros(2)
    y, mean, var = jax.jit(normalization.normalize, static_argnums=3)(
        x, scale, bias, normalization.EPSILON
    )
    wide = np.asarray(x, np.float64)
    assert relative_error(mean, wide.mean((0, 1, 2))) < 5e-6
    assert relative_error(var, wide.var((0, 1, 2))) < 5e-6
    expected = (wide - wide.mean((0, 1, 2))) / wide.std((0, 1, 2))
    np.testing.assert_allclose(y, expected, atol=1e-4)


def test_channel_moments_agree_on_every_backend(monkeypatch):
    x = random(2, 4, 5, 6)
    here = normalization.channel_moments(x)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert_close(here, normalization.channel_moments(x), rtol=1e-5)


@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_max_pool_is_flaxs(size):
    x = random(2, *size, 3)

    def expected(x):
        return nn.max_pool(x, (3, 3), (2, 2), padding=[(1, 1), (1, 1)])

    assert_same_values_and_gradients(pooling.max_pool, expected, x)


def assert_same_values_and_gradients(actual, expected, *arguments):
    assert_close(actual(*arguments), expected(*arguments), rtol=1e-5)
    weights = random(*expected(*arguments).shape, seed=9)
    gradients = (
        jax.grad(lambda arguments, f=f: (f(*arguments) * weights).sum())(arguments)
        for f in (actual, expected)
    )
    assert_close(*gradients, rtol=1e-5)


def assert_close(actual, expected, *, rtol):
    def check(actual, expected):
        atol = rtol * max(float(np.abs(expected).max()), 1e-3)
        np.testing.assert_allclose(
            np.asarray(actual, np.float32), np.asarray(expected, np.float32), rtol, atol
        )

    jax.tree.map(check, actual, expected)
