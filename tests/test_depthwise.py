"""Depthwise convolutions on CPUs, and their derivative, are XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trashseg_jax.models import depthwise


# Sizes on either side of SMALL; even ones, as those of all strided features are.
@pytest.mark.parametrize(
    ("shape", "size", "stride", "dilation"),
    [
        ((2, 8, 12, 5), 3, 1, 1),
        ((2, 8, 12, 5), 5, 2, 1),
        ((3, 10, 8, 4), 5, 1, 2),
        ((2, 36, 40, 3), 3, 1, 1),
        ((2, 72, 72, 2), 3, 2, 1),
        ((1, 34, 66, 2), 5, 1, 1),
    ],
)
def test_shifted_products_are_xla_s_grouped_convolution(shape, size, stride, dilation):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, 1, shape[-1])), jnp.float32)
    ends = depthwise.same_padding(size, stride=stride, dilation=dilation)
    options = (stride, dilation, (ends, ends))
    assert (shape[1] // stride * shape[2] // stride <= depthwise.SMALL) == (shape[1] < 34)

    def run(function):
        y, pull = jax.vjp(lambda x, kernel: function(x, kernel, *options), x, kernel)
        slope = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), jnp.float32)
        return y, *pull(slope)

    expected = jax.jit(lambda: run(depthwise._grouped))()
    for ours, theirs in zip(jax.jit(lambda: run(depthwise._shifted))(), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_padding_of_even_sizes_is_same(size, stride):
    """XLA's own arithmetic of 'SAME', which is TensorFlow's."""
    expected = jax.lax.padtype_to_pads((8,), (size,), (stride,), "SAME")
    assert [depthwise.same_padding(size, stride=stride, dilation=1)] == expected


def test_results_keep_the_dtype_and_gradients_are_summed_in_float32():
    x = jnp.ones((1, 64, 64, 1), jnp.bfloat16)
    kernel = jnp.ones((3, 3, 1, 1), jnp.bfloat16)

    def total(kernel):
        y = depthwise.depthwise(x, kernel, stride=1, dilation=1, padding=((1, 1), (1, 1)))
        assert y.dtype == jnp.bfloat16
        return y.astype(jnp.float32).sum()

    gradient = jax.grad(total)(kernel)
    # The middle tap meets all 4096 pixels: sums in bfloat16 end at 256.
    assert gradient.dtype == jnp.bfloat16
    assert float(gradient[1, 1, 0, 0]) == 4096
