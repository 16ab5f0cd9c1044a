"""What the command line shows as one line: by class, the exit code."""

import os
import reprlib
import signal
from typing import Any


class InputError(ValueError):
    """A wrong option or bad data: file, value, rule, remedy. Exit code 2."""


class RunError(RuntimeError):
    """What stopped a run whose input was right, and how to go on. Exit code 3."""


class Interrupted(BaseException):
    """A signal ended the run; says what was saved. Exit code 75, EX_TEMPFAIL of sysexits.h.

    No Exception: a library that catches all of those must not take it for a fault of its own.
    After SIGINT the process ends by that signal, so that a shell's loop ends too.
    """

    def __init__(self, number: int, text: str):
        self.number = number
        super().__init__(f"{signal.Signals(number).name}: {text}")

    @property
    def exit_code(self) -> int:
        """Negative is a signal's, as `subprocess` has it."""
        return -self.number if self.number == signal.SIGINT else os.EX_TEMPFAIL


def show(value: Any) -> str:
    """Returns a value from a json file, however long or deep, as one short line."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 2, 100, 40
    text = "missing" if value is None else short.repr(value)
    return text if len(text) <= 160 else f"{text[:150]}..."
