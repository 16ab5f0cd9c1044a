"""One run a folder, on one host and between several."""

import json
import multiprocessing
import os
import signal
import socket

import pytest

from trashseg_jax.errors import InputError
from trashseg_jax.run.lock import SILENCE, RunLock


def hold(workdir, connection):
    with RunLock(workdir):
        connection.send("held")
        connection.recv()


@pytest.fixture
def other_process(tmp_path):
    """A process that holds the lock of `tmp_path`."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(tmp_path, theirs))
    process.start()
    assert ours.poll(60)
    yield process
    process.kill()
    process.join()


def test_holder_is_named_and_a_killed_one_is_taken_over(other_process, tmp_path, capsys):
    who = f"process {other_process.pid} on {socket.gethostname()}"
    with pytest.raises(InputError, match=rf"run\.lock: {who} is at work"), RunLock(tmp_path):
        pass
    os.kill(other_process.pid, signal.SIGKILL)
    other_process.join()
    with RunLock(tmp_path):
        assert capsys.readouterr().out.splitlines() == [
            f"{tmp_path}/run.lock: {who} has ended without a word; its lock is taken over"
        ]
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()


def test_free_again_afterwards_without_a_word(tmp_path, capsys):
    for _ in range(2):
        with RunLock(tmp_path):
            pass
    assert (tmp_path / "run.lock").read_text() == ""
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("age", [0, SILENCE + 60])
def test_lock_of_another_host_counts_while_it_shows_signs_of_life(tmp_path, age, capsys):
    path = tmp_path / "run.lock"
    path.write_text(json.dumps({"pid": 7, "host": "elsewhere"}))
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age))
    if age == 0:
        with pytest.raises(InputError, match="process 7 on elsewhere"), RunLock(tmp_path):
            pass
    else:
        with RunLock(tmp_path):
            assert "process 7 on elsewhere has ended" in capsys.readouterr().out


def test_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"file/run: cannot be written \(Not a directory\)"),
        RunLock(tmp_path / "file" / "run"),
    ):
        pass
