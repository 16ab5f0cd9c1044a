"""Training on smaller images first: which size a step has, and its batch scaled down to it."""

import jax
import jax.numpy as jnp

from trashseg_jax.data.warp import Batch, nearest_pixels, pixel_maps


def size_at(step: int, *, total: int, sizes: tuple[int, ...]) -> int:
    """Returns the image size of step 1 to `total`: equal shares of them, the last one at the end.

    A function of the step alone, so that a resumed run goes on with the same sizes.
    """
    return sizes[-1 - (total - step) * len(sizes) // total]


def shrink(batch: Batch, *, size: int) -> Batch:
    """Scales a batch's squares to `size`: images antialiased, all else to the nearest pixel."""
    maps = pixel_maps(batch)
    image = maps.pop("image")
    before = image.shape[1]
    if before == size:
        return batch
    scaled = jax.image.resize(
        image.astype(jnp.float32), (len(image), size, size, 3), "linear", antialias=True
    )
    nearest = nearest_pixels(before, size=size)
    maps = {name: value[:, nearest[:, None], nearest] for name, value in maps.items()}
    return {**batch, **maps, "image": jnp.round(scaled).astype(jnp.uint8)}
