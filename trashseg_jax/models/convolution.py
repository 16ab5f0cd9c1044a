"""Dense convolutions whose kernel's gradient fills a CPU's vectors at any batch size."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trashseg_jax.devices.compiling import on_cpu

Pair = tuple[int, int]  # of rows, of columns
Padding = tuple[Pair, Pair]  # rows above and below, columns left and right
LAYOUT = ("NHWC", "HWIO", "NHWC")
# XLA's convolution for CPUs reads so many images at once where it computes a kernel's gradient,
# and fewer one by one: a batch of 8 takes hardly longer than one of 4 (docs/benchmarks.md).
LANES = 8


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "r s c f"],
    *,
    stride: Pair = (1, 1),
    dilation: Pair = (1, 1),
    padding: Padding,
) -> Float[Array, "b H W f"]:
    """Convolves in `x`'s dtype, zeros around it."""
    run = _convolve_on_cpu if on_cpu() else _convolve
    return run(x, kernel.astype(x.dtype), stride, dilation, padding)


def conv_general_dilated(
    x: Array, kernel: Array, strides: Any, padding: Any, *, rhs_dilation: Any, **options: Any
) -> Array:
    """Is `convolve` for `flax.linen.Conv`, which has an argument of this name."""
    del options  # what nobody here sets: groups, precision, a dilated input
    ends: Any = tuple(map(tuple, padding))  # hashable, and one pair an axis
    return convolve(x, kernel, stride=tuple(strides), dilation=tuple(rhs_dilation), padding=ends)


def _convolve(x: Array, kernel: Array, stride: Pair, dilation: Pair, padding: Padding) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, stride, padding, rhs_dilation=dilation, dimension_numbers=LAYOUT
    )


_convolve_on_cpu = jax.custom_vjp(_convolve, nondiff_argnums=(2, 3, 4))


def _forward(x, kernel, *options):
    return _convolve(x, kernel, *options), (x, kernel)


def _backward(stride, dilation, padding, residuals, gradient):
    x, kernel = residuals
    of_x = jax.linear_transpose(lambda x: _convolve(x, kernel, stride, dilation, padding), x)
    (x_gradient,) = of_x(gradient)
    strips = count_strips(*gradient.shape[:2])
    if strips > 1:
        reach = dilation[0] * (len(kernel) - 1)
        x, gradient = cut_into_strips(
            x, gradient, strips, reach=reach, stride=stride[0], padding=padding[0]
        )
        padding = ((0, 0), padding[1])
    of_kernel = jax.linear_transpose(
        lambda kernel: _convolve(x, kernel, stride, dilation, padding), kernel
    )
    return x_gradient, *of_kernel(gradient)


_convolve_on_cpu.defvjp(_forward, _backward)


def count_strips(batch: int, height: int) -> int:
    """Returns how many strips of each image make a multiple of LANES, if it has the rows."""
    return min(LANES // math.gcd(batch, LANES), height)


def cut_into_strips(
    x: Float[Array, "b h w c"],
    gradient: Float[Array, "b H W f"],
    strips: int,
    *,
    reach: int,
    stride: int,
    padding: Pair,
) -> tuple[Float[Array, "n R w c"], Float[Array, "n S W f"]]:
    """Returns strips of an output's gradient, and the input rows that each depends on, as images.

    A kernel's gradient is a sum over the batch and over rows alike, so they have the same one. An
    output row depends on `reach` + 1 rows of the padded input.
    """
    batch, height = gradient.shape[:2]
    rows = -(-height // strips)
    # Rows of zeros make all strips equal, and add nothing.
    gradient = _pad_rows(gradient, 0, strips * rows - height)
    needed = stride * (strips * rows - 1) + reach + 1
    # Negative: below what a stride reaches last.
    x = _pad_rows(x, padding[0], needed - x.shape[1] - padding[0])
    starts = [strip * rows * stride for strip in range(strips)]
    length = stride * (rows - 1) + reach + 1
    x = jnp.stack([x[:, start : start + length] for start in starts], axis=1)
    return (
        x.reshape(batch * strips, length, *x.shape[3:]),
        gradient.reshape(batch * strips, rows, *gradient.shape[2:]),
    )


def _pad_rows(x: Array, above: int, below: int) -> Array:
    keep = (0, 0, 0)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), (keep, (above, below, 0), keep, keep))
