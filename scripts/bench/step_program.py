"""The compiled training step of configs/reference.py:aistage, for scripts that read programs."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from trashseg_jax import build
from trashseg_jax.configs import reference
from trashseg_jax.evaluate import abstract_state
from trashseg_jax.train import build_train_step

NUM_CLASSES = 11


def compile_step(
    mesh: Mesh, *, rows: int, image_size: int, dtype: str, **options: Any
) -> tuple[Any, Any]:
    """Returns the state's shapes and the step, compiled for `rows` images on each device.

    `options` are keys of `config.train`. The batch holds crops, as that of a run does.
    """
    config = reference.get_config("aistage")
    config.train.update(options)
    config.data.dir = "none"
    config.model.dtype = dtype
    model = build.build_model(config, num_classes=NUM_CLASSES)
    tx, _ = build.build_optimizer(config, steps=1000)
    state = abstract_state(config, model, tx, mesh)
    split = NamedSharding(mesh, PartitionSpec("data"))
    images = mesh.size * rows
    shape = (images, image_size, image_size)
    batch = {
        "image": jax.ShapeDtypeStruct((*shape, 3), np.uint8, sharding=split),
        "label": jax.ShapeDtypeStruct(shape, np.uint8, sharding=split),
        "crop": jax.ShapeDtypeStruct((images, 2), np.int32, sharding=split),
    }
    loss_fn = build.build_loss(config, np.ones(NUM_CLASSES))
    step: Any = build_train_step(config, model, tx, loss_fn, skipped_before=0, size=image_size)
    return state, step.lower(state, batch).compile()
