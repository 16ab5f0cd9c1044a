"""This project's training, prediction and evaluation steps for a benchmark. No TensorFlow."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.interleave import Trial
from bench.options import NUM_CLASSES, Options
from trashseg_jax import build, steps
from trashseg_jax.configs import reference
from trashseg_jax.devices import sharding
from trashseg_jax.devices.compiling import compiler_options
from trashseg_jax.train import build_train_step, new_state


def train(options: Options, **changes: Any) -> Trial:
    """configs/reference.py:aistage's step, from a uint8 batch on the host to new weights.

    `changes` are keys of the config, with dots, and their values.
    """
    step, (state, _) = make_step(options, **changes)
    mesh, batch = sharding.make_mesh(), random_batch(options)
    compiled = step.lower(state, sharding.shard_batch(batch, mesh)).compile()

    def run(count: int) -> None:
        nonlocal state
        for _ in range(count):
            state, _ = compiled(state, sharding.shard_batch(batch, mesh))
        jax.block_until_ready(state)

    return Trial(run, options.batch, program_facts(compiled))


def train_accumulated(options: Options) -> Trial:
    return train(options, **{"train.accumulate": 4})


def train_remat(options: Options) -> Trial:
    return train(options, **{"train.remat": True})


def train_dilated(options: Options) -> Trial:
    return train(options, **{"model.output_stride": 16})


def infer(options: Options) -> Trial:
    """Uint8 photographs on the host to classes, uint8, on the host."""
    config, mesh, model, state = make_run(options)
    normalize = build.build_normalize(config)
    variables, batch = state.eval_variables(), random_batch(options)

    @partial(jax.jit, compiler_options=compiler_options())
    def predict(variables, image):
        logits: Any = model.apply(variables, normalize(image), train=False)
        return jnp.argmax(logits, -1).astype(jnp.uint8)

    compiled = predict.lower(variables, sharding.shard_batch(batch, mesh)["image"]).compile()

    def run(count: int) -> None:
        for _ in range(count):
            np.asarray(compiled(variables, sharding.shard_batch(batch, mesh)["image"]))

    return Trial(run, options.batch, program_facts(compiled))


def evaluate(options: Options) -> Trial:
    """Uint8 photographs and labels on the host to confusion matrices on the host."""
    config, mesh, model, state = make_run(options)
    eval_step: Any = steps.make_eval_step(
        model,
        build.build_loss(config, np.ones(NUM_CLASSES)),
        normalize=build.build_normalize(config),
        num_classes=NUM_CLASSES,
        probs=False,
    )
    variables = state.eval_variables()
    batch = {**random_batch(options), "mask": np.ones(options.batch, bool)}
    compiled = eval_step.lower(variables, sharding.shard_batch(batch, mesh)).compile()

    def run(count: int) -> None:
        for _ in range(count):
            np.asarray(compiled(variables, sharding.shard_batch(batch, mesh))["confusion"])

    return Trial(run, options.batch, program_facts(compiled))


def make_step(options: Options, **changes: Any) -> tuple[Any, tuple[Any, Any]]:
    """Returns the jitted training step, and a state and a batch on the device for it."""
    config, mesh, model, state = make_run(options, **changes)
    tx, _ = build.build_optimizer(config, steps=1000)
    loss_fn = build.build_loss(config, np.ones(NUM_CLASSES))
    step: Any = build_train_step(config, model, tx, loss_fn, skipped_before=0, size=options.size)
    return step, (state, sharding.shard_batch(random_batch(options), mesh))


def make_run(options: Options, **changes: Any) -> tuple[Any, Any, Any, steps.TrainState]:
    """Returns config, mesh, model and state, untrained."""
    config = reference.get_config("aistage")
    config.model.update({"dtype": options.dtype, "encoder": options.encoder})
    config.update_from_flattened_dict(changes)
    mesh = sharding.make_mesh()
    model = build.build_model(config, num_classes=NUM_CLASSES)
    tx, _ = build.build_optimizer(config, steps=1000)
    return config, mesh, model, new_state(config, model, tx, mesh)


def random_batch(options: Options) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (options.batch, options.size, options.size)
    return {
        "image": rng.integers(256, size=(*shape, 3), dtype=np.uint8),
        "label": rng.integers(NUM_CLASSES, size=shape, dtype=np.uint8),
    }


def program_facts(compiled: Any) -> dict[str, float]:
    """Returns what the compiler says of a program: operations, bytes read and written, memory."""
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    return {
        "flops": cost["flops"],
        "bytes": cost["bytes accessed"],
        "temp_bytes": memory.temp_size_in_bytes,
    }
