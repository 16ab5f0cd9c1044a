"""The stem's max-pooling."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b H W c"]:
    """Returns the largest of each 3x3 pixels, at stride 2, with a padding of 1.

    Of rows first, then of columns, as maxima of strided slices, whose derivative is elementwise:
    docs/benchmarks.md has what other forms take on CPUs. Equal maxima share the gradient; behind a
    ReLU only zeros are equal, which pass none on.
    """
    return _largest_of_three(_largest_of_three(x, axis=1), axis=2)


def _largest_of_three(x: Float[Array, "b h w c"], *, axis: int) -> Float[Array, "b H W c"]:
    size = x.shape[axis]
    width = [(1, 1) if axis == other else (0, 0) for other in range(x.ndim)]
    padded = jnp.pad(x, width, constant_values=-jnp.inf)
    before, here, after = (
        jax.lax.slice_in_dim(padded, start, start + size, 2, axis) for start in range(3)
    )
    return jnp.maximum(jnp.maximum(before, here), after)
