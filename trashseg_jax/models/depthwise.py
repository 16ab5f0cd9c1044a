"""Depthwise convolutions: each channel with a kernel of its own."""

import functools
import itertools
import operator
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trashseg_jax.devices.compiling import on_cpu
from trashseg_jax.models.convolution import Padding
from trashseg_jax.models.normalization import add_rows

# On CPUs: up to this many pixels the kernel's gradient adds up the batch, above it goes image by
# image, in this many strips of rows. Measured: docs/benchmarks.md.
SMALL = 32 * 32
STRIPS = 4


class DepthwiseConv(nn.Module):
    """A depthwise convolution without bias, padded as TensorFlow's 'SAME' pads even sizes.

    Its `kernel` is [k, k, 1, c]. Of a stride's padding the larger half is below and right.
    """

    size: int
    stride: int
    dilation: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
        shape = (self.size, self.size, 1, x.shape[-1])
        # Each output sees size * size inputs, whatever the number of channels.
        initializer = nn.initializers.variance_scaling(2.0, "fan_in", "normal", in_axis=(0, 1))
        kernel = jnp.asarray(self.param("kernel", initializer, shape), self.dtype)
        ends = same_padding(self.size, stride=self.stride, dilation=self.dilation)
        return depthwise(
            x.astype(self.dtype),
            kernel,
            stride=self.stride,
            dilation=self.dilation,
            padding=(ends, ends),
        )


def same_padding(size: int, *, stride: int, dilation: int) -> tuple[int, int]:
    """Returns the zeros before and after that make the output's size the input's over `stride`.

    Of an input that `stride` divides, as TensorFlow distributes them.
    """
    total = dilation * (size - 1) + 1 - stride
    return total // 2, total - total // 2


def depthwise(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k k 1 c"],
    *,
    stride: int,
    dilation: int,
    padding: Padding,
) -> Float[Array, "b H W c"]:
    """Convolves each channel of `x` with its own kernel.

    XLA's grouped convolutions take CPUs 20 to 60 times as long as the products that they consist
    of, so there they are written as these, with a derivative of their own.
    """
    convolve = _shifted if on_cpu() else _grouped
    return convolve(x, kernel, stride, dilation, padding)


def _grouped(x: Array, kernel: Array, stride: int, dilation: int, padding: Padding) -> Array:
    """XLA's own convolution."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _shifted(x: Array, kernel: Array, stride: int, dilation: int, padding: Padding) -> Array:
    """The sum, over the kernel's taps, of the input that the tap meets times the tap."""
    taps = _meet(x, len(kernel), stride, dilation, padding)
    return add_up(kernel[i, j, 0] * tap for (i, j), tap in taps.items())


def _shifted_forward(x, kernel, stride, dilation, padding):
    return _shifted(x, kernel, stride, dilation, padding), (x, kernel)


def _shifted_backward(stride, dilation, padding, residuals, gradient):
    x, kernel = residuals
    of_x = _input_gradient(gradient, kernel, x.shape, stride, dilation, padding)
    of_kernel = _kernel_gradient(x, gradient, len(kernel), stride, dilation, padding)
    return of_x, of_kernel.reshape(kernel.shape).astype(kernel.dtype)


_shifted.defvjp(_shifted_forward, _shifted_backward)


def _meet(
    x: Array, size: int, stride: int, dilation: int, padding: Padding
) -> dict[tuple[int, int], Array]:
    """Returns by tap the pixels of padded `x` that it meets, [b, H, W, c]."""
    batch, height, width, channels = x.shape
    reach = dilation * (size - 1)
    rows = (height + sum(padding[0]) - reach - 1) // stride + 1
    columns = (width + sum(padding[1]) - reach - 1) // stride + 1
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))

    def meet(tap):
        top, left = (dilation * place for place in tap)
        stop = (top + stride * (rows - 1) + 1, left + stride * (columns - 1) + 1)
        return jax.lax.slice(x, (0, top, left, 0), (batch, *stop, channels), (1, stride, stride, 1))

    return {(i, j): meet((i, j)) for i, j in itertools.product(range(size), repeat=2)}


def add_up(arrays: Iterable[Array]) -> Array:
    """Adds arrays up, one by one, which XLA computes in one pass."""
    return functools.reduce(operator.add, arrays)


def _input_gradient(
    gradient: Array,
    kernel: Array,
    shape: tuple[int, ...],
    stride: int,
    dilation: int,
    padding: Padding,
) -> Array:
    """The flipped kernel's convolution of the gradient, zeros put in where a stride went over."""
    reach = dilation * (len(kernel) - 1)
    edges = []
    for axis in (1, 2):
        before = reach - padding[axis - 1][0]
        span = stride * (gradient.shape[axis] - 1) + 1
        edges.append((before, shape[axis] + reach - before - span, stride - 1))
    spread = jax.lax.pad(gradient, jnp.zeros((), gradient.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    return _shifted(spread, kernel[::-1, ::-1], 1, dilation, ((0, 0), (0, 0)))


def _kernel_gradient(
    x: Array, gradient: Array, size: int, stride: int, dilation: int, padding: Padding
) -> Float[Array, "taps c"]:
    """By tap, the sum over all pixels of the gradient times the input that the tap meets.

    A processor reads `x` once a tap: what it reads is kept small enough for its caches, an image
    at a time, and what it adds up grows by whole images or strips, never by single pixels.
    """
    x, gradient = x.astype(jnp.float32), gradient.astype(jnp.float32)
    if gradient.shape[1] * gradient.shape[2] <= SMALL:
        taps = _meet(x, size, stride, dilation, padding)
        return _sum_products(taps.values(), gradient, parts=list)
    strips = STRIPS if gradient.shape[1] % STRIPS == 0 else 1
    split = partial(jnp.split, indices_or_sections=strips, axis=1)

    def add(total, pair):
        image, slope = (array[None] for array in pair)
        taps = _meet(image, size, stride, dilation, padding)
        return total + _sum_products(taps.values(), slope, parts=split), None

    zeros = jnp.zeros((size * size, x.shape[-1]))
    return jax.lax.scan(add, zeros, (x, gradient))[0]


def _sum_products(
    taps: Iterable[Array], gradient: Array, *, parts: Callable[[Array], list[Array]]
) -> Float[Array, "taps c"]:
    """By tap, the sum over pixels of it times the gradient; their `parts` are added up first."""
    slopes = parts(gradient)
    products = [add_up(a * b for a, b in zip(parts(tap), slopes, strict=True)) for tap in taps]
    return jnp.stack([add_rows(p.reshape(-1, p.shape[-1])) for p in products])
