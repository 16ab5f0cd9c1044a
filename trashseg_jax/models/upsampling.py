"""A 3x3 convolution of upsampled features, computed without upsampling them."""

import itertools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from trashseg_jax.devices.compiling import on_cpu
from trashseg_jax.models.convolution import convolve

Kernels = list[list[Float[Array, "2 2 c f"]]]  # by phase: (even, odd) rows, (even, odd) columns


class UpConv(nn.Module):
    """Upsamples `x` by two (nearest), concatenates the skip if there is one, convolves 3x3.

    It has the `kernel` [3, 3, c + s, f] that one convolution of them all would have. That one is
    linear in its input channels, so the skip's go through a convolution of their own.
    """

    features: int
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], skip: Float[Array, "b 2*h 2*w s"] | None
    ) -> Float[Array, "b 2*h 2*w f"]:
        channels = x.shape[-1]
        inputs = channels + (0 if skip is None else skip.shape[-1])
        shape = (3, 3, inputs, self.features)
        kernel = jnp.asarray(self.param("kernel", nn.initializers.he_normal(), shape))
        y = convolve_upsampled(x.astype(self.dtype), kernel[:, :, :channels])
        if skip is None:
            return y
        skip = skip.astype(self.dtype)
        return y + convolve(skip, kernel[:, :, channels:], padding=((1, 1), (1, 1)))


def convolve_upsampled(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c f"]
) -> Float[Array, "b 2*h 2*w f"]:
    """Convolves nearest-upsampled `x`, zeros around it, at the resolution of `x`.

    All upsampled pixels of one phase, (even, odd) rows times (even, odd) columns, see 2x2 pixels
    of `x` each, through the same sums of the kernel's taps.
    """
    kernels: Kernels = [list(fold(half, axis=1)) for half in fold(kernel, axis=0)]
    convolve_phases = convolve_apart if on_cpu() else convolve_together
    phases = convolve_phases(x, kernels)  # b h w row-phase column-phase f
    batch, height, width = x.shape[:3]
    return phases.swapaxes(2, 3).reshape(batch, 2 * height, 2 * width, -1)


def fold(kernel: Float[Array, "..."], *, axis: int) -> tuple[Array, Array]:
    """Sums the three taps along an axis that meet one pixel, for even and odd upsampled ones.

    An even one sees its left neighbour and itself twice.
    """
    left, middle, right = jnp.split(kernel, 3, axis)
    even = jnp.concatenate([left, middle + right], axis)
    odd = jnp.concatenate([left + middle, right], axis)
    return even, odd


def convolve_apart(x: Float[Array, "b h w c"], kernels: Kernels) -> Float[Array, "b h w 2 2 f"]:
    """Four 2x2 convolutions: 4/9 of the multiplications, which is what CPUs have too few of."""
    ends = ((1, 0), (0, 1))  # of even, of odd pixels
    rows = [
        [convolve(x, kernels[a][b], padding=(ends[a], ends[b])) for b in (0, 1)] for a in (0, 1)
    ]
    return jnp.stack([jnp.stack(row, axis=3) for row in rows], axis=3)


def convolve_together(x: Float[Array, "b h w c"], kernels: Kernels) -> Float[Array, "b h w 2 2 f"]:
    """One 3x3 convolution with four times the outputs: the least memory traffic for accelerators.

    GPUs' libraries pad both ends alike; for the four XLA would copy `x` four times.
    """
    kernel = jnp.concatenate(
        [
            jnp.pad(kernels[a][b], ((a, 1 - a), (b, 1 - b), (0, 0), (0, 0)))
            for a, b in itertools.product((0, 1), (0, 1))
        ],
        axis=-1,
    )
    y = convolve(x, kernel, padding=((1, 1), (1, 1)))
    return y.reshape(*x.shape[:3], 2, 2, -1)
