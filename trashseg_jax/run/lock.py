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

from trashseg_jax import folders
from trashseg_jax.errors import InputError

BEAT = 30.0  # seconds between two signs of life, for other hosts
SILENCE = 300.0  # seconds without one after which another host's run counts as ended
LOOK = 2.0  # seconds between two looks at a lock that may be a killed run's
REMEDY = "use another --workdir"


class RunLock:
    """Holds `run.lock` in a run's folder, which it makes; use as a context manager.

    On one host the system knows whether the holder lives. Between hosts, whose file systems may
    not share locks, the file's time of change tells: a run that was killed there, which a requeued
    job follows, is waited for. Raises InputError with `remedy` where another run is at work.
    """

    def __init__(self, workdir: Path, *, remedy: str = REMEDY):
        self._remedy = remedy
        self.path = workdir / "run.lock"
        self._ended = threading.Event()
        self._file: IO[str] | None = None

    def __enter__(self) -> "RunLock":
        with folders.explained(self.path.parent, self._remedy):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+", encoding="utf-8")
            try:
                self._take(self._file)
            except BaseException:
                self._file.close()
                raise
            self._write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._write("")  # not removed: another process may have it open already
        if self._file:
            self._file.close()

    def _take(self, file: IO[str]) -> None:
        holder = _holder(file)
        who = f"process {holder.get('pid')} on {holder.get('host')}"
        refusal = f"{self.path}: {who} is at work in this folder; wait for it, or {self._remedy}"
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(refusal) from None
        elsewhere = holder and holder.get("host") != socket.gethostname()
        if elsewhere and not self._falls_silent(file, who):
            raise InputError(refusal)
        if holder and _holder(file):
            print(f"{self.path}: {who} was killed; its lock is taken over")

    def _falls_silent(self, file: IO[str], who: str) -> bool:
        """Waits until another host's run has let go or been silent for long; False: it lives."""
        sign = os.fstat(file.fileno()).st_mtime
        left = SILENCE - max(time.time() - sign, 0.0)  # its clock may be ahead of ours
        if left > 0:
            print(f"{self.path}: held by {who}; waiting {left:.0f} s for a sign of life from it")
        end = time.monotonic() + left
        while time.monotonic() < end:
            time.sleep(min(LOOK, max(end - time.monotonic(), 0.0)))
            lives = os.fstat(file.fileno()).st_mtime != sign  # before: letting go changes it too
            if not _holder(file):
                return True
            if lives:
                return False
        return True

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
