"""A config as a tree of keys and values. Imports no jax: a wrong flag is answered at once."""

import json
import math
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from ml_collections import ConfigDict

from trashseg_jax.errors import InputError

# An ml_collections.ConfigDict. A type checker takes each of its attributes for a union of all
# that a config may hold, so there is nothing for it to check.
Config: TypeAlias = Any


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


def check_numbers(config: Config) -> None:
    """Raises InputError for a number that no run could use, whatever its key means."""
    for key, value in flatten(config):
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"config.{key}={value}: must be a finite number")
    # Training draws from the key of seed + 1 (train.py), and JAX's keys are of 32 bits.
    if not 0 <= config.seed < 2**32 - 1:
        raise InputError(f"config.seed={config.seed}: must be from 0 to {2**32 - 2}")
    for key in ("log_every", "eval_every", "checkpoint_every"):
        if config.train[key] < 1:
            raise InputError(f"config.train.{key}={config.train[key]}: must be 1 or more")


def read_config(workdir: Path, *, defaults: Callable[[str], Config]) -> ConfigDict:
    """Returns the config that the run in `workdir` was made with, its recipe applied already.

    `defaults(dataset)` has the values of keys that are younger than the run.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise InputError(f"{path}: does not exist; pass --config or the --workdir of a run")
    content = json.loads(path.read_text())
    for name in ("derived", "identity"):  # what the run computed, no options
        content.pop(name, None)
    content["recipes"] = {content["recipe"]: {}}
    older = defaults(content["data"]["name"]).to_dict()
    del older["recipes"]
    return ConfigDict(_merged(older, _tuples(content)))


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
