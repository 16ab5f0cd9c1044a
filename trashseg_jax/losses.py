"""Losses: one value per example; the caller averages."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer


def cross_entropy(
    logits: Float[Array, "b h w k"],
    labels: Integer[Array, "b h w"],
    *,
    label_smoothing: float,
    ignore_label: int,
) -> Float[Array, "b"]:
    """Softmax cross-entropy averaged over an image's valid pixels; 0 for an image without any.

    `label_smoothing` moves that share of the target's mass to the uniform distribution
    (Szegedy et al. 2016, section 7).
    """
    valid = labels != ignore_label
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    target = jnp.where(valid, labels, 0).astype(jnp.int32)
    log_py = jnp.take_along_axis(log_p, target[..., None], -1)[..., 0]  # b h w
    pixel = -(1 - label_smoothing) * log_py - label_smoothing * log_p.mean(-1)
    return jnp.sum(pixel * valid, (1, 2)) / jnp.maximum(valid.sum((1, 2)), 1)
