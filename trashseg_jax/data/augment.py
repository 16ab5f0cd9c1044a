"""Augmentation and normalisation of uint8 batches inside the jitted step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, UInt8

from trashseg_jax.errors import InputError

# Mean and standard deviation of ImageNet's pixels over 255, which pretrained encoders assume.
STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def make_normalize(name: str) -> Callable[[UInt8[Array, "b h w 3"]], Float[Array, "b h w 3"]]:
    """Returns uint8 -> float32: (image / 255 - mean) / std with the STATISTICS named."""
    if name not in STATISTICS:
        raise InputError(f"data.normalize {name!r}: must be one of {', '.join(STATISTICS)}")
    mean, std = STATISTICS[name]

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
    image, label = jax.vmap(_scale_crop)(batch["image"], batch["label"], crop)
    return {**batch, "image": image, "label": label}


def _scale_crop(
    image: UInt8[Array, "s s 3"], label: UInt8[Array, "s s"], crop: Int32[Array, "2"]
) -> tuple[UInt8[Array, "s s 3"], UInt8[Array, "s s"]]:
    size = len(label)
    (top, bottom, below), (left, right, beside) = (_neighbours(n, size) for n in crop)
    # Each pixel from its four corners: blending rows first costs CPUs half as much again.
    above, under = (
        _blend(image[row[:, None], left], image[row[:, None], right], beside[:, None])
        for row in (top, bottom)
    )
    image = jnp.round(_blend(above, under, below[:, None, None])).astype(jnp.uint8)
    row, column = ((2 * jnp.arange(size) + 1) * n // (2 * size) for n in crop)
    return image, label[row][:, column]


def _neighbours(
    length: Int32[Array, ""], size: int
) -> tuple[Int32[Array, "s"], Int32[Array, "s"], Float[Array, "s"]]:
    """Returns the two pixels, of `length`, around the centre of each of `size`; the 2nd's share."""
    centre = jnp.clip((jnp.arange(size) + 0.5) * (length / size) - 0.5, 0, length - 1)
    low = centre.astype(jnp.int32)
    return low, jnp.minimum(low + 1, length - 1), centre - low


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
    return image @ jnp.array([[0.299], [0.587], [0.114]])
