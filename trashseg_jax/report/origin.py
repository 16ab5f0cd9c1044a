"""Where figures come from, as a page tells it."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Difference(NamedTuple):
    """An option that is not the default, by its dotted key."""

    key: str
    default: Any
    value: Any


class Origin(NamedTuple):
    """What it takes to make figures again."""

    date: str
    commit: str | None  # of a checkout; None for an installed package
    device: str
    versions: Mapping[str, str]
    num_parameters: int
    options: list[Difference]
    commands: dict[str, str]  # by what they do
    derived: Mapping[str, Any]  # config.json's: what the training data led to, {} if not known
