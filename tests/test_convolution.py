"""Convolutions on CPUs, whose kernel's gradient is summed over strips of rows, are XLA's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench import convolutions
from trashseg_jax.models import convolution
from trashseg_jax.models.blocks import conv3

SAME = ((1, 1), (1, 1))


# Batches that fill no vector; rows that the strips do not divide, that a stride leaves out, and
# fewer than strips. Padding is that of the networks' kernels of 1, 2, 3 and 7.
@pytest.mark.parametrize(
    ("shape", "size", "stride", "dilation", "padding", "strips"),
    [
        ((4, 8, 6, 3), 3, 1, 1, SAME, 2),
        ((2, 8, 6, 3), 3, 2, 1, SAME, 4),
        ((1, 9, 7, 2), 3, 2, 1, SAME, 5),
        ((1, 12, 7, 2), 3, 1, 4, ((4, 4), (4, 4)), 8),
        ((3, 11, 7, 2), 2, 1, 1, ((1, 0), (0, 1)), 8),
        ((6, 11, 7, 2), 2, 1, 1, ((0, 1), (1, 0)), 4),
        ((2, 16, 16, 3), 7, 2, 1, ((3, 3), (3, 3)), 4),
        ((4, 7, 6, 5), 1, 2, 1, ((0, 0), (0, 0)), 2),
        ((2, 2, 2, 3), 3, 1, 1, SAME, 2),
        ((8, 4, 4, 3), 3, 1, 1, SAME, 1),
    ],
)
def test_result_and_gradients_are_xla_s(shape, size, stride, dilation, padding, strips):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, shape[-1], 4)), jnp.float32)
    options = ((stride, stride), (dilation, dilation), padding)

    def run(function):
        y, pull = jax.vjp(lambda x, kernel: function(x, kernel, *options), x, kernel)
        slope = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), jnp.float32)
        return y, *pull(slope)

    expected = jax.jit(lambda: run(convolution._convolve))()
    assert convolution.count_strips(shape[0], expected[0].shape[1]) == strips
    ours = jax.jit(lambda: run(convolution._convolve_on_cpu))()
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize("batch", range(1, 17))
def test_strips_fill_the_vectors_of_any_batch(batch):
    strips = convolution.count_strips(batch, 64)
    assert batch * strips % convolution.LANES == 0
    assert all(batch * fewer % convolution.LANES for fewer in range(1, strips))


def test_networks_take_their_gradient_from_strips():
    """Of a batch of 2 the program holds a kernel's gradient over 8 images, none over 2."""
    layer, x = conv3(4, 1, 1, dtype=jnp.float32, name="conv"), jnp.ones((2, 8, 8, 3))
    assert isinstance(layer, nn.Conv)
    variables = layer.init(jax.random.key(0), x)

    def total(variables):
        return layer.apply(variables, x).sum()

    jaxpr = jax.make_jaxpr(jax.grad(total))(variables).jaxpr
    shapes = [
        equation.invars[0].aval.shape
        for equation in convolutions.find_convolutions(jaxpr)
        if convolutions.kind_of(equation) == "kernel gradient"
    ]
    assert shapes == [(8, 4, 8, 3)]
