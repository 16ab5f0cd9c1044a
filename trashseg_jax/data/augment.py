"""Augmentation and normalisation of uint8 batches inside the jitted step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

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
    ColorJitter does; 0 turns it off.
    """

    def augment(key, batch):
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
