"""A config as a tree of keys and values. Imports no jax: a wrong flag is answered at once."""

import json
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from ml_collections import ConfigDict

from trashseg_jax.errors import InputError

# An ml_collections.ConfigDict. A type checker takes each of its attributes for a union of all
# that a config may hold, so there is nothing for it to check.
Config: TypeAlias = Any


def resolve_config(config: Config, *, overridden: Collection[str]) -> None:
    """Fills in, in place, what follows from other keys: the recipe, and the run's length.

    `overridden` names the keys that a flag has set (`optimizer.learning_rate`): they stay. A flag
    for steps replaces epochs and the reverse, and shortens a warm-up that would not end.
    """
    recipe = choose("recipe", config.recipe, config.recipes)
    for key, value in flatten(recipe):
        if key not in overridden:
            config.update_from_flattened_dict({key: value})
    if "train.epochs" in overridden and "train.steps" not in overridden:
        config.train.steps = 0
    if "train.steps" in overridden and "train.epochs" not in overridden:
        config.train.epochs = 0.0
    if "train.steps" in overridden and "optimizer.warmup_steps" not in overridden:
        _shorten_warmup(config)


def _shorten_warmup(config: Config) -> None:
    """Where it would not end within `train.steps`, it becomes a tenth of them."""
    steps, warmup_steps = config.train.steps or 0, config.optimizer.warmup_steps or 0
    if 0 < steps <= warmup_steps:
        config.optimizer.warmup_steps = steps // 10


def check_warmup(config: Config, *, steps: int) -> None:
    """Raises InputError unless the warm-up ends before the run does."""
    if config.optimizer.warmup_steps >= steps:
        raise InputError(
            f"config.optimizer.warmup_steps={config.optimizer.warmup_steps}: must be less than "
            f"the run's {steps} steps, or its learning rate is never reached; "
            f"use {steps // 10}, for example"
        )


def check_hold(config: Config, *, steps: int) -> None:
    """Raises InputError unless the encoder is released before the run ends."""
    hold_steps = config.optimizer.hold_encoder_steps
    if hold_steps >= steps:
        raise InputError(
            f"config.optimizer.hold_encoder_steps={hold_steps}: must be less than the run's "
            f"{steps} steps, or the encoder is never trained; use {steps // 10}, for example"
        )


def image_sizes(config: Config) -> tuple[int, ...]:
    """Returns the sides of the images that the training steps see, in the order in which they do.

    They are `data.image_size` times `train.image_scales`, each rounded to a multiple of
    `model.output_stride`, but for the last, which is `data.image_size`.
    """
    size, stride = config.data.image_size, config.model.output_stride
    *smaller, _ = config.train.image_scales
    return (*(max(round(scale * size / stride), 1) * stride for scale in smaller), size)


def expand_home(path: str) -> str:
    """Returns `path`, a leading ~ replaced by the home folder."""
    return os.path.expanduser(path)


def read_config(workdir: Path, *, defaults: Callable[[str], Config]) -> ConfigDict:
    """Returns the config that the run in `workdir` was made with, its recipe applied already.

    `defaults(dataset)` has the values of keys that are younger than the run.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise InputError(f"{path}: does not exist; pass --config or the --workdir of a run")
    content = _read_json(path)
    for name in ("derived", "identity"):  # what the run computed, no options
        content.pop(name, None)
    content["recipes"] = {str(content.get("recipe")): {}}
    older = defaults(content["data"].get("name")).to_dict()
    del older["recipes"]
    return ConfigDict(_merged(older, _tuples(content)))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not json ({error}); pass --config in its place") from error
    if not isinstance(content, dict) or not isinstance(content.get("data"), dict):
        raise InputError(f"{path}: is not the config of a run; pass --config in its place")
    return content


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Returns all keys of both trees, with the values of `above` where it has them."""
    both = {k: _merged(below[k], v) for k, v in above.items() if isinstance(below.get(k), dict)}
    return {**below, **above, **both}


def _tuples(value: Any) -> Any:
    """json knows no tuples; a config has no lists."""
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


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
