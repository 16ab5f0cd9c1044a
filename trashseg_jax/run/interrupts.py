"""SIGTERM and SIGINT: a run saves at its next step and ends; a second SIGINT ends it at once."""

import os
import signal
from types import FrameType
from typing import Any

from trashseg_jax.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def raise_on_signals() -> None:
    """Makes both signals raise Interrupted wherever the process is."""
    for number in SIGNALS:
        signal.signal(number, _raise)


def _raise(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # asked twice: waits for nothing
    raise Interrupted(number, "nothing was lost; the same command begins or goes on from here")


class StepBoundary:
    """While entered, a signal is noted and told at the next step, to all processes at the same.

    Several processes agree through JAX's preemption service, which takes SIGTERM for itself.
    """

    def __init__(self, *, several_processes: bool) -> None:
        self._several = several_processes
        self.number = signal.SIGTERM
        self._signalled = False
        self._asked = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StepBoundary":
        ours = (signal.SIGINT,) if self._several else SIGNALS
        self._previous = {number: signal.signal(number, self._note) for number in ours}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def is_last(self) -> bool:
        """Says whether the run is to save after the step at hand and end; asked once a step."""
        if not self._several:
            return self._signalled
        from jax.experimental import multihost_utils

        # Not the run's step: the service counts from 1, and waits for the very number it agreed on.
        self._asked += 1
        return multihost_utils.reached_preemption_sync_point(self._asked)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT and self._signalled:  # asked twice: waits for nothing
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._signalled, self.number = True, signal.Signals(number)
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
