"""Models to be scored on a config's data: what the config takes from them, what it may not say."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from trashseg_jax import build, model_sources
from trashseg_jax.configs import ranges
from trashseg_jax.data.taxonomy import load_class_map
from trashseg_jax.errors import InputError
from trashseg_jax.model_description import holds_model
from trashseg_jax.model_folder import Model
from trashseg_jax.run.identity import BESIDE, differences
from trashseg_jax.settings import Config, flatten

# By the folder of each, in the order in which they are named; the first one's size is that of the
# samples, the loss and the CRF.
Models: TypeAlias = Mapping[Path, Model]

BEGINNING = tuple(f"model.{key}" for key in build.BEGINNING)
SHOWN = 5  # differences that an error names


def load(folders: Sequence[Path], config: Config, *, overridden: Collection[str]) -> Models:
    """Returns the models, and gives the config, in place, the options that come with them.

    `overridden` names the keys that a flag has set. Raises InputError where the models, the flags
    and the data's classes do not fit together.
    """
    _check_flags(folders, config, overridden)
    models = {
        folder: model_sources.load(
            folder, checkpoint=str(config.eval.checkpoint), calibration=config.eval.calibration
        )
        for folder in folders
    }
    check_classes({folder: model.classes for folder, model in models.items()})
    _check_data(config, folders[0], models[folders[0]])
    for folder, model in models.items():
        _check_options(config, folder, model, overridden)
    _adopt(config, models[folders[0]], overridden)
    if "model.dtype" in overridden:
        return {folder: model.with_dtype(config.model.dtype) for folder, model in models.items()}
    return models


def check_classes(classes: Mapping[Path, Sequence[str]]) -> None:
    """Raises InputError unless the models, by their folders, have the same classes in order."""
    (first, wanted), *others = classes.items()
    for folder, found in others:
        if different := _different_classes(wanted, found):
            raise InputError(
                f"--model={folder}: its classes are not those of --model={first}, so their "
                f"probabilities have no mean: {different}"
            )


def check_named_once(flag: str, folders: Sequence[Path]) -> None:
    """Raises InputError for a folder that is named twice, by whatever name."""
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise InputError(f"--{flag}={folder}: appears twice; name each once")
        seen.add(folder.resolve())


def describe(models: Models) -> list[dict[str, Any]]:
    """Returns what metrics.json says of each model."""
    return [
        {
            "name": folder.resolve().name,
            "step": (model.training or {}).get("step"),
            "image_size": model.image_size,
            "digest": model.digest(),
            **({"calibration": model.calibration.describe()} if model.calibration else {}),
        }
        for folder, model in models.items()
    ]


def _check_flags(folders: Sequence[Path], config: Config, overridden: Collection[str]) -> None:
    """Refuses what says nothing of models that are trained."""
    named = f"--model={folders[0]}"
    for key in BEGINNING:
        if key in overridden:
            raise InputError(
                f"--config.{key}: says how a training begins, and {named} is trained; leave it out"
            )
    if "eval.checkpoint" in overridden and all(map(holds_model, folders)):
        raise InputError(
            f"--config.eval.checkpoint: belongs to runs, and {named} is a model's folder, of one "
            "checkpoint; leave it out"
        )
    if len(folders) == 1:
        return
    if "data.image_size" in overridden:
        raise InputError(
            "--config.data.image_size: each of several models is fed at its own size; leave it out"
        )
    if config.eval.resolution == "scaled":
        raise InputError(
            "config.eval.resolution='scaled': several models scale a photograph differently; pass "
            "--config.eval.resolution=original"
        )


def _check_options(config: Config, folder: Path, model: Model, overridden: Collection[str]) -> None:
    """Raises InputError for a flag that says otherwise than the model."""
    values, own = dict(flatten(config)), _options(model)
    different = [key for key in sorted(own) if key in overridden and values[key] != own[key]]
    if different:
        said = "; ".join(f"{key} is {own[key]!r}, not {values[key]!r}" for key in different)
        raise InputError(
            f"--model={folder}: the flags say otherwise than the model: {said}; leave out "
            f"--config.{different[0]}: a model's options come with it"
        )


def _check_data(config: Config, folder: Path, model: Model) -> None:
    class_map = config.data.class_map
    if different := _different_classes(load_class_map(class_map).classes, model.classes):
        raise InputError(
            f"--model={folder}: its classes are not those of the data set {config.data.name!r} "
            f"(config.data.class_map={class_map}): {different}; name a class map with the model's "
            "classes"
        )


def _different_classes(there: Sequence[str], here: Sequence[str]) -> str:
    """Says what differs, "" where nothing does."""
    lines = differences({"classes": list(there)}, {"classes": list(here)}, says=BESIDE)
    more = len(lines) - SHOWN
    return "; ".join([*lines[:SHOWN], *([f"and {more} more"] if more > 0 else [])])


def _options(model: Model) -> dict[str, Any]:
    shape = {f"model.{key}": value for key, value in model.architecture.items()}
    return {**shape, "data.normalize": model.normalize}


def _adopt(config: Config, model: Model, overridden: Collection[str]) -> None:
    free = {"data.image_size": model.image_size, "model.dtype": model.dtype}
    free = {key: value for key, value in free.items() if key not in overridden}
    config.update_from_flattened_dict({**_options(model), **free, **dict.fromkeys(BEGINNING, "")})
    ranges.check(config)
