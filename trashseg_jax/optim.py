"""Learning rate schedules and optimizers, from optax."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from trashseg_jax.settings import choose

Path = tuple[str, ...]  # of a leaf of the params: ("encoder", "layer1_0", "conv1", "kernel")


def make_schedule(
    name: str, *, learning_rate: float, steps: int, warmup_steps: int
) -> optax.Schedule:
    """Returns step -> learning rate: linear warm-up, then `name` down to step `steps`.

    `cosine` ends at 0 (Loshchilov & Hutter 2017), `polynomial` has power 0.9 (Chen et al. 2017,
    the "poly" policy), `constant` stays. The warm-up's first step is not 0.
    """
    decay_steps = max(steps - warmup_steps, 1)
    decays = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, decay_steps),
        "polynomial": lambda: optax.polynomial_schedule(learning_rate, 0.0, 0.9, decay_steps),
    }
    decay = choose("optimizer.schedule", name, decays)()
    if not warmup_steps:
        return decay
    warmup = optax.linear_schedule(learning_rate / (warmup_steps + 1), learning_rate, warmup_steps)
    return optax.join_schedules([warmup, decay], [warmup_steps])


def make_optimizer(
    name: str, schedule: optax.Schedule, *, weight_decay: float, clip_norm: float
) -> optax.GradientTransformation:
    """Returns `adam` or `adamw`, after clipping by the global norm unless `clip_norm` is 0.

    `adam` adds the decay to the gradient of every parameter, as torch.optim.Adam does;
    `adamw` decouples it (Loshchilov & Hutter 2019) and spares BatchNorm and biases.
    """
    optimizers = {
        "adam": lambda: optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(schedule)),
        "adamw": lambda: optax.adamw(schedule, weight_decay=weight_decay, mask=is_kernel),
    }
    optimizer = choose("optimizer.name", name, optimizers)()
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    return optax.chain(*clip, optimizer)


def is_kernel(params: Any) -> Any:
    """Returns a tree of bools: True for convolution kernels, False for scales and biases."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def scale_updates(
    tx: optax.GradientTransformation,
    factor_of: Callable[[Path, tuple[int, ...]], float | None],
    *,
    hold_steps: int,
) -> optax.GradientTransformation:
    """Returns `tx` with each leaf's updates, weight decay included, times `factor_of(path, shape)`.

    That is a learning rate of its own, since Adam's updates do not depend on the gradient's scale
    (Howard & Ruder 2018, "discriminative fine-tuning"). Leaves with a factor also do not move in
    the first `hold_steps` updates; those with None are left alone. Gradients, clipping and moments
    are as without, so a leaf that is released goes on with moments that are settled.

    The state is that of `tx`: a run may go on with other factors.
    """

    def update(updates, state, params=None):
        moves = updates_made(state) >= hold_steps

        def scale(path, leaf):
            factor = factor_of(tuple(key.key for key in path), leaf.shape)
            if factor is None:
                return leaf
            return jnp.where(moves, factor * leaf, 0) if hold_steps else factor * leaf

        updates, state = tx.update(updates, state, params)
        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformation(tx.init, update)


def updates_made(state: optax.OptState) -> Array:
    """Returns the schedule's count: the updates that an optimizer of `make_optimizer` has made."""

    def is_schedules(path, _):
        return path[-1].tuple_name == "ScaleByScheduleState"

    return optax.tree_utils.tree_get(state, "count", filtering=is_schedules)
