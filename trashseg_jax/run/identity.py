"""What gives a run's arrays their meaning: stored once, compared wherever they are read."""

import json
from pathlib import Path
from typing import Any

from trashseg_jax.data.taxonomy import IGNORE_LABEL, IGNORE_NAME, ClassMap, load_class_map
from trashseg_jax.errors import InputError
from trashseg_jax.settings import Config, flatten

# Only a new run reads `init`, `pretrained` and its prefix. The arrays are float32 whatever the
# `dtype` of the convolutions is, and a run of a GPU in bfloat16 is to be scored on any processor.
FREE = ("model.init", "model.pretrained", "model.pretrained_prefix", "model.dtype")
SHOWN = 5  # differences that an error names
# How a difference is told: of a run then and now, of two things beside each other.
THEN_AND_NOW = "{name} was {before!r}, is {now!r}"
BESIDE = "{name} is {before!r} there and {now!r} here"

# By key, as json holds it: options of the model, the normalisation, `classes` in their order and
# `categories`, the class of each category's name.
Identity = dict[str, Any]


def identify(config: Config) -> Identity:
    """Returns the identity that a run of this config has; reads its class map."""
    return {
        **_identify_options(config.to_dict()),
        **identify_classes(load_class_map(config.data.class_map)),
    }


def check_identity(config: Config, workdir: Path) -> None:
    """Raises InputError where the run in `workdir`, if there is one, is of another model."""
    path = workdir / "config.json"
    if not path.exists():
        return
    stored = read_identity(path, class_map=config.data.class_map)
    if different := differences(stored, identify(config)):
        more = len(different) - SHOWN
        own_map = any(line.startswith(("class ", "category ")) for line in different)
        also = " with the class map as it was" if own_map else ""
        raise InputError(
            f"{path}: the run's model is not that of this config: "
            f"{'; '.join(different[:SHOWN])}{f'; and {more} more' if more > 0 else ''}; use "
            f"--config=run:{workdir}{also}, or another --workdir"
        )


def read_identity(path: Path, *, class_map: str) -> Identity:
    """Returns the identity in a run's config.json; that of an older run is made of its options.

    Then its class map is read from where it was. Raises InputError where it is gone and the map
    now is another.
    """
    content = json.loads(path.read_text())
    if "identity" in content:
        return content["identity"]
    identity, given = _identify_options(content), content["data"]["class_map"]
    try:
        identity |= identify_classes(load_class_map(given))
    except InputError as error:
        if given != class_map:
            raise InputError(
                f"{path}: the run's data.class_map was {given}, and cannot be compared with "
                f"{class_map} ({error}); put it back"
            ) from error
    if alpha := content.get("derived", {}).get("alpha"):
        identity["classes"] = list(alpha)
    return identity


def differences(stored: Identity, wanted: Identity, *, says: str = THEN_AND_NOW) -> list[str]:
    """Returns a line for each difference; an option that one of them is too old for is none."""
    return [
        says.format(name=name, before=before, now=now)
        for key in sorted(stored.keys() & wanted.keys())
        for name, before, now in _compare(key, stored[key], wanted[key])
    ]


def _compare(key: str, before: Any, now: Any) -> list[tuple[str, Any, Any]]:
    """Returns what differs in the values of a key, as a person calls it."""
    if key == "classes":
        before, now = dict(enumerate(before)), dict(enumerate(now))
    elif key != "categories":
        return [(key, before, now)] if before != now else []
    part = {"classes": "class", "categories": "category"}[key]
    return [
        (f"{part} {name!r}", before.get(name, "absent"), now.get(name, "absent"))
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def _identify_options(config: dict[str, Any]) -> Identity:
    options = {f"model.{key}": value for key, value in flatten(config["model"])}
    options = {key: value for key, value in options.items() if key not in FREE}
    options["data.normalize"] = config["data"]["normalize"]
    return json.loads(json.dumps(options))  # which knows no tuples


def identify_classes(class_map: ClassMap) -> Identity:
    """Category names count without their case and outer blanks, as the map reads them."""
    names = {**dict(enumerate(class_map.classes)), IGNORE_LABEL: IGNORE_NAME}
    categories = {
        name.strip().casefold(): names[label] for name, label in class_map.categories.items()
    }
    return {"classes": list(class_map.classes), "categories": categories}
