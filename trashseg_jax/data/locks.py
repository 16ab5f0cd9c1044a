"""A lock between processes of one machine, for what several runs may prepare at once and share."""

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO


def ensure(path: Path, *, is_there: Callable[[], bool], make: Callable[[], None]) -> IO | None:
    """Calls `make` unless `is_there()`, in one process at a time; a killed one lets go.

    While the file that it returns is open, nobody has `path` to himself. None: a finished `path`
    whose lock cannot be opened, in a folder that may only be read.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _open(path)
    except OSError:
        if is_there():
            return None
        raise
    try:
        fcntl.flock(file, fcntl.LOCK_SH)
        if not is_there():
            fcntl.flock(file, fcntl.LOCK_EX)
            if not is_there():  # another process may have made it meanwhile
                make()
            fcntl.flock(file, fcntl.LOCK_SH)
    except BaseException:
        file.close()
        raise
    return file


@contextlib.contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Yields whether no other process is at work at `path`; none can begin until it is left."""
    with _open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _open(path: Path) -> IO:
    """Opens the lock of `path`: to be read where it is another user's, which does as well."""
    lock = path.with_name(path.name + ".lock")
    try:
        return lock.open("a+")  # NFS: to be read for LOCK_SH, written for LOCK_EX
    except OSError as error:
        try:
            return lock.open("r")
        except OSError:
            raise error from None
