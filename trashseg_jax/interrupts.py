"""SIGTERM and SIGINT: a run saves at its next step and ends; a second SIGINT ends it at once."""

import os
import signal
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from trashseg_jax.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def raise_on_signals() -> None:
    """Makes both signals raise Interrupted wherever the process is."""
    for number in SIGNALS:
        signal.signal(number, _raise)


def _raise(number: int, frame: FrameType | None) -> None:
    del frame
    name = signal.Signals(number).name
    raise Interrupted(f"{name}: nothing was lost; the same command begins or goes on from here")


class StepBoundary:
    """While entered, a signal is noted and told at the next step, to all processes at the same.

    Several processes agree through JAX's preemption service, which takes SIGTERM for itself.
    """

    def __init__(self) -> None:
        self.name = "SIGTERM"
        self._signalled = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StepBoundary":
        ours = SIGNALS if jax.process_count() == 1 else (signal.SIGINT,)
        self._previous = {number: signal.signal(number, self._note) for number in ours}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def is_last(self, step: int) -> bool:
        """Says whether the run is to save after this step and end."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._signalled

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT and self._signalled:
            os._exit(128 + number)  # asked twice: waits for nothing
        self._signalled, self.name = True, signal.Signals(number).name
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
