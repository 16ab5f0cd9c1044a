"""Which programs start anew for large pages, and with what."""

import os
import subprocess
import sys

import pytest

from trashseg_jax.devices import large_pages

COMMAND = ["python", "-m", "trashseg_jax.main", "--config=reference"]


class Restarted(Exception):
    """In place of a new program: its path, arguments and environment."""


@pytest.fixture
def restart(monkeypatch, tmp_path):
    """Calls the function as in a program of these arguments; returns what it starts, or None."""
    modes = tmp_path / "enabled"
    monkeypatch.setattr(large_pages, "MODES", modes)
    monkeypatch.delenv(large_pages.TUNABLES, raising=False)

    def execve(*program):
        raise Restarted(*program)

    monkeypatch.setattr(os, "execve", execve)

    def call(arguments, *, modes_are="always [madvise] never"):
        monkeypatch.setattr(sys, "orig_argv", arguments)
        if modes_are:
            modes.write_text(modes_are)
        try:
            large_pages.restart_with_large_pages()
        except Restarted as error:
            return error.args
        return None

    return call


@pytest.mark.parametrize(
    "arguments",
    [
        COMMAND,
        ["python", "-u", "-m", "trashseg_jax.predict"],
        ["python", "/usr/bin/trashseg", "train", "--config=focal"],
    ],
)
def test_a_command_is_started_with_its_own_arguments(restart, arguments):
    program, given, environment = restart(arguments)
    assert program == sys.executable
    assert given == [sys.executable, *arguments[1:]]
    assert environment == {**os.environ, large_pages.TUNABLES: large_pages.LARGE_PAGES}


@pytest.mark.parametrize(
    "arguments",
    [
        ["python"],
        ["python", "-m"],
        ["python", "-c", "import trashseg_jax.main"],
        ["python", "-m", "ipykernel_launcher", "-m", "trashseg_jax.main"],
        ["python", "-m", "pdb", "-m", "trashseg_jax.main"],
        ["python", "/usr/bin/pytest", "-m", "trashseg_jax.main"],
        ["python", "/usr/bin/trashseg-like"],
    ],
)
def test_no_other_program_is(restart, arguments):
    assert restart(arguments) is None


@pytest.mark.parametrize("modes", ["[always] madvise never", "always madvise [never]", ""])
def test_only_where_the_kernel_wants_to_be_asked(restart, modes):
    assert restart(COMMAND, modes_are=modes) is None


def test_what_the_user_has_set_stays(restart, monkeypatch):
    monkeypatch.setenv(large_pages.TUNABLES, "")
    assert restart(COMMAND) is None


def test_a_real_command_answers_as_before():
    """Whether started anew, as the kernel may want, or not."""
    environment = {k: v for k, v in os.environ.items() if k != large_pages.TUNABLES}
    command = [sys.executable, "-m", "trashseg_jax.predict", "--no_such_flag"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no_such_flag" in done.stderr
    assert len(done.stderr.splitlines()) == 1
