"""The one exception that the command line shows as a line instead of a traceback."""

import reprlib
from typing import Any


class InputError(ValueError):
    """What the user gave is wrong. The message is one line: file, value, rule, remedy."""


def show(value: Any) -> str:
    """Returns a value from a json file, however long or deep, as one short line."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 2, 100, 40
    text = "missing" if value is None else short.repr(value)
    return text if len(text) <= 160 else f"{text[:150]}..."
