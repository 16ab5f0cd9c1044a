"""Config to data, model, loss and optimizer. Names resolve through plain dicts."""

import math
import os
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import flax.linen as nn
import jax.numpy as jnp
import optax

from trashseg_jax import crf, losses, optim
from trashseg_jax.data import augment, demo, taxonomy
from trashseg_jax.errors import InputError
from trashseg_jax.models import resnet, unet

if TYPE_CHECKING:
    from trashseg_jax.data.builder import Prepared

# An ml_collections.ConfigDict. A type checker takes each of its attributes for a union of all
# that a config may hold, so there is nothing for it to check.
Config: TypeAlias = Any

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
LOSSES = {"cross_entropy": losses.cross_entropy}


def resolve_config(config: Config, *, overridden: Collection[str]) -> None:
    """Fills in, in place, what follows from other keys: the recipe, and steps against epochs.

    `overridden` names the keys that a flag has set (`optimizer.learning_rate`): they stay.
    """
    recipe = choose("recipe", config.recipe, config.recipes)
    for key, value in flatten(recipe):
        if key not in overridden:
            config.update_from_flattened_dict({key: value})
    if "train.epochs" in overridden and "train.steps" not in overridden:
        config.train.steps = 0
    if "train.steps" in overridden and "train.epochs" not in overridden:
        config.train.epochs = 0.0


def flatten(config: Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of every leaf."""
    for key, value in config.items():
        if hasattr(value, "items"):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def choose(key: str, name: str, options: Any) -> Any:
    """Returns `options[name]`; raises InputError naming the config key and the options."""
    if name not in options:
        raise InputError(f"config.{key}={name!r}: must be one of {', '.join(options)}")
    return options[name]


def pair(config: Config, key: str) -> tuple[float, float]:
    """Returns the value of the dotted `key`, which must be two numbers, the first not larger."""
    value = config
    for name in key.split("."):
        value = value[name]
    numbers = [v for v in value if isinstance(v, int | float)]
    if len(value) != 2 or len(numbers) != 2 or not 0 < value[0] <= value[1]:
        raise InputError(
            f"config.{key}={value}: must be two positive numbers in ascending order; "
            f'pass "--config.{key}=(LOW, HIGH)"'
        )
    return float(value[0]), float(value[1])


def num_steps(config: Config, *, num_images: int) -> int:
    """Returns the training length, from `train.steps` or else `train.epochs`."""
    steps, epochs = config.train.steps, config.train.epochs
    if (steps > 0) == (epochs > 0):
        raise InputError(
            f"config.train.steps={steps} and config.train.epochs={epochs}: exactly one of them "
            "must be positive; set the other to 0"
        )
    return steps if steps > 0 else math.ceil(epochs * num_images / config.train.batch_size)


def cache_dir(config: Config) -> Path:
    """Returns where prepared data lies."""
    if config.data.cache_dir:
        return Path(config.data.cache_dir).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "trashseg_jax"


def build_data(config: Config) -> "Prepared":
    """Renders the demo if it is asked for, and prepares the data set; later calls find both."""
    from trashseg_jax.data import builder  # TensorFlow

    data = config.data
    return builder.prepare(
        name=data.name,
        folder=demo_folder(config) if data.name == "demo" else data_folder(config),
        train_file=data.train_file,
        val_file=data.val_file,
        val_fraction=data.val_fraction,
        class_map=taxonomy.load_class_map(data.class_map),
        paint_order=data.paint_order,
        skip_bad=data.skip_bad,
        cache_dir=cache_dir(config),
    )


def demo_folder(config: Config) -> Path:
    """Returns the folder of the demo's scenes, rendered now if they are not there yet."""
    scenes = config.data.demo.to_dict()
    name = "demo-" + "-".join(f"{key}{value}" for key, value in scenes.items())
    folder = Path(config.data.dir) if config.data.dir else cache_dir(config) / name
    demo.render_demo(folder, **scenes)
    return folder


def data_folder(config: Config) -> Path:
    if not config.data.dir:
        raise InputError(
            f"config.data.dir is empty: data set {config.data.name!r} needs the folder with "
            "its json files and images; pass --config.data.dir=FOLDER"
        )
    return Path(config.data.dir).expanduser()


def build_model(config: Config, *, num_classes: int) -> nn.Module:
    model = config.model
    dtype = choose("model.dtype", model.dtype, DTYPES)
    encoder = choose("model.encoder", model.encoder, resnet.ENCODERS)
    return unet.UNet(
        encoder=encoder(width=model.width, dtype=dtype),
        num_classes=num_classes,
        decoder_features=tuple(model.decoder_features),
        dtype=dtype,
    )


def build_loss(config: Config) -> Callable[..., Any]:
    """Returns `(logits, labels) -> loss per example`."""
    return partial(
        choose("loss.name", config.loss.name, LOSSES),
        label_smoothing=config.loss.label_smoothing,
        ignore_label=taxonomy.IGNORE_LABEL,
    )


def build_optimizer(
    config: Config, *, steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Returns the optimizer and its learning rate schedule, for the log."""
    options = config.optimizer
    schedule = optim.make_schedule(
        options.schedule,
        learning_rate=options.learning_rate,
        steps=steps,
        warmup_steps=options.warmup_steps,
    )
    tx = optim.make_optimizer(
        options.name,
        schedule,
        weight_decay=options.weight_decay,
        clip_norm=options.clip_norm,
    )
    return tx, schedule


def build_augment(config: Config) -> Callable[..., Any]:
    options = config.data.augment
    return augment.make_augment(
        flip=options.flip,
        brightness=options.brightness,
        contrast=options.contrast,
        saturation=options.saturation,
    )


def build_crf(config: Config) -> crf.CrfPool:
    """Returns a pool that is not started yet; raises InputError where it could not work."""
    options = config.crf.to_dict()
    del options["enabled"]
    workers = options.pop("workers")
    if workers < -1:
        raise InputError(f"config.crf.workers={workers}: must be 0 or more, or -1 for all cores")
    for key, value in options.items():
        if value < 0 or (value == 0 and not key.endswith("compat")):
            raise InputError(
                f"config.crf.{key}={value}: must be positive; to leave a term out, set its "
                "compat to 0"
            )
    crf.import_densecrf()
    return crf.CrfPool(workers, options)


def build_normalize(config: Config) -> Callable[..., Any]:
    return augment.make_normalize(config.data.normalize)
