"""Config to data, model, loss and optimizer. Names resolve through plain dicts."""

import dataclasses
import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float64, Int64

from trashseg_jax import alphas, folders, losses, model_folder, optim
from trashseg_jax.configs import default
from trashseg_jax.data import augment, locks, mix, object_bank, paste, sampling, taxonomy
from trashseg_jax.data.demo import scenes
from trashseg_jax.data.formats import FORMATS, coco
from trashseg_jax.data.formats.coco_annotations import BOXES, CROWDS
from trashseg_jax.data.painting import PAINT_ORDERS
from trashseg_jax.data.records import EXIF, DataFolder
from trashseg_jax.data.training_sets import TrainingSet, TrainingSets
from trashseg_jax.devices import processes
from trashseg_jax.errors import InputError
from trashseg_jax.models import pretrained, unet
from trashseg_jax.refine import engines
from trashseg_jax.settings import Config, check_hold, check_warmup, choose, expand_home

if TYPE_CHECKING:
    from trashseg_jax.data.builder import Prepared

# Keys of `config.model` that say with which weights a new run begins; the others make the network.
BEGINNING = ("init", "pretrained", "pretrained_prefix")
# Keys of `config.data` that say how each data set is read, also one that is mixed in; the others
# say where the main one's parts are, or what its json means.
HOW_TO_READ = ("paint_order", "crowd", "boxes", "skip_bad")


def check_options(config: Config) -> None:
    """Raises InputError for unknown names and for options that exclude each other.

    All that can be said before the data are read, and that configs/ranges.py cannot know.
    """
    classes = taxonomy.load_class_map(config.data.class_map).classes
    nothing = np.zeros((1, len(classes)), np.int64)
    choose("data.format", config.data.format, FORMATS)
    data_options = {"paint_order": PAINT_ORDERS, "crowd": CROWDS, "boxes": BOXES, "exif": EXIF}
    for key, options in data_options.items():
        choose(f"data.{key}", config.data[key], options)
    for entry in mix.parse(config.data.mix):
        mixed_class_map(entry, classes)
    image_weighting(config, nothing)
    alpha_scheme(config, nothing, nothing)
    if config.loss.alpha_values:
        alphas.own_weights(config.loss.alpha_values, classes=classes)
    build_model(config, num_classes=len(classes))
    build_loss(config, np.ones(len(classes)), np.ones(len(classes)))
    build_optimizer(config, steps=1)
    build_normalize(config)
    stops_at_nan(config)
    if config.crf.enabled:
        build_crf(config.crf, side=config.data.image_size)


def num_steps(config: Config, *, num_images: int) -> int:
    """Returns the training length, from `train.steps` or else `train.epochs`.

    Raises InputError where the warm-up, or the time in which the encoder is held, is no shorter.
    """
    epochs = config.train.epochs
    steps = config.train.steps or math.ceil(epochs * num_images / config.train.batch_size)
    check_warmup(config, steps=steps)
    check_hold(config, steps=steps)
    return steps


def cache_dir(config: Config) -> Path:
    """Returns where prepared data lies."""
    if config.data.cache_dir:
        return Path(config.data.cache_dir)
    return folders.user_cache()


def build_data(config: Config, *, for_training: bool = True) -> "Prepared":
    """Renders the demo if it is asked for, and prepares the data set; later calls find both.

    Of a COCO data set that is not `for_training` the training split may be missing.
    """
    from trashseg_jax.data import builder  # TensorFlow

    data, folder = config.data, build_folder(config)
    read = choose("data.format", data.format, FORMATS)
    alone = not for_training and data.format == "coco" and config.eval.split == "val"
    if alone and not coco.find_jsons(folder, split="train"):
        read = coco.read_val
    prepared = builder.prepare(folder, name=data.name, read=read, cache_dir=cache_dir(config))
    counts = [prepared.counts(split)[0].tobytes() for split in prepared.splits]
    remedy = "config.data.dir must hold the same files on all hosts"
    processes.check_same("the data set", b"".join(counts), remedy=remedy)
    return prepared


def build_folder(config: Config) -> DataFolder:
    """Returns the data set's folder as a reader takes it; renders the demo if it is asked for."""
    data = config.data
    given = {
        "path": demo_folder(config) if data.name == "demo" else Path(data.dir),
        "class_map": taxonomy.load_class_map(data.class_map),
    }
    named = {f.name: data[f.name] for f in dataclasses.fields(DataFolder) if f.name not in given}
    return DataFolder(**given, **named)


def build_training_sets(config: Config, data: "Prepared", *, mixed: bool = True) -> TrainingSets:
    """Returns `data`, the main data set, and if `mixed` what `data.mix` names, prepared like it."""
    entries = mix.parse(config.data.mix) if mixed else []
    left = 1 - math.fsum(entry.share for entry in entries)
    main = TrainingSet(config.data.dir or config.data.name, left, data)
    mixed_in = (
        TrainingSet(entry.name, entry.share, prepare_mixed(config, entry, data.classes))
        for entry in entries
    )
    return TrainingSets((main, *mixed_in))


def prepare_mixed(config: Config, entry: mix.Entry, classes: tuple[str, ...]) -> "Prepared":
    """Prepares the training images of an entry of `data.mix`; InputError says which it is."""
    from trashseg_jax.data import builder  # TensorFlow

    folder = mixed_folder(config, entry, classes)
    try:
        prepared = builder.prepare(
            folder,
            name=entry.preset,
            read=FORMATS[default.data_format(entry.preset)],
            cache_dir=cache_dir(config),
        )
    except InputError as error:
        raise _fault_of_mixed(entry, error) from error
    processes.check_same(
        f"config.data.mix, {entry.name}",
        prepared.counts("train")[0].tobytes(),
        remedy="the folder must hold the same files on all hosts",
    )
    return prepared


def mixed_folder(config: Config, entry: mix.Entry, classes: tuple[str, ...]) -> DataFolder:
    """Returns the folder of an entry of `data.mix`, its labels those of the run's `classes`."""
    preset: Any = default.get_config(entry.preset).data
    given = {"path": entry.path, "class_map": mixed_class_map(entry, classes)}
    given |= {key: config.data[key] for key in HOW_TO_READ}
    given["val_file"] = ""  # nothing is held out of it
    if entry.json_file:
        given["train_file"] = entry.json_file.relative_to(entry.path).as_posix()
    named = {f.name: preset[f.name] for f in dataclasses.fields(DataFolder) if f.name not in given}
    return DataFolder(**given, **named)


def mixed_class_map(entry: mix.Entry, classes: tuple[str, ...]) -> taxonomy.ClassMap:
    """Returns an entry's class map, its labels those of the run's `classes`.

    It is the one that the entry names, the folder's own, or else its preset's.
    """
    own, preset = entry.path / mix.OWN_MAP, cast(Any, default.get_config(entry.preset))
    named = expand_home(entry.class_map) or (str(own) if own.is_file() else "")
    try:
        if not entry.path.is_dir():
            raise InputError(f"{entry.path} is not a folder; correct it, or restore the folder")
        name = named or preset.data.class_map
        if not name:
            raise InputError(
                f"{entry.path} has no {mix.OWN_MAP}; name one as config.data.class_map"
            )
        return taxonomy.relabel(taxonomy.load_class_map(name), classes)
    except InputError as error:
        raise _fault_of_mixed(entry, error) from error


def _fault_of_mixed(entry: mix.Entry, error: InputError) -> InputError:
    """Returns the error with the entry's name; it says how a mix states what it asks for."""
    forms = {"class_map": "PRESET:FOLDER:CLASS_MAP=SHARE", "train_file": "PRESET:FOLDER/JSON=SHARE"}
    how = [
        f"of a data set that is mixed in, data.{key} is stated as {form}"
        for key, form in forms.items()
        if f"config.data.{key}" in str(error)
    ]
    return InputError("; ".join([f"config.data.mix, {entry.name}: {error}", *how]))


def demo_folder(config: Config) -> Path:
    """Returns the folder of the demo's scenes, rendered now if they are not there yet."""
    arguments = config.data.demo.to_dict()
    name = "demo-" + "-".join(f"{key}{value}" for key, value in arguments.items())
    folder = Path(config.data.dir) if config.data.dir else cache_dir(config) / name
    option = "data.dir" if config.data.dir else "data.cache_dir"
    with folders.explained(folder, f"name another folder with --config.{option}"):
        lock = locks.ensure(
            folder,
            is_there=partial(scenes.is_rendered, folder, **arguments),
            make=partial(scenes.render_demo, folder, **arguments),
        )
    if lock:
        lock.close()
    return folder


def build_model(config: Config, *, num_classes: int) -> unet.UNet:
    options = {key: value for key, value in config.model.items() if key not in BEGINNING}
    trained = {key: config.train[key] for key in unet.UNTRAINED}
    return unet.make_unet(num_classes=num_classes, **trained, **options)


def load_beginning(
    config: Config, model: unet.UNet, variables: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    """Returns the model's `variables` as a new run begins with them, and what is to be said of it.

    With `model.pretrained` the encoder's are another's, with `model.init` all of them.
    """
    if config.model.init:
        return load_init(config, variables)
    return load_pretrained(config, model, variables), ""


def load_init(config: Config, variables: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Takes the variables of the folder `model.init`, but a head for other classes."""
    name, classes = config.model.init, taxonomy.load_class_map(config.data.class_map).classes
    start = model_folder.read(Path(expand_home(name)))
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


def take_loaded(variables: dict[str, Any], loaded: dict[str, Any]) -> dict[str, Any]:
    """Returns `variables` with what `load_beginning` gave, but for what is abstract in it.

    That is what no file has; `loaded` may be of a model with other classes.
    """

    def take(own, other):
        return own if isinstance(other, jax.ShapeDtypeStruct) else other

    return jax.tree.map(take, variables, loaded)


def build_alpha(config: Config, data: "Prepared | TrainingSets") -> Float64[np.ndarray, "k"]:
    """Returns the loss's class weights: the user's, or a scheme's.

    A scheme sees the training split as it is, not as resampled. Warns of classes that never occur
    in it, which then weigh 0.
    """
    if config.loss.alpha_values:
        return alphas.own_weights(config.loss.alpha_values, classes=data.classes)
    if config.loss.alpha == "none":
        return np.ones(len(data.classes))
    pixels, annotations = data.counts("train")
    alpha = alpha_scheme(config, pixels, annotations)()
    for name in np.array(data.classes)[alpha == 0]:
        line = f"class {name} never occurs in the training split: its weight (alpha) is 0"
        warnings.warn(line, stacklevel=2)
    return alpha


def alpha_scheme(
    config: Config, pixels: Int64[np.ndarray, "n k"], annotations: Int64[np.ndarray, "n k"]
) -> Callable[[], Float64[np.ndarray, "k"]]:
    """Returns the function that computes the alpha scheme's class weights from these counts."""
    return choose("loss.alpha", config.loss.alpha, alpha_schemes(config, pixels, annotations))


def alpha_schemes(
    config: Config, pixels: Int64[np.ndarray, "n k"], annotations: Int64[np.ndarray, "n k"]
) -> dict[str, Callable[[], Float64[np.ndarray, "k"]]]:
    """Returns the function of each scheme that `loss.alpha` may name."""
    loss = config.loss
    counts = alphas.class_counts(pixels, annotations)
    counted = choose("loss.alpha_counts", loss.alpha_counts, counts)
    power, beta = loss.alpha_power, loss.alpha_beta
    return {
        "none": lambda: np.ones(len(counted)),
        "annotation_ratio": lambda: alphas.annotation_ratio(counts["annotations"]),
        "inverse_frequency": lambda: alphas.inverse_frequency(counted, power=power),
        "median_frequency": lambda: alphas.median_frequency(pixels),
        "effective_number": lambda: alphas.effective_number(counted, beta=beta),
        "enet": lambda: alphas.enet(counts["pixels"]),
    }


def build_priors(
    config: Config, data: "Prepared | TrainingSets", image_weights: Float64[np.ndarray, "n"]
) -> Float64[np.ndarray, "k"]:
    """Returns each class's share of the training pixels, as drawn and as the loss counts them.

    Crops are not accounted for. Warns of absent classes where `loss.logit_adjustment` needs them.
    """
    pixels, _ = data.counts("train")
    by_image = config.loss.reduction != "reference"
    priors = alphas.class_priors(pixels, image_weights, by_image=by_image)
    if config.loss.logit_adjustment:
        for name in np.array(data.classes)[priors == 0]:
            line = f"class {name} never occurs in the training split: its logit is not adjusted"
            warnings.warn(line, stacklevel=2)
    return priors


def natural_priors(sets: TrainingSets) -> Float64[np.ndarray, "k"]:
    """Returns each class's share of the main training split's pixels, each of them counted once.

    As validation images have it, which come from the same data set and are neither weighted nor
    mixed with others.
    """
    pixels, _ = sets.main.counts("train")
    return alphas.class_priors(pixels, np.ones(len(pixels)), by_image=False)


def build_loss(
    config: Config,
    alpha: Float64[np.ndarray, "k"],
    priors: Float64[np.ndarray, "k"] | None = None,
) -> Callable[..., Any]:
    """Returns `(logits, labels) -> loss per example`, the region term added.

    `priors`, which `build_priors` returns, are needed for `loss.logit_adjustment`. It adjusts what
    the pixels' loss sees; the region term sees the logits that predict.
    """
    pixel, region = _pixel_loss(config, alpha), _region_loss(config)
    if tau := config.loss.logit_adjustment:
        if priors is None:
            raise ValueError("loss.logit_adjustment needs the priors of the training pixels")
        offset = jnp.asarray(tau * alphas.log_priors(priors), jnp.float32)
        pixel = losses.adjust_logits(pixel, offset)
    weight = config.loss.region_weight
    return losses.add_region(pixel, region, weight=weight) if region else pixel


def _pixel_loss(config: Config, alpha: Float64[np.ndarray, "k"]) -> Callable[..., Any]:
    choose("loss.reduction", config.loss.reduction, losses.REDUCTIONS)
    options = {
        "alpha": jnp.asarray(alpha, jnp.float32),
        "label_smoothing": config.loss.label_smoothing,
        "hard_share": config.loss.hard_share,
        "reduction": config.loss.reduction,
        "ignore_label": taxonomy.IGNORE_LABEL,
    }
    pixel_losses = {
        "cross_entropy": partial(losses.cross_entropy, bootstrap=config.loss.bootstrap, **options),
        "focal": partial(losses.focal_loss, gamma=config.loss.gamma, **options),
    }
    return choose("loss.name", config.loss.name, pixel_losses)


def _region_loss(config: Config) -> Callable[..., Any] | None:
    ignore_label = taxonomy.IGNORE_LABEL
    constants = {"alpha": config.loss.tversky_alpha, "beta": config.loss.tversky_beta}
    tversky = partial(losses.tversky_loss, **constants, ignore_label=ignore_label)
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
    return image_weighting(config, pixels)()


def mix_image_weights(config: Config, sets: TrainingSets) -> Float64[np.ndarray, "n"]:
    """Returns the same of all sets' images: each set's weights, their sum its share if mixed."""
    weights = [build_image_weights(config, one.data) for one in sets.sets]
    if not sets.mixed_in:
        return weights[0]
    pairs = zip(sets.sets, weights, strict=True)
    return np.concatenate([one.share / own.sum() * own for one, own in pairs])


def image_weighting(
    config: Config, pixels: Int64[np.ndarray, "n k"]
) -> Callable[[], Float64[np.ndarray, "n"]]:
    """Returns the function that computes the images' weights of `data.sampling.name`."""
    samplers = image_weightings(config, pixels)
    return choose("data.sampling.name", config.data.sampling.name, samplers)


def image_weightings(
    config: Config, pixels: Int64[np.ndarray, "n k"]
) -> dict[str, Callable[[], Float64[np.ndarray, "n"]]]:
    """Returns the function of each sampler that `data.sampling.name` may name."""
    options = config.data.sampling
    return {
        "uniform": lambda: np.ones(len(pixels)),
        "class_balanced": lambda: sampling.class_balanced(pixels, power=options.power),
        "repeat_factor": lambda: sampling.repeat_factor(pixels, threshold=options.threshold),
    }


def build_index(
    config: Config, weights: Float64[np.ndarray, "n"], *, number: int
) -> Callable[[int], int]:
    """Returns a set's training stream, `position -> record`; "uniform" means epochs, not draws.

    Each of several sets has a number, and its stream: the main one is 0.
    """
    seed = config.seed + (number << 32)  # above all seeds
    if config.data.sampling.name == "uniform":
        return partial(sampling.uniform_index, seed=seed, size=len(weights))
    return partial(sampling.weighted_index, seed=seed, table=sampling.alias_table(weights))


def mix_index(
    config: Config, weights: Float64[np.ndarray, "n"], sets: TrainingSets
) -> Callable[[int], int]:
    """Returns the training stream of all sets; they take turns, and each has its own stream."""
    if not sets.mixed_in:
        return build_index(config, weights, number=0)
    *starts, _ = np.cumsum([0, *sets.sizes]).tolist()
    parts = enumerate(np.split(weights, starts[1:]))
    return partial(
        sampling.mixed_index,
        streams=[build_index(config, part, number=number) for number, part in parts],
        starts=starts,
        shares=[one.share for one in sets.sets],
    )


def build_bank(config: Config, data: "Prepared") -> paste.Bank | None:
    """Returns the objects to paste, made now if need be; None where pasting is off.

    Raises InputError where there are none, and warns of classes that have none.
    """
    options = config.data.paste
    if not options.probability:
        return None
    bank = object_bank.load_bank(
        Path(data.builder.data_path),
        data.source("train"),
        object_bank.BankOptions(
            per_class=options.per_class,
            size=options.size,
            side=2 * config.data.image_size,
            border=options.border,
        ),
        num_classes=len(data.classes),
    )
    remedy = "remove the prepared data on all hosts, so that all make it anew"
    processes.check_same("the bank of objects for data.paste", bank.pixels.tobytes(), remedy=remedy)
    where = f"config.data.paste.size={options.size}"
    if not bank.counts.any():
        raise InputError(
            f"{where}: the training split has no object of such a size to paste; widen it, or set "
            "data.paste.probability to 0"
        )
    for name in np.array(data.classes)[1:][bank.counts[1:] == 0]:
        warnings.warn(f"{where}: class {name} has no such object to paste", stacklevel=2)
    return bank


def build_paste(config: Config, bank: paste.Bank | None) -> paste.Pasting | None:
    """Returns the function that pastes objects into a training image; None where that is off."""
    if bank is None:
        return None
    keys = ("probability", "objects", "scale", "power", "flip")
    options = {key: config.data.paste[key] for key in keys}
    return paste.make_paste(bank, seed=config.seed, **options)


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
    return slow_encoder(config, tx), schedule


def slow_encoder(config: Config, tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns `tx` with the learning rates of the encoder's stages; `tx` where they are everyone's.

    What `model.pretrained` leaves random in the encoder learns as the decoder does.
    """
    options = config.optimizer
    rate, decay, hold_steps = options.encoder_rate, options.stage_decay, options.hold_encoder_steps
    if rate == decay == 1 and not hold_steps:
        return tx
    encoder = build_model(config, num_classes=1).encoder  # whatever the classes

    def factor_of(path: optim.Path, shape: tuple[int, ...]) -> float | None:
        path = ("params", *path[1:]) if path[0] == "encoder" else ()
        if not path or (config.model.pretrained and encoder.is_fresh(path, shape)):
            return None
        return rate * decay ** encoder.stages_after(path)

    return optim.scale_updates(tx, factor_of, hold_steps=hold_steps)


def stops_at_nan(config: Config) -> bool:
    return choose("nan_policy", config.nan_policy, {"stop": True, "skip": False})


def build_augment(config: Config) -> Callable[..., Any]:
    names = (*augment.WARPS, *augment.AUGMENTATIONS)
    return augment.make_augment(**{name: config.data.augment[name] for name in names})


def build_crf(config: Config, *, side: int) -> engines.Engine:
    """Returns the engine of a `config.crf` for images of up to `side` pixels, not started yet.

    Raises InputError where it could not work.
    """
    options = config.to_dict()
    del options["enabled"], options["tuned_on"]
    return engines.make_engine(options.pop("engine"), side=side, **options)


def build_normalize(config: Config) -> Callable[..., Any]:
    return augment.make_normalize(config.data.normalize)
