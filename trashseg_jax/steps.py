"""The jitted train and eval steps and the state that they carry."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, UInt8

from trashseg_jax import metrics
from trashseg_jax.devices.compiling import compiler_options, on_cpu
from trashseg_jax.refine.calibration import Calibration, calibrated

# What travels from the pipeline to the step. Everything but what sharding.ON_HOST names is an array
# on the devices; a new key needs its source in data/pipeline.py and its use here, nothing else.
#
#   image  u8[b,s,s,3]   RGB
#   label  u8[b,s,s]     classes; 255: ignored
#   crop   i32[b,2]      training, where crops are drawn: the part of the square that is filled
#   size   i32[b,2]      where none are: height and width without padding
#   mask   bool[b]       evaluation: False for rows that only fill up the last batch
#   id     i64[b]        on the host: the record's
Batch = dict[str, Array]
# Folded into a step's key for what is left out at random in the network: beyond the few numbers of
# the keys that `augment` splits it into.
DROPOUT = 2**31


@struct.dataclass
class TrainState:
    """Everything a resumed run needs; arrays only. `ema` holds params and batch_stats, or is {}."""

    step: Any  # i32[]
    skipped: Any  # i32[], updates left out because they were not finite, in all sessions
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    ema: Any

    def eval_variables(self) -> dict[str, Any]:
        """Returns the averaged weights where an average is kept, else the trained ones."""
        return self.ema or {"params": self.params, "batch_stats": self.batch_stats}

    def with_variables(self, variables: dict[str, Any]) -> "TrainState":
        """Returns the state with other params and batch_stats, and so with another average."""
        # Copied: donating one buffer under two names is an error.
        ema = jax.tree.map(jnp.copy, variables) if self.ema else {}
        params, batch_stats = variables["params"], variables["batch_stats"]
        return dataclasses.replace(self, params=params, batch_stats=batch_stats, ema=ema)


def init_state(
    key: jax.Array, *, model: nn.Module, tx: optax.GradientTransformation, ema: bool
) -> TrainState:
    """Returns freshly initialised state."""
    # Any size gives these parameters. Not `lazy_init`: under `jit` and `eval_shape` nothing of the
    # forward pass is computed anyway, and tracing it for lazy_init takes twice as long.
    variables = dict(model.init(key, jnp.zeros((1, 32, 32, 3)), train=False))
    params = variables["params"]
    # Copied: donating one buffer under two names is an error.
    average = jax.tree.map(jnp.copy, variables) if ema else {}
    zero = jnp.zeros((), jnp.int32)
    batch_stats = variables["batch_stats"]
    return TrainState(zero, jnp.copy(zero), params, batch_stats, tx.init(params), average)


def make_train_step(
    model: nn.Module,
    tx: optax.GradientTransformation,
    loss_fn: Callable[[Array, Array], Array],
    *,
    augment: Callable[[jax.Array, Batch], Batch],
    normalize: Callable[[UInt8[Array, "b h w 3"]], Array],
    ema_decay: float,
    stop_at_nan: bool,
    skipped_before: int,
    accumulate: int,
    key: jax.Array,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
    """Returns jitted `(state, batch) -> (state, scalars)`; donates `state`.

    An update whose loss or gradient is not finite is left out and counted; with `stop_at_nan` the
    state then stays as it was before that step, whatever follows. Those that earlier sessions left
    out, `skipped_before`, freeze nothing. `accumulate`: see `accumulate_gradient`.

    `made`, of the scalars, counts the updates before this one as the optimizer's schedule does.
    """

    def train_step(state: TrainState, batch: Batch):
        step_key = jax.random.fold_in(key, state.step)  # resume-safe randomness
        batch = augment(step_key, batch)

        def compute_loss(params, batch_stats, part, dropout_key):
            variables = {"params": params, "batch_stats": batch_stats}
            logits, updated = model.apply(
                variables,
                normalize(part["image"]),
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": dropout_key},
            )
            return loss_fn(logits, part["label"]).mean(), updated["batch_stats"]

        grad_fn = jax.value_and_grad(compute_loss, has_aux=True)
        dropout_key = jax.random.fold_in(step_key, DROPOUT)
        (loss, batch_stats), grads = accumulate_gradient(
            grad_fn, state, batch, dropout_key, parts=accumulate
        )
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = update_ema(state, params, batch_stats, decay=ema_decay)
        new = TrainState(state.step + 1, state.skipped, params, batch_stats, opt_state, ema)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        made = state.step - state.skipped
        state = keep_finite(
            finite, new, state, stop_at_nan=stop_at_nan, skipped_before=skipped_before
        )
        scalars = {"loss": loss, "grad_norm": norm, "finite": finite}
        return state, {**scalars, "skipped": state.skipped, "made": made}

    return jax.jit(train_step, donate_argnames="state", compiler_options=compiler_options())


def accumulate_gradient(
    grad_fn: Callable[..., Any], state: TrainState, batch: Batch, key: jax.Array, *, parts: int
) -> Any:
    """Returns `((loss, batch_stats), grads)`, the batch taken in `parts`, one after the other.

    `grad_fn` takes params, batch_stats, a part of the batch and that part's own random key.
    Loss and gradient are the means over the parts, so those of the whole batch but for BatchNorm:
    it normalises with the moments of a part, and its averages move once a part.
    """
    if parts == 1:
        return grad_fn(state.params, state.batch_stats, batch, key)

    def split(rows):  # every parts-th row: so each device has its share of each part
        return rows.reshape(-1, parts, *rows.shape[1:]).swapaxes(0, 1)

    def add(carry, part_and_key):
        sums, batch_stats = carry
        part, part_key = part_and_key
        if on_cpu():
            part = after(part, sums)
        (loss, batch_stats), grads = grad_fn(state.params, batch_stats, part, part_key)
        return (jax.tree.map(jnp.add, sums, (loss, grads)), batch_stats), None

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    carry = ((jnp.zeros(()), zeros), state.batch_stats)
    inputs = (jax.tree.map(split, batch), jax.random.split(key, parts))
    # XLA for CPUs runs a loop's convolutions 20 times slower than those outside of one. Without a
    # loop it would begin all parts before the first one's gradient, and save no memory.
    (sums, batch_stats), _ = jax.lax.scan(add, carry, inputs, unroll=on_cpu())
    loss, grads = jax.tree.map(lambda total: total / parts, sums)
    return (loss, batch_stats), grads


def after(batch: Batch, earlier: Any) -> Batch:
    """Returns the batch, which what follows gets only when all of `earlier` is computed.

    For CPUs, whose compiler drops the barriers of `jax.lax`.
    """
    nothing = 0 * jnp.sum(jnp.stack([leaf.ravel()[0] for leaf in jax.tree.leaves(earlier)]))
    return {name: rows + nothing.astype(rows.dtype) for name, rows in batch.items()}


def keep_finite(
    finite: Array, new: TrainState, old: TrainState, *, stop_at_nan: bool, skipped_before: int
) -> TrainState:
    """Returns `new` if its update was finite, else `old` with the update counted as skipped."""
    if stop_at_nan:
        finite &= old.skipped == skipped_before
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
    step = kept.step if stop_at_nan else new.step
    return dataclasses.replace(kept, step=step, skipped=old.skipped + ~finite)


def update_ema(state: TrainState, params: Any, batch_stats: Any, *, decay: float) -> Any:
    """Returns the moving average; its decay grows from 0.1 to `decay`, as (1 + t) / (10 + t)."""
    if not state.ema:
        return state.ema
    rate = 1 - jnp.minimum(decay, (1 + state.step) / (10 + state.step))
    new = {"params": params, "batch_stats": batch_stats}
    return jax.tree.map(lambda old, new: old + rate * (new - old), state.ema, new)


def make_eval_step(
    model: nn.Module,
    loss_fn: Callable[[Array, Array], Array],
    *,
    normalize: Callable[[Array], Array],
    num_classes: int,
    probs: bool,
    calibration: Calibration | None = None,
    confidence: bool = False,
) -> Callable[[Any, Batch], Batch]:
    """Returns jitted `(variables, batch) -> outputs`.

    These are `prediction` u8[b,h,w], `loss` f32[b], `confusion` i32[b,k,k], in which rows with
    `mask` False count nowhere, and, only if asked for, `probs` f32[b,h,w,k] and `confidence`
    u8[b,h,w], the probability of the prediction in 255ths.
    """

    def eval_step(variables: Any, batch: Batch):
        logits: Any = model.apply(variables, normalize(batch["image"]), train=False)
        logits = calibrated(logits, calibration)
        prediction = jnp.argmax(logits, -1)
        confusion = metrics.confusion_matrix(
            batch["label"], prediction, num_classes=num_classes, by_pixel=on_cpu()
        )
        outputs = {
            "prediction": prediction.astype(jnp.uint8),
            "loss": loss_fn(logits, batch["label"]),
            "confusion": confusion * batch["mask"][:, None, None],
        }
        if confidence:
            best = jnp.max(logits, -1, keepdims=True)
            probability = 1 / jnp.sum(jnp.exp(logits - best), -1)
            outputs["confidence"] = jnp.rint(255 * probability).astype(jnp.uint8)
        return {**outputs, "probs": jax.nn.softmax(logits)} if probs else outputs

    return jax.jit(eval_step, compiler_options=compiler_options())
