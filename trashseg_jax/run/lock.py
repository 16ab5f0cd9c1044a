"""One run a folder: a lock that names its process, and that a killed process lets go."""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import IO, Any

from trashseg_jax.errors import InputError

BEAT = 30.0  # seconds between two signs of life, for other hosts
SILENCE = 300.0  # seconds without one after which another host's run counts as ended


class RunLock:
    """Holds `run.lock` in a run's folder, which it makes; use as a context manager.

    On one host the system knows whether the holder lives. Between hosts, whose file systems may
    not share locks, the file's time of change tells. Raises InputError where another run holds it.
    """

    def __init__(self, workdir: Path):
        self.path = workdir / "run.lock"
        self._ended = threading.Event()
        self._file: IO[str] | None = None

    def __enter__(self) -> "RunLock":
        with _explained(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+", encoding="utf-8")
            self._take(self._file)
            self._write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._write("")  # not removed: another process may have it open already
        if self._file:
            self._file.close()

    def _take(self, file: IO[str]) -> None:
        holder, age = _holder(file), time.time() - os.fstat(file.fileno()).st_mtime
        who = f"process {holder.get('pid')} on {holder.get('host')}"
        refusal = f"{self.path}: {who} is at work in this folder; wait for it, or use another one"
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise InputError(refusal) from None
        if holder and holder.get("host") != socket.gethostname() and age < SILENCE:
            file.close()
            raise InputError(
                f"{refusal}; if it was killed, start again in {SILENCE - age:.0f} seconds"
            )
        if holder:
            print(f"{self.path}: {who} has ended without a word; its lock is taken over")

    def _write(self, text: str) -> None:
        if self._file and not self._file.closed:
            with contextlib.suppress(OSError):  # a full disk must not hide what happened
                self._file.truncate(0)
                self._file.write(text)
                self._file.flush()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self.path)


def _holder(file: IO[str]) -> dict[str, Any]:
    """Returns pid and host of the process that holds the lock or died with it, {} if none did."""
    file.seek(0)
    text = file.read()
    try:
        return json.loads(text) if text else {}
    except ValueError:
        return {"pid": "unknown", "host": "unknown"}


@contextlib.contextmanager
def _explained(folder: Path):
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); use another --workdir"
        ) from error
