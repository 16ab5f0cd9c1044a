"""A 3x3 convolution of upsampled features, computed without upsampling them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# SUMS[p, t]: which of three taps in a row of upsampled pixels meet low-resolution pixel t of two,
# for even (p = 0) and odd (p = 1) pixels. An even one sees its left neighbour and itself twice.
SUMS = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)
PADDING = ((1, 0), (0, 1))  # of even, of odd pixels


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
        return y + convolve(skip.astype(self.dtype), kernel[:, :, channels:], ((1, 1), (1, 1)))


def convolve_upsampled(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c f"]
) -> Float[Array, "b 2*h 2*w f"]:
    """Convolves nearest-upsampled `x`, zeros around it: 4/9 of the multiplications.

    All upsampled pixels of one phase, (even, odd) rows times (even, odd) columns, see 2x2 pixels
    of `x` each, through the same sums of the kernel's taps: four 2x2 convolutions, interleaved.
    """
    batch, height, width, _ = x.shape
    kernels = jnp.einsum("atr,bus,rscf->abtucf", SUMS, SUMS, kernel)
    rows = [
        jnp.stack([convolve(x, kernels[a, b], (PADDING[a], PADDING[b])) for b in (0, 1)], axis=3)
        for a in (0, 1)
    ]  # each b h w 2 f
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, -1)


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "r s c f"],
    padding: tuple[tuple[int, int], tuple[int, int]],
) -> Float[Array, "b H W f"]:
    """Convolves at stride 1, in `x`'s dtype."""
    return jax.lax.conv_general_dilated(
        x, kernel.astype(x.dtype), (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
