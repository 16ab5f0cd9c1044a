"""Augmentation and normalisation of uint8 batches inside the jitted step."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, UInt8

from trashseg_jax.settings import choose

# Mean and standard deviation of ImageNet's pixels over 255, which pretrained encoders assume.
STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
LOOPS = 4  # in so many parts crops are scaled
Sources = tuple[Array, Array, Array, Array]  # see _sources


def make_normalize(name: str) -> Callable[[UInt8[Array, "b h w 3"]], Float[Array, "b h w 3"]]:
    """Returns uint8 -> float32: (image / 255 - mean) / std with the STATISTICS named."""
    mean, std = choose("data.normalize", name, STATISTICS)

    def normalize(image):
        return (image.astype(jnp.float32) / 255 - jnp.array(mean)) / jnp.array(std)

    return normalize


def make_augment(
    *, flip: bool, brightness: float, contrast: float, saturation: float
) -> Callable[[jax.Array, dict[str, Array]], dict[str, Array]]:
    """Returns `(key, batch) -> batch`: horizontal flips by halves, then colour jitter.

    Each jitter draws a factor per image, uniform in [1 - amount, 1 + amount], as torchvision's
    ColorJitter does; 0 turns it off. Where the batch holds crops, `scale_crops` comes first.
    """

    def augment(key, batch):
        if "crop" in batch:
            batch = scale_crops(batch)
        image, label = batch["image"], batch["label"]
        keys = jax.random.split(key, 4)
        if flip:
            chosen = jax.random.bernoulli(keys[0], shape=(len(image),))
            image = jnp.where(chosen[:, None, None, None], image[:, :, ::-1], image)
            label = jnp.where(chosen[:, None, None], label[:, :, ::-1], label)
        for jitter, amount, jitter_key in (
            (adjust_brightness, brightness, keys[1]),
            (adjust_contrast, contrast, keys[2]),
            (adjust_saturation, saturation, keys[3]),
        ):
            if amount:
                shape = (len(image), 1, 1, 1)
                factor = jax.random.uniform(jitter_key, shape, minval=1 - amount, maxval=1 + amount)
                image = jitter(image.astype(jnp.float32), factor)
        image = jnp.round(image.astype(jnp.float32)).astype(jnp.uint8)
        return {**batch, "image": image, "label": label}

    return augment


def scale_crops(batch: dict[str, Array]) -> dict[str, Array]:
    """Scales the upper left `crop` i32[b,2], height and width, of each row to fill the square.

    The image bilinearly, the label to the nearest pixel, as tf.image.resize does. Only ever up:
    smaller scales would need antialiasing.
    """
    batch = dict(batch)
    crop = batch.pop("crop")
    size = batch["label"].shape[1]
    sources = jax.vmap(partial(_sources, size=size))
    rows, columns = sources(crop[:, 0]), sources(crop[:, 1])

    def scale_row(row):
        return jax.vmap(_scale_row)(batch["image"], batch["label"], row, columns)

    # A loop's result is stored. Of a single expression XLA for CPUs would compute each pixel anew
    # for everything that reads it: flip, luma and each jitter.
    rows = jax.tree.map(jnp.transpose, rows)
    image, label = jax.lax.map(scale_row, rows, batch_size=-(-size // LOOPS))
    return {**batch, "image": image.swapaxes(0, 1), "label": label.swapaxes(0, 1)}


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
    image: UInt8[Array, "s s 3"], label: UInt8[Array, "s s"], row: Sources, columns: Sources
) -> tuple[UInt8[Array, "s 3"], UInt8[Array, "s"]]:
    top, bottom, below, nearest_row = row
    left, right, beside, nearest_column = columns
    # Each pixel from its four corners: blending rows first costs CPUs twice as much.
    above, under = (
        _blend(image[line, left], image[line, right], beside[:, None]) for line in (top, bottom)
    )
    scaled = jnp.round(_blend(above, under, below)).astype(jnp.uint8)
    return scaled, label[nearest_row, nearest_column]


def _blend(a: Array, b: Array, share: Array) -> Float[Array, "..."]:
    a = a.astype(jnp.float32)
    return a + (b - a) * share


def adjust_brightness(
    image: Float[Array, "b h w 3"], factor: Float[Array, "b 1 1 1"]
) -> Float[Array, "b h w 3"]:
    """Multiplies; the result stays within 0..255, here and below."""
    return jnp.clip(image * factor, 0, 255)


def adjust_contrast(
    image: Float[Array, "b h w 3"], factor: Float[Array, "b 1 1 1"]
) -> Float[Array, "b h w 3"]:
    """Moves pixels away from (or, below 1, towards) the image's mean luma."""
    mean = luma(image).mean((1, 2, 3), keepdims=True)
    return jnp.clip(mean + factor * (image - mean), 0, 255)


def adjust_saturation(
    image: Float[Array, "b h w 3"], factor: Float[Array, "b 1 1 1"]
) -> Float[Array, "b h w 3"]:
    """Moves each pixel away from (or, below 1, towards) its own luma."""
    grey = luma(image)
    return jnp.clip(grey + factor * (image - grey), 0, 255)


def luma(image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 1"]:
    """Brightness as ITU-R BT.601 weighs the channels."""
    red, green, blue = (image[..., i : i + 1] for i in range(3))
    return 0.299 * red + 0.587 * green + 0.114 * blue
