"""What SIGTERM and SIGINT do, in a run's steps and outside of them."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

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
        assert boundary.number == number


def test_outside_of_the_steps_a_signal_raises():
    interrupts.raise_on_signals()
    with interrupts.StepBoundary(several_processes=False):
        pass
    with pytest.raises(Interrupted, match="SIGTERM: nothing was lost"):
        os.kill(os.getpid(), signal.SIGTERM)


START = """
import contextlib, os, signal, sys
from trashseg_jax.errors import Interrupted
from trashseg_jax.run.interrupts import StepBoundary, raise_on_signals
first = int(sys.argv[1])
"""
IN_THE_STEPS = """
with StepBoundary(several_processes=False):
    os.kill(os.getpid(), first)
    print("noted", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
"""
OUTSIDE_OF_THEM = """
raise_on_signals()
with contextlib.suppress(Interrupted):
    os.kill(os.getpid(), first)
print("noted", flush=True)
os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize("where", [IN_THE_STEPS, OUTSIDE_OF_THEM])
@pytest.mark.parametrize("first", interrupts.SIGNALS)
def test_second_sigint_ends_the_process_at_once_by_that_signal(where, first):
    command = [sys.executable, "-c", START + where, str(int(first))]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (-signal.SIGINT, "noted\n")


RUN = """
import sys, time
from trashseg_jax import main
from trashseg_jax.errors import Interrupted
from trashseg_jax.run.interrupts import StepBoundary

def train(argv):
    with StepBoundary(several_processes=False) as boundary:
        print("step", flush=True)
        while not boundary.is_last():
            time.sleep(0.01)
        print("saved", flush=True)
        raise Interrupted(boundary.number, "saved")

main.main = train
sys.argv = sys.argv[:1]
main.run(main.main, main.parse_flags)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -2), (signal.SIGTERM, 0)])
def test_sigint_ends_a_shells_loop_too_and_sigterm_goes_on_after_75(number, code):
    """As Ctrl-C does, to the whole group; SIGTERM comes to the run alone."""
    loop = 'for seed in 0 1; do "$@"; echo "code $?"; done'
    signal.signal(signal.SIGINT, signal.default_int_handler)  # where pytest was told to ignore it
    shell = subprocess.Popen(
        ["bash", "-c", loop, "bash", sys.executable, "-c", RUN],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    output = []
    for line in shell.stdout:
        output.append(line.strip())
        if line == "step\n":
            children = f"/proc/{shell.pid}/task/{shell.pid}/children"
            run = int(Path(children).read_text().split()[0])
            os.killpg(shell.pid, number) if number == signal.SIGINT else os.kill(run, number)
    assert shell.wait() == code
    once = ["step", "saved"]
    assert output == (once if number == signal.SIGINT else [*once, "code 75", *once, "code 75"])


def test_an_interrupt_is_nothing_that_a_library_catches():
    """Orbax, TFDS and others go on after any Exception."""
    interrupts.raise_on_signals()
    with pytest.raises(Interrupted), contextlib.suppress(Exception):
        os.kill(os.getpid(), signal.SIGTERM)
