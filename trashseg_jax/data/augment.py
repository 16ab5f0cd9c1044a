"""Augmentation and normalisation of uint8 batches inside the jitted step."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, UInt8

from trashseg_jax.settings import choose

# Means and standard deviations of pixels over 255 that pretrained encoders assume: ImageNet's own,
# and those of Inception and of TensorFlow's EfficientNets, (pixel - 127.5) / 127.5.
STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
LOOPS = 4  # parts in which crops are scaled, one after the other
Batch = dict[str, Array]  # see steps.Batch
Sources = tuple[Array, Array, Array, Array]  # see _sources
Content = Bool[Array, "b h w 1"] | None  # False for padding; None: there is none


def make_normalize(name: str) -> Callable[[UInt8[Array, "b h w 3"]], Float[Array, "b h w 3"]]:
    """Returns uint8 -> float32: (image / 255 - mean) / std with the STATISTICS named."""
    mean, std = choose("data.normalize", name, STATISTICS)

    def normalize(image):
        return (image.astype(jnp.float32) / 255 - jnp.array(mean)) / jnp.array(std)

    return normalize


def make_augment(**amounts: Any) -> Callable[[jax.Array, Batch], Batch]:
    """Returns `(key, batch) -> batch`, which does each of AUGMENTATIONS with its amount, in turn.

    0 or False turns one off. Where the batch holds crops, `scale_crops` comes first. What else of
    the batch has a value for each pixel moves as the label does.
    """

    def augment(key, batch):
        batch = scale_crops(batch) if "crop" in batch else mark_content(batch)
        keys = jax.random.split(key, len(AUGMENTATIONS))
        for change_key, (name, change) in zip(keys, AUGMENTATIONS.items(), strict=True):
            if amounts[name]:
                batch = change(change_key, batch, amounts[name])
        batch.pop("content", None)
        image = jnp.round(batch["image"].astype(jnp.float32)).astype(jnp.uint8)
        return {**batch, "image": image}

    return augment


def pixel_maps(batch: Batch) -> Batch:
    """Returns what holds a value for each pixel: image, label, and what a later key may add."""
    size = batch["label"].shape[:3]
    return {name: value for name, value in batch.items() if value.shape[:3] == size}


def flip(key: jax.Array, batch: Batch, amount: bool) -> Batch:
    """Mirrors left and right, by halves."""
    del amount
    chosen = jax.random.bernoulli(key, shape=(len(batch["image"]),))

    def mirror(values):
        mask = chosen.reshape(-1, *[1] * (values.ndim - 1))
        return jnp.where(mask, values[:, :, ::-1], values)

    return {**batch, **jax.tree.map(mirror, pixel_maps(batch))}


def jitter(
    adjust: Callable[[Array, Array, Array | None], Array],
    key: jax.Array,
    batch: Batch,
    amount: float,
) -> Batch:
    """Adjusts by a factor per image, uniform in [1 - amount, 1 + amount]; padding stays black.

    As torchvision's ColorJitter does.
    """
    shape = (len(batch["image"]), 1, 1, 1)
    factor = jax.random.uniform(key, shape, minval=1 - amount, maxval=1 + amount)
    content = batch["content"][..., None] if "content" in batch else None
    image = adjust(batch["image"].astype(jnp.float32), factor, content)
    return {**batch, "image": image if content is None else jnp.where(content, image, 0)}


def mark_content(batch: Batch) -> Batch:
    """Adds `content` bool[b,s,s], False for the padding below and right of `size`.

    Its label tells padding from content no better than from what is ignored in the content.
    """
    if "size" not in batch:
        return dict(batch)
    height, width = batch["size"][:, 0, None, None], batch["size"][:, 1, None, None]
    row, column = jnp.indices(batch["label"].shape[1:])
    return {**batch, "content": (row < height) & (column < width)}


def scale_crops(batch: Batch) -> Batch:
    """Scales the upper left `crop` i32[b,2], height and width, of each row to fill the square.

    The image bilinearly, all else to the nearest pixel, as tf.image.resize does. Only ever up:
    smaller scales would need antialiasing.
    """
    batch = dict(batch)
    crop = batch.pop("crop")
    maps = pixel_maps(batch)
    image = maps.pop("image")
    size = image.shape[1]
    sources = jax.vmap(partial(_sources, size=size))
    rows, columns = sources(crop[:, 0]), sources(crop[:, 1])

    def scale_row(row):
        return jax.vmap(_scale_row)(image, maps, row, columns)

    # A loop's result is stored. Of a single expression XLA for CPUs would compute each pixel anew
    # for everything that reads it: flip, luma and each jitter.
    rows = jax.tree.map(jnp.transpose, rows)
    scaled = jax.lax.map(scale_row, rows, batch_size=-(-size // LOOPS))
    image, maps = jax.tree.map(lambda rows: rows.swapaxes(0, 1), scaled)
    return {**batch, **maps, "image": image}


def _sources(length: Int32[Array, ""], *, size: int) -> Sources:
    """Returns, for each of `size` pixels, what it is made of when `length` are scaled to it.

    The two around its centre, the second's share, and the nearest.
    """
    place = jnp.arange(size)
    centre = jnp.clip((place + 0.5) * (length / size) - 0.5, 0, length - 1)
    low = centre.astype(jnp.int32)
    nearest = (2 * place + 1) * length // (2 * size)
    return low, jnp.minimum(low + 1, length - 1), centre - low, nearest


def _scale_row(
    image: UInt8[Array, "s s 3"], maps: dict[str, Array], row: Sources, columns: Sources
) -> tuple[UInt8[Array, "s 3"], dict[str, Array]]:
    top, bottom, below, nearest_row = row
    left, right, beside, nearest_column = columns
    # Each pixel from its four corners: blending rows first costs CPUs twice as much.
    above, under = (
        _blend(image[line, left], image[line, right], beside[:, None]) for line in (top, bottom)
    )
    scaled = jnp.round(_blend(above, under, below)).astype(jnp.uint8)
    return scaled, {name: value[nearest_row, nearest_column] for name, value in maps.items()}


def _blend(a: Array, b: Array, share: Array) -> Float[Array, "..."]:
    a = a.astype(jnp.float32)
    return a + (b - a) * share


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


# The options of config.data.augment that are taken inside the step, in the order in which they are.
AUGMENTATIONS: dict[str, Callable[[jax.Array, Batch, Any], Batch]] = {
    "flip": flip,
    "brightness": partial(jitter, adjust_brightness),
    "contrast": partial(jitter, adjust_contrast),
    "saturation": partial(jitter, adjust_saturation),
}
