"""Augmentations of an image's colours.

None depends on what is no content but JPEG, which compresses it in black; `make_augment` blackens
it in the end.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from trashseg_jax.data import jpeg
from trashseg_jax.data.warp import Batch, where_any

Content = Bool[Array, "b h w 1"] | None  # False for padding; None: there is none
Adjust = Callable[[Float[Array, "b h w 3"], Content], Float[Array, "b h w 3"]]
TILES = 8  # a side, of clahe: OpenCV's default
LEVELS = 256


def jitter(
    adjust: Callable[[Array, Array, Array | None], Array],
    key: jax.Array,
    batch: Batch,
    amount: float,
) -> Batch:
    """Adjusts by a factor per image, uniform in [1 - amount, 1 + amount].

    As torchvision's ColorJitter does.
    """
    factor = _draw(key, batch, 1 - amount, 1 + amount)
    return _recolor(batch, lambda image, content: adjust(image, factor, content))


def hue(key: jax.Array, batch: Batch, amount: float) -> Batch:
    """Turns the hue by a share of the circle uniform in [-amount, amount], as ColorJitter does."""
    turn = _draw(key, batch, -amount, amount)
    return _recolor(batch, lambda image, _: where_any(turn, partial(adjust_hue, turn=turn), image))


def grayscale(key: jax.Array, batch: Batch, amount: float) -> Batch:
    """Makes a share `amount` of the images grey, by luma."""
    colour = (_draw(key, batch, 0.0, 1.0) >= amount).astype(jnp.float32)
    return _recolor(batch, lambda image, content: adjust_saturation(image, colour, content))


def clahe(key: jax.Array, batch: Batch, amount: float) -> Batch:
    """Equalises the histograms of tiles of half of the images, clipped at up to `amount`."""
    draw, choose = jax.random.split(key)
    limit = _draw(draw, batch, 0.0, amount)
    return _by_halves(choose, batch, partial(equalize_tiles, limit=limit))


def blur(key: jax.Array, batch: Batch, amount: float) -> Batch:
    """Blurs half of the images, with a sigma uniform in [0, amount] pixels."""
    draw, choose = jax.random.split(key)
    sigma = _draw(draw, batch, 0.0, amount)
    adjust = partial(gaussian_blur, sigma=sigma, radius=math.ceil(3 * amount))
    return _by_halves(choose, batch, adjust)


def compress(key: jax.Array, batch: Batch, amount: int) -> Batch:
    """Compresses half of the images as JPEG, with a quality uniform in [amount, 100]."""
    draw, choose = jax.random.split(key)
    quality = _draw(draw, batch, float(amount), 100.0)

    def adjust(image, content):
        image = image if content is None else jnp.where(content, image, 0)
        return jpeg.compress(image, quality[:, 0, 0, 0])

    return _by_halves(choose, batch, adjust)


def _draw(key: jax.Array, batch: Batch, low: float, high: float) -> Float[Array, "b 1 1 1"]:
    return jax.random.uniform(key, (len(batch["image"]), 1, 1, 1), minval=low, maxval=high)


def _by_halves(key: jax.Array, batch: Batch, adjust: Adjust) -> Batch:
    chosen = _draw(key, batch, 0.0, 1.0) < 0.5

    def adjust_chosen(image, content):
        def change(image):
            return jnp.where(chosen, adjust(image, content), image)

        return where_any(chosen, change, image)

    return _recolor(batch, adjust_chosen)


def _recolor(batch: Batch, adjust: Adjust) -> Batch:
    content = batch["content"][..., None] if "content" in batch else None
    return {**batch, "image": adjust(batch["image"].astype(jnp.float32), content)}


def adjust_brightness(
    image: Float[Array, "b h w 3"], factor: Float[Array, "b 1 1 1"], content: Content
) -> Float[Array, "b h w 3"]:
    """Multiplies; the result stays within 0..255, here and below."""
    del content
    return jnp.clip(image * factor, 0, 255)


def adjust_contrast(
    image: Float[Array, "b h w 3"], factor: Float[Array, "b 1 1 1"], content: Content
) -> Float[Array, "b h w 3"]:
    """Moves pixels away from (or, below 1, towards) the mean luma of the content."""
    mean = luma(image).mean((1, 2, 3), keepdims=True, where=content)
    return jnp.clip(mean + factor * (image - mean), 0, 255)


def adjust_saturation(
    image: Float[Array, "b h w 3"], factor: Float[Array, "b 1 1 1"], content: Content
) -> Float[Array, "b h w 3"]:
    """Moves each pixel away from (or, below 1, towards) its own luma."""
    del content
    grey = luma(image)
    return jnp.clip(grey + factor * (image - grey), 0, 255)


def luma(image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 1"]:
    """Brightness as ITU-R BT.601 weighs the channels."""
    red, green, blue = (image[..., i : i + 1] for i in range(3))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def adjust_hue(
    image: Float[Array, "b h w 3"], *, turn: Float[Array, "b 1 1 1"]
) -> Float[Array, "b h w 3"]:
    """Adds a share of the circle to the hue; value and saturation in HSV stay (Smith 1978)."""
    red, green, blue = (image[..., i : i + 1] for i in range(3))
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    among = jnp.where(
        value == red,
        green - blue,
        jnp.where(value == green, blue - red + 2 * chroma, red - green + 4 * chroma),
    )
    sixths = among / jnp.where(chroma > 0, chroma, 1) + 6 * turn
    places = (sixths + jnp.array([5.0, 3.0, 1.0])) / 6  # b h w 3
    places = 6 * (places - jnp.floor(places))
    return value - chroma * jnp.clip(jnp.minimum(places, 4 - places), 0, 1)


def gaussian_blur(
    image: Float[Array, "b h w 3"], content: Content, *, sigma: Float[Array, "b 1 1 1"], radius: int
) -> Float[Array, "b h w 3"]:
    """Averages pixels up to `radius` away with Gaussian weights, leaving out what is no content.

    So neither the padding nor the edge darkens what is beside it.
    """
    weight = jnp.ones_like(image[..., :1]) if content is None else content.astype(image.dtype)
    total = jnp.concatenate([image * weight, weight], -1)
    for axis in (1, 2):
        along = partial(_blur_along, axis=axis, sigma=sigma, radius=radius)
        total = where_any(sigma, along, total)
    return total[..., :3] / jnp.maximum(total[..., 3:], 1e-6)


def _blur_along(
    values: Float[Array, "b h w c"], *, axis: int, sigma: Float[Array, "b 1 1 1"], radius: int
) -> Float[Array, "b h w c"]:
    # Shifted products: CPUs are slow with convolutions of each channel by itself.
    pad = [(0, 0)] * 4
    pad[axis] = (radius, radius)
    padded, length = jnp.pad(values, pad), values.shape[axis]
    weights = [
        jnp.exp(-0.5 * (i / jnp.maximum(sigma, 1e-3)) ** 2) for i in range(-radius, radius + 1)
    ]
    shifted = (
        weight * jax.lax.slice_in_dim(padded, i, i + length, axis=axis)
        for i, weight in enumerate(weights)
    )
    return sum(shifted, jnp.zeros(())) / sum(weights)


def equalize_tiles(
    image: Float[Array, "b h w 3"], content: Content, *, limit: Float[Array, "b 1 1 1"]
) -> Float[Array, "b h w 3"]:
    """Equalises the luma of 8x8 tiles, with histograms clipped at `limit` times their mean.

    Between the middles of tiles their maps are blended (CLAHE, Zuiderveld 1994). 0 changes nothing.
    """
    content = jnp.ones_like(image[..., :1], bool) if content is None else content
    level = jnp.round(luma(image))
    change = jax.vmap(_equalize)(
        level[..., 0].astype(jnp.int32), content[..., 0], limit[:, 0, 0, 0]
    )
    return jnp.clip(image + change[..., None] - level, 0, 255)


def _equalize(
    level: Int32[Array, "h w"], content: Bool[Array, "h w"], limit: Float[Array, ""]
) -> Float[Array, "h w"]:
    maps = _tile_maps(level, content, limit)
    top, bottom, below = _between_tiles(level.shape[0])
    left, right, beside = _between_tiles(level.shape[1])
    above, under = (
        maps[row[:, None], left, level] * (1 - beside) + maps[row[:, None], right, level] * beside
        for row in (top, bottom)
    )
    return above * (1 - below[:, None]) + under * below[:, None]


def _tile_maps(
    level: Int32[Array, "h w"], content: Bool[Array, "h w"], limit: Float[Array, ""]
) -> Float[Array, "tiles tiles levels"]:
    """Returns the equalised level by tile and level."""
    row, column = (jnp.arange(length) * TILES // length for length in level.shape)
    counts = jnp.zeros((TILES, TILES, LEVELS)).at[row[:, None], column[None, :], level].add(content)
    area = jnp.maximum(counts.sum(-1, keepdims=True), 1)
    most = limit * area / LEVELS
    clipped = jnp.minimum(counts, most)
    spread = (area - clipped.sum(-1, keepdims=True)) / LEVELS
    return jnp.cumsum(clipped + spread, -1) * (LEVELS - 1) / area


def _between_tiles(length: int) -> tuple[Array, Array, Array]:
    """Returns, for each pixel, the tiles whose middles are before and behind, and the share."""
    place = jnp.clip((jnp.arange(length) + 0.5) * TILES / length - 0.5, 0, TILES - 1)
    low = place.astype(jnp.int32)
    return low, jnp.minimum(low + 1, TILES - 1), place - low
