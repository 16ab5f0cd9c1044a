"""The benchmark finds a step's convolutions, and tells gradients from what they are of."""

from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from bench import convolutions


@pytest.fixture(scope="module")
def equations():
    """Of a network of two layers: the second one's input has a gradient, the image has none."""

    @jax.jit  # within a program of its own, as parts of a step are
    def layer(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)

    def loss(kernels, image):
        return jnp.sin(layer(layer(image, kernels[0]), kernels[1])).sum()

    kernels = jnp.ones((3, 3, 2, 4)), jnp.ones((3, 3, 4, 5))
    traced = jax.jit(jax.grad(loss)).trace(kernels, jnp.ones((1, 8, 8, 2)))
    return list(convolutions.find_convolutions(traced.jaxpr.jaxpr))


def test_each_kind_is_found(equations):
    kinds = Counter(convolutions.kind_of(equation) for equation in equations)
    assert kinds == {"forward": 2, "input gradient": 1, "kernel gradient": 2}


def test_a_convolution_runs_alone_as_in_the_step(equations):
    (equation,) = [e for e in equations if convolutions.kind_of(e) == "input gradient"]
    program, operands = convolutions.prepare(equation, [v.aval for v in equation.invars])
    assert program(*operands).shape == (1, 6, 6, 4)
