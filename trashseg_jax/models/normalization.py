"""Batch normalisation with a derivative of its own."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trashseg_jax.devices.compiling import on_cpu

MOMENTUM = 0.9  # 0.1 in PyTorch's terms
EPSILON = 1e-5  # PyTorch's
# How CPUs sum pixels: the longer a running sum, the more digits it loses.
STRIPES = 8  # of an image that are added first
ROWS = 4096  # that a product then adds


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe & Szegedy 2015), with the variables of Flax's.

    Moments are taken in float32 over the whole batch, on however many devices it lies. The result
    has `dtype`.
    """

    train: bool
    dtype: Any
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        var = self.variable("batch_stats", "var", jnp.ones, channels)
        if not self.train:
            gain = scale * jax.lax.rsqrt(var.value + self.epsilon)
            return ((x - mean.value) * gain + bias).astype(self.dtype)
        normalized: Any = normalize(x.astype(self.dtype), scale, bias, self.epsilon)
        y, batch_mean, batch_var = normalized
        if not self.is_initializing():
            mean.value = MOMENTUM * mean.value + (1 - MOMENTUM) * batch_mean
            var.value = MOMENTUM * var.value + (1 - MOMENTUM) * batch_var
        return y


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize(
    x: Float[Array, "b h w c"], scale: Float[Array, "c"], bias: Float[Array, "c"], epsilon: float
) -> tuple[Float[Array, "b h w c"], Float[Array, "c"], Float[Array, "c"]]:
    """Returns the normalised `x`, and its mean and biased variance, which pass no gradient on."""
    return _normalize(x, scale, bias, epsilon)[0]


def _normalize(x, scale, bias, epsilon):
    wide = x.astype(jnp.float32)
    mean, var = channel_moments(wide)
    inverse = jax.lax.rsqrt(var + epsilon)
    y = (wide - mean) * (inverse * scale) + bias
    return (y.astype(x.dtype), mean, var), (x, scale, mean, inverse)


def _normalize_gradient(epsilon, residuals, gradients):
    """The derivative as in Ioffe & Szegedy 2015, section 3, with the sums over the batch first."""
    del epsilon
    x, scale, mean, inverse = residuals
    count = x.size // x.shape[-1]
    gradient = gradients[0].astype(jnp.float32)
    normal = (x.astype(jnp.float32) - mean) * inverse
    of_bias = channel_sums(gradient)
    of_scale = channel_sums(gradient * normal)
    centered = gradient - (of_bias + normal * of_scale) / count
    return (centered * (scale * inverse)).astype(x.dtype), of_scale, of_bias


normalize.defvjp(_normalize, _normalize_gradient)


def channel_moments(x: Float[Array, "b h w c"]) -> tuple[Float[Array, "c"], Float[Array, "c"]]:
    """Returns the mean and the biased variance over all but the channels.

    Accelerators take both in one reading of `x`, which loses digits where the mean is large against
    the deviation. CPUs store the squares in any case, so there those around the mean cost no more.
    """
    count = x.size // x.shape[-1]
    mean = channel_sums(x) / count
    if on_cpu():
        return mean, channel_sums(jnp.square(x - mean)) / count
    return mean, jnp.maximum(channel_sums(x * x) / count - mean * mean, 0)


def channel_sums(x: Float[Array, "b h w c"]) -> Float[Array, "c"]:
    """Sums over all but the channels, to some 1e-6 of the sum of their absolute values.

    On CPUs by products with ones, which take a fifth of the time (docs/benchmarks.md).
    """
    if not on_cpu():
        return x.sum((0, 1, 2))
    batch, height, width, channels = x.shape
    if height * width % STRIPES == 0:
        x = x.reshape(batch, STRIPES, -1, channels).sum(1)
    return add_rows(x.reshape(-1, channels))


def add_rows(rows: Float[Array, "n c"]) -> Float[Array, "c"]:
    """Sums the rows by products with ones."""
    parts, rest = divmod(len(rows), ROWS)
    if parts < 2:
        return jnp.ones(len(rows), rows.dtype) @ rows
    # Side by side, all parts are one product, with parts * c columns.
    sums = jnp.ones(ROWS, rows.dtype) @ rows[: parts * ROWS].reshape(ROWS, -1)
    total = add_rows(sums.reshape(parts, -1))
    return total + add_rows(rows[-rest:]) if rest else total
