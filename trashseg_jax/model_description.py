"""A model's config.json: what must be in it, checked before anything is built of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trashseg_jax.data.augment import STATISTICS
from trashseg_jax.errors import InputError, show
from trashseg_jax.models.unet import DTYPES

FILES = ("model.safetensors", "config.json", "README.md", "model.onnx")  # of a model's folder
FORMAT = 1  # one that older readers would misread has the next number
MAKE_ONE = "python -m trashseg_jax.export makes one of a run"
Rule = tuple[str, Callable[[Any], bool]]  # what follows "must be", and whether a value is that


def is_model_folder(folder: Path) -> bool:
    """Says whether a folder has a model's config.json, of whatever format; not if it is sound."""
    try:
        return "format" in read_json(folder / "config.json")
    except InputError:
        return False


def holds_model(folder: Path) -> bool:
    """Says whether a folder is a model's, and not a run's; raises InputError if it is neither."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder}: holds no config.json; name the folder of a run or of a model")
    return "format" in read_json(path)


def read_description(path: Path) -> dict[str, Any]:
    """Returns the content of a model's config.json.

    Raises InputError naming the key, its value and the rule.
    """
    content = read_json(path)
    if "format" not in content:
        raise InputError(f'{path}: has no "format", so this is not a model; {MAKE_ONE}')
    if _is_whole(content["format"]) and content["format"] > FORMAT:
        raise InputError(
            f"{path}: is of format {content['format']}, and this version reads {FORMAT}; update "
            "trashseg_jax"
        )
    _check(path, content, RULES)
    _check(path, {f"model.{key}": value for key, value in content["model"].items()}, MODEL_RULES)
    _check_palette(path, content)
    _check_normalization(path, content["normalization"])
    return content


def read_json(path: Path) -> dict[str, Any]:
    """Returns a file's json object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{path}: does not exist, so {path.parent} is not a model; {MAKE_ONE}"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not json ({error}); copy the folder again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: is a json {type(content).__name__}; it must be an object")
    return content


def _check(path: Path, content: dict[str, Any], rules: dict[str, Rule]) -> None:
    for key, (says, holds) in rules.items():
        if key not in content:
            raise InputError(f"{path}: {key!r} is missing; export the model again")
        if not holds(content[key]):
            raise InputError(f"{path}: {key!r} is {show(content[key])}; it must be {says}")
    if unknown := sorted(content.keys() - rules.keys()):
        raise InputError(
            f"{path}: {unknown[0]!r} is unknown to this version; update trashseg_jax, or take it "
            "out"
        )


def _check_palette(path: Path, content: dict[str, Any]) -> None:
    classes, colors = len(content["classes"]), len(content["palette"])
    if classes != colors:
        raise InputError(
            f"{path}: has {classes} classes and {colors} colours in its palette; there must be "
            "one colour a class"
        )


def _check_normalization(path: Path, given: dict[str, Any]) -> None:
    """By its name it is computed; mean and std are there for other readers, and must agree."""
    mean, std = STATISTICS[given["name"]]
    if (given.get("mean"), given.get("std")) != (list(mean), list(std)):
        raise InputError(
            f"{path}: normalization {given['name']!r} has the mean {list(mean)} and the std "
            f"{list(std)}, and other numbers are there; export the model again"
        )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    return _is_whole(value) and 1 <= value <= 2**16


def _are_positive(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_positive, value))


def _are_names(value: Any) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(name, str) and name for name in value)
        and 2 <= len(set(value)) == len(value) <= 255
    )


def _is_map_of_text(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(map(_is_text, value.values())))


def _is_color(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(_is_whole(v) and 0 <= v <= 255 for v in value)
    )


OPTIONAL: Rule = ("an object or null", lambda v: v is None or isinstance(v, dict))
POSITIVE: Rule = ("a positive whole number", _is_positive)
TEXT: Rule = ("text", _is_text)

RULES: dict[str, Rule] = {
    "format": (f"{FORMAT}", lambda v: _is_whole(v) and v == FORMAT),
    "versions": ("an object", lambda v: isinstance(v, dict)),
    "model": ("an object", lambda v: isinstance(v, dict)),
    "dtype": (f"one of {', '.join(DTYPES)}", lambda v: v in [*DTYPES]),
    "image_size": POSITIVE,
    "normalization": (
        f"an object with a name of {', '.join(STATISTICS)}",
        lambda v: isinstance(v, dict) and v.get("name") in [*STATISTICS],
    ),
    "classes": ("a list of 2 to 255 different names", _are_names),
    "categories": ("an object from category to class, or null", _is_map_of_text),
    "palette": (
        "a list of [red, green, blue], each from 0 to 255",
        lambda v: isinstance(v, list) and all(map(_is_color, v)),
    ),
    "calibration": OPTIONAL,
    "figures": OPTIONAL,
    "training": OPTIONAL,
}
# The options of `config.model` that shape the network.
MODEL_RULES: dict[str, Rule] = {
    "model.encoder": TEXT,
    "model.width": POSITIVE,
    "model.output_stride": POSITIVE,
    "model.stem_pool": TEXT,
    "model.layer4": TEXT,
    "model.multi_grid": ("a list of positive whole numbers", _are_positive),
    "model.decoder_features": (
        "a list of five positive whole numbers",
        lambda v: _are_positive(v) and len(v) == 5,
    ),
}
