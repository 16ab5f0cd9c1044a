"""Augmentation and normalisation of uint8 batches inside the jitted step."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from trashseg_jax.data import augment_color as color
from trashseg_jax.data import warp
from trashseg_jax.data.warp import WARPS, Batch
from trashseg_jax.settings import choose

# Means and standard deviations of pixels over 255 that pretrained encoders assume: ImageNet's own,
# and those of Inception and of TensorFlow's EfficientNets, (pixel - 127.5) / 127.5.
STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
OFF = (0, False, (1.0, 1.0))  # amounts that ask for nothing


def make_normalize(name: str) -> Callable[[UInt8[Array, "b h w 3"]], Float[Array, "b h w 3"]]:
    """Returns uint8 -> float32: (image / 255 - mean) / std with the STATISTICS named."""
    mean, std = choose("data.normalize", name, STATISTICS)

    def normalize(image):
        return (image.astype(jnp.float32) / 255 - jnp.array(mean)) / jnp.array(std)

    return normalize


def make_augment(**amounts: Any) -> Callable[[jax.Array, Batch], Batch]:
    """Returns `(key, batch) -> batch`, which does each of WARPS and AUGMENTATIONS by its amount.

    Those that are OFF are left out. The warps come first, in one with the scaling of crops, the
    others in their order. What else of the batch has a value for each pixel moves as the label
    does.
    """
    names = (*AUGMENTATIONS, *WARPS)
    asked = [name for name in names if amounts[name] not in OFF]

    def augment(key, batch):
        keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
        batch = place({name: keys[name] for name in WARPS if name in asked}, batch, amounts)
        for name, change in AUGMENTATIONS.items():
            if name in asked:
                batch = change(keys[name], batch, amounts[name])
        content = batch.pop("content", True)
        image = jnp.where(jnp.expand_dims(content, -1), batch["image"], 0)  # colours change black
        return {**batch, "image": jnp.round(image.astype(jnp.float32)).astype(jnp.uint8)}

    return augment


def place(keys: dict[str, jax.Array], batch: Batch, amounts: dict[str, Any]) -> Batch:
    """Scales crops to the square and does the WARPS that have a key, both with one gather."""
    if keys:
        return warp.warp(batch, warp.draw_frames(keys, batch, amounts))
    return warp.scale_crops(batch) if "crop" in batch else warp.mark_content(batch)


def flip(key: jax.Array, batch: Batch, amount: bool) -> Batch:
    """Mirrors left and right, by halves."""
    del amount
    return _move_half(key, batch, lambda values: values[:, :, ::-1])


def turn(key: jax.Array, batch: Batch, amount: bool) -> Batch:
    """Turns by none, one, two or three right angles, a quarter of the images each."""
    del amount
    once, twice = jax.random.split(key)
    batch = _move_half(once, batch, partial(jnp.rot90, axes=(1, 2)))
    return _move_half(twice, batch, lambda values: values[:, ::-1, ::-1])


def _move_half(key: jax.Array, batch: Batch, move: Callable[[Array], Array]) -> Batch:
    chosen = jax.random.bernoulli(key, shape=(len(batch["image"]),))

    def move_chosen(values):
        mask = chosen.reshape(-1, *[1] * (values.ndim - 1))
        return warp.where_any(chosen, lambda values: jnp.where(mask, move(values), values), values)

    return {**batch, **jax.tree.map(move_chosen, warp.pixel_maps(batch))}


def cutout(key: jax.Array, batch: Batch, amount: float) -> Batch:
    """Blanks a square about a random pixel, cut off at the edge (DeVries and Taylor 2017).

    Its share of the area is uniform in [0, amount]. Its label is ignored, unlike the class of an
    image, which the rest still shows: only guesses could be learned there.
    """
    share_key, place_key = jax.random.split(key)
    count, size = batch["label"].shape[:2]
    share = jax.random.uniform(share_key, (count, 1), maxval=amount)
    middle = jax.random.uniform(place_key, (2, count, 1), maxval=size)
    row, column = jnp.abs(jnp.arange(size) + 0.5 - middle) < jnp.sqrt(share) * size / 2
    return warp.blank(batch, ~(row[:, :, None] & column[:, None, :]))


# The options of config.data.augment that are taken inside the step, after WARPS, in the order in
# which they are. A new one at the end changes no other's draws.
AUGMENTATIONS: dict[str, Callable[[jax.Array, Batch, Any], Batch]] = {
    "flip": flip,
    "brightness": partial(color.jitter, color.adjust_brightness),
    "contrast": partial(color.jitter, color.adjust_contrast),
    "saturation": partial(color.jitter, color.adjust_saturation),
    "hue": color.hue,
    "grayscale": color.grayscale,
    "clahe": color.clahe,
    "blur": color.blur,
    "jpeg": color.compress,
    "turn": turn,
    "cutout": cutout,
}
