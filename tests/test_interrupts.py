"""What SIGTERM and SIGINT do, in a run's steps and outside of them."""

import os
import signal
import subprocess
import sys

import pytest

from trashseg_jax.errors import Interrupted
from trashseg_jax.run import interrupts


@pytest.fixture(autouse=True)
def handlers():
    """Puts back what pytest had."""
    before = [signal.getsignal(number) for number in interrupts.SIGNALS]
    yield
    for number, handler in zip(interrupts.SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_signal_is_told_at_the_next_step_only(number):
    with interrupts.StepBoundary(several_processes=False) as boundary:
        assert not boundary.is_last()
        os.kill(os.getpid(), number)
        assert boundary.is_last()
        assert boundary.name == signal.Signals(number).name


def test_outside_of_the_steps_a_signal_raises():
    interrupts.raise_on_signals()
    with interrupts.StepBoundary(several_processes=False):
        pass
    with pytest.raises(Interrupted, match="SIGTERM: nothing was lost"):
        os.kill(os.getpid(), signal.SIGTERM)


def test_second_sigint_ends_the_process_at_once():
    code = """
import os, signal
from trashseg_jax.run.interrupts import StepBoundary
with StepBoundary(several_processes=False) as boundary:
    os.kill(os.getpid(), signal.SIGINT)
    print(boundary.is_last(), flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("not reached", flush=True)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (128 + signal.SIGINT, "True\n")
