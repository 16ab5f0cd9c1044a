"""Config to data, model, loss and optimizer. Names resolve through plain dicts."""

import dataclasses
import math
import os
import threading
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float64

from trashseg_jax import alphas, losses, model_folder, optim
from trashseg_jax.data import augment, locks, sampling, taxonomy
from trashseg_jax.data.demo import scenes
from trashseg_jax.data.formats import FORMATS
from trashseg_jax.data.records import DataFolder
from trashseg_jax.devices import processes
from trashseg_jax.errors import InputError
from trashseg_jax.models import pretrained, unet
from trashseg_jax.refine import dense, pool
from trashseg_jax.settings import Config, choose

if TYPE_CHECKING:
    from trashseg_jax.data.builder import Prepared

# Keys of `config.model` that say with which weights a new run begins; the others make the network.
BEGINNING = ("init", "pretrained", "pretrained_prefix")


def lookup(config: Config, key: str) -> Any:
    """Returns the value of the dotted `key`."""
    for name in key.split("."):
        config = config[name]
    return config


def number(config: Config, key: str, *, below: float = math.inf) -> float:
    """Returns the value of the dotted `key`, which must be at least 0 and less than `below`."""
    value = lookup(config, key)
    if not 0 <= value < below:
        rule = "0 or more" if below == math.inf else f"at least 0 and less than {below}"
        raise InputError(f"config.{key}={value}: must be {rule}")
    return float(value)


def pair(config: Config, key: str) -> tuple[float, float]:
    """Returns the value of the dotted `key`, which must be two numbers, the first not larger."""
    value = lookup(config, key)
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
    given = {
        "path": demo_folder(config) if data.name == "demo" else data_folder(config),
        "class_map": taxonomy.load_class_map(data.class_map),
    }
    named = {f.name: data[f.name] for f in dataclasses.fields(DataFolder) if f.name not in given}
    prepared = builder.prepare(
        DataFolder(**given, **named),
        name=data.name,
        read=choose("data.format", data.format, FORMATS),
        cache_dir=cache_dir(config),
    )
    counts = [prepared.counts(split)[0].tobytes() for split in ("train", "val")]
    remedy = "config.data.dir must hold the same files on all hosts"
    processes.check_same("the data set", b"".join(counts), remedy=remedy)
    return prepared


def demo_folder(config: Config) -> Path:
    """Returns the folder of the demo's scenes, rendered now if they are not there yet."""
    arguments = config.data.demo.to_dict()
    name = "demo-" + "-".join(f"{key}{value}" for key, value in arguments.items())
    folder = Path(config.data.dir) if config.data.dir else cache_dir(config) / name
    with locks.locked(folder):
        scenes.render_demo(folder, **arguments)
    return folder


def data_folder(config: Config) -> Path:
    if not config.data.dir:
        raise InputError(
            f"config.data.dir is empty: data set {config.data.name!r} needs the folder with "
            "its json files and images; pass --config.data.dir=FOLDER"
        )
    return Path(config.data.dir).expanduser()


def build_model(config: Config, *, num_classes: int) -> unet.UNet:
    options = {key: value for key, value in config.model.items() if key not in BEGINNING}
    return unet.make_unet(num_classes=num_classes, remat=config.train.remat, **options)


def load_beginning(
    config: Config, model: unet.UNet, variables: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    """Returns the model's `variables` as a new run begins with them, and what is to be said of it.

    With `model.pretrained` the encoder's are another's, with `model.init` all of them.
    """
    if config.model.init and config.model.pretrained:
        raise InputError(
            f"config.model.init={config.model.init} and config.model.pretrained="
            f"{config.model.pretrained}: a run begins with a whole network or with an encoder's "
            "weights, not both; set one to nothing"
        )
    if config.model.init:
        return load_init(config, variables)
    return load_pretrained(config, model, variables), ""


def load_init(config: Config, variables: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Takes the variables of the folder `model.init`, but a head for other classes."""
    name, classes = config.model.init, taxonomy.load_class_map(config.data.class_map).classes
    start = model_folder.read(Path(name).expanduser())
    wanted = {f"model.{key}": config.model[key] for key in start.architecture}
    wanted["data.normalize"] = config.data.normalize
    stored = {f"model.{key}": value for key, value in start.architecture.items()}
    stored["data.normalize"] = start.normalize
    different = sorted(key for key in wanted if wanted[key] != stored[key])
    if different:
        flags = " ".join(f"--config.{key}={stored[key]}".replace(" ", "") for key in different)
        raise InputError(
            f"config.model.init={name}: is another network than this config's; pass {flags}"
        )
    if start.classes == classes:
        return start.variables, f"{name}: the whole network begins with its weights"
    kept = {kind: dict(tree) for kind, tree in start.variables.items()}
    kept["params"]["head"] = variables["params"]["head"]
    return kept, (
        f"{name}: the network begins with its weights, but for its head, which is drawn anew: its "
        f"classes are {', '.join(start.classes)}, and now {', '.join(classes)}"
    )


def load_pretrained(config: Config, model: unet.UNet, variables: dict[str, Any]) -> dict[str, Any]:
    """Returns the model's `variables` with the encoder's weights that `model.pretrained` names."""
    fresh = {kind: tree["encoder"] for kind, tree in variables.items()}
    loaded = pretrained.load_encoder(
        config.model.pretrained,
        fresh,
        encoder=model.encoder,
        prefix=config.model.pretrained_prefix,
    )
    return {kind: {**tree, "encoder": loaded[kind]} for kind, tree in variables.items()}


def build_alpha(config: Config, data: "Prepared") -> Float64[np.ndarray, "k"]:
    """Returns the loss's class weights, from the training split as it is, not as resampled.

    Warns of classes that never occur in it, which weigh 0.
    """
    pixels, annotations = data.counts("train")
    counts = alphas.class_counts(pixels, annotations)
    kind, scheme = config.loss.alpha_counts, config.loss.alpha
    counted = choose("loss.alpha_counts", kind, counts)
    if scheme == "effective_number" and kind == "pixels":
        raise InputError(
            "config.loss.alpha_counts='pixels': effective_number would weigh all classes alike, "
            "as pixels are far more than 1 / (1 - beta); use images or annotations"
        )
    power = number(config, "loss.alpha_power")
    beta = number(config, "loss.alpha_beta", below=1.0)
    schemes = {
        "none": lambda: np.ones(len(counted)),
        "annotation_ratio": lambda: alphas.annotation_ratio(counts["annotations"]),
        "inverse_frequency": lambda: alphas.inverse_frequency(counted, power=power),
        "median_frequency": lambda: alphas.median_frequency(pixels),
        "effective_number": lambda: alphas.effective_number(counted, beta=beta),
        "enet": lambda: alphas.enet(counts["pixels"]),
    }
    alpha = choose("loss.alpha", scheme, schemes)()
    for name in np.array(data.classes)[alpha == 0]:
        warnings.warn(f"class {name} never occurs in the training split: alpha 0", stacklevel=2)
    return alpha


def build_loss(config: Config, alpha: Float64[np.ndarray, "k"]) -> Callable[..., Any]:
    """Returns `(logits, labels) -> loss per example`, the region term added."""
    pixel, region = _pixel_loss(config, alpha), _region_loss(config)
    weight = number(config, "loss.region_weight")
    return losses.add_region(pixel, region, weight=weight) if region else pixel


def _pixel_loss(config: Config, alpha: Float64[np.ndarray, "k"]) -> Callable[..., Any]:
    choose("loss.reduction", config.loss.reduction, losses.REDUCTIONS)
    options = {
        "alpha": jnp.asarray(alpha, jnp.float32),
        "label_smoothing": number(config, "loss.label_smoothing", below=1.0),
        "reduction": config.loss.reduction,
        "ignore_label": taxonomy.IGNORE_LABEL,
    }
    gamma = number(config, "loss.gamma")
    pixel_losses = {
        "cross_entropy": partial(losses.cross_entropy, **options),
        "focal": partial(losses.focal_loss, gamma=gamma, **options),
    }
    return choose("loss.name", config.loss.name, pixel_losses)


def _region_loss(config: Config) -> Callable[..., Any] | None:
    ignore_label = taxonomy.IGNORE_LABEL
    alpha, beta = number(config, "loss.tversky_alpha"), number(config, "loss.tversky_beta")
    tversky = partial(losses.tversky_loss, alpha=alpha, beta=beta, ignore_label=ignore_label)
    region_losses = {
        "none": None,
        "dice": partial(losses.dice_loss, ignore_label=ignore_label),
        "lovasz": partial(losses.lovasz_softmax, ignore_label=ignore_label),
        "tversky": tversky,
    }
    return choose("loss.region", config.loss.region, region_losses)


def build_image_weights(config: Config, data: "Prepared") -> Float64[np.ndarray, "n"]:
    """Returns how often each training image is drawn, relative to the others."""
    pixels, _ = data.counts("train")
    power = number(config, "data.sampling.power")
    threshold = number(config, "data.sampling.threshold")
    samplers = {
        "uniform": lambda: np.ones(len(pixels)),
        "class_balanced": lambda: sampling.class_balanced(pixels, power=power),
        "repeat_factor": lambda: sampling.repeat_factor(pixels, threshold=threshold),
    }
    return choose("data.sampling.name", config.data.sampling.name, samplers)()


def build_index(config: Config, weights: Float64[np.ndarray, "n"]) -> Callable[[int], int]:
    """Returns the training stream as `position -> record`; "uniform" means epochs, not draws."""
    if config.data.sampling.name == "uniform":
        return partial(sampling.uniform_index, seed=config.seed, size=len(weights))
    table = sampling.alias_table(weights)
    return partial(sampling.weighted_index, seed=config.seed, table=table)


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


def stops_at_nan(config: Config) -> bool:
    return choose("nan_policy", config.nan_policy, {"stop": True, "skip": False})


def build_augment(config: Config) -> Callable[..., Any]:
    amounts = {name: config.data.augment[name] for name in augment.AUGMENTATIONS}
    return augment.make_augment(**amounts)


def build_crf(config: Config) -> pool.CrfPool:
    """Returns a pool that is not started yet; raises InputError where it could not work."""
    options = config.crf.to_dict()
    del options["enabled"]
    workers = options.pop("workers")
    timeout = options.pop("timeout")
    if workers < -1:
        raise InputError(f"config.crf.workers={workers}: must be 0 or more, or -1 for all cores")
    if not 0 < timeout <= threading.TIMEOUT_MAX:
        raise InputError(f"config.crf.timeout={timeout}: must be a positive number of seconds")
    for key, value in options.items():
        if value < 0 or (value == 0 and not key.endswith("compat")):
            raise InputError(
                f"config.crf.{key}={value}: must be positive; to leave a term out, set its "
                "compat to 0"
            )
    dense.import_densecrf()
    return pool.CrfPool(workers, partial(dense.refine, **options), timeout=timeout)


def build_normalize(config: Config) -> Callable[..., Any]:
    return augment.make_normalize(config.data.normalize)
