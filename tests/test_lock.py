"""One run a folder, on one host and between several."""

import itertools
import json
import multiprocessing
import os
import signal
import socket
import time
from functools import partial

import pytest

from trashseg_jax.errors import InputError
from trashseg_jax.run import lock
from trashseg_jax.run.lock import RunLock


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
            f"{tmp_path}/run.lock: {who} was killed; its lock is taken over"
        ]
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()


def test_free_again_afterwards_without_a_word(tmp_path, capsys):
    for _ in range(2):
        with RunLock(tmp_path):
            pass
    assert (tmp_path / "run.lock").read_text() == ""
    assert capsys.readouterr().out == ""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A lock that a run on another host holds; half a second of silence counts as its end."""
    monkeypatch.setattr(lock, "SILENCE", 0.5)
    monkeypatch.setattr(lock, "LOOK", 0.05)
    path = tmp_path / "run.lock"
    path.write_text(json.dumps({"pid": 7, "host": "elsewhere"}))
    return path


@pytest.mark.parametrize("ahead", [0, 3600])
def test_lock_of_a_run_killed_on_another_host_is_waited_for_and_said_once(elsewhere, ahead, capsys):
    """Whatever its clock says."""
    os.utime(elsewhere, (time.time() + ahead,) * 2)
    begin = time.monotonic()
    with RunLock(elsewhere.parent):
        assert 0.3 < time.monotonic() - begin < 30
        assert json.loads(elsewhere.read_text())["pid"] == os.getpid()
    waits, taken = capsys.readouterr().out.splitlines()
    assert waits.startswith(f"{elsewhere}: held by process 7 on elsewhere; waiting ")
    assert taken == f"{elsewhere}: process 7 on elsewhere was killed; its lock is taken over"


def test_lock_of_another_host_that_is_old_is_taken_at_once(elsewhere, capsys):
    os.utime(elsewhere, (time.time() - 60,) * 2)
    with RunLock(elsewhere.parent):
        assert "waiting" not in capsys.readouterr().out


def meanwhile(monkeypatch, act, when):
    """Has the other run `act` once while we wait, right before or after a look at its lock."""
    monkeypatch.setattr(lock, "SILENCE", 600.0)
    look, looks = lock._holder, itertools.count(1)

    def look_beside(file):
        now = next(looks) == 2  # the first look, before the wait, finds the holder
        if now and when == "before":
            act()
        holder = look(file)
        if now and when == "after":
            act()
        return holder

    monkeypatch.setattr(lock, "_holder", look_beside)


@pytest.mark.parametrize("when", ["before", "after"])
def test_living_run_of_another_host_refuses_at_its_next_sign_of_life(elsewhere, monkeypatch, when):
    meanwhile(monkeypatch, partial(os.utime, elsewhere), when)
    with pytest.raises(InputError, match="process 7 on elsewhere is at work"):
        RunLock(elsewhere.parent).__enter__()


@pytest.mark.parametrize("when", ["before", "after"])
def test_run_of_another_host_that_ends_meanwhile_lets_go(elsewhere, monkeypatch, capsys, when):
    meanwhile(monkeypatch, partial(elsewhere.write_text, ""), when)
    with RunLock(elsewhere.parent):
        assert json.loads(elsewhere.read_text())["pid"] == os.getpid()
    assert "taken over" not in capsys.readouterr().out


def test_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"file/run: cannot be written \(Not a directory\)"),
        RunLock(tmp_path / "file" / "run"),
    ):
        pass
