"""Where the user's cache is; files that are there whole or not at all; refusals in one line."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from trashseg_jax.errors import InputError

# Why a system does not let a file be written.
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO)


def user_cache() -> Path:
    """Returns $XDG_CACHE_HOME/trashseg_jax, or ~/.cache/trashseg_jax; neither need exist."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the XDG specification: a relative one is ignored
        base = "~/.cache"
    try:
        return Path(base).expanduser() / "trashseg_jax"
    except RuntimeError as error:
        raise InputError(
            "~/.cache: this user has no home folder, and $HOME is not set; pass "
            "--config.data.cache_dir=FOLDER"
        ) from error


@contextlib.contextmanager
def explained(folder: Path, remedy: str) -> Iterator[None]:
    """Raises InputError with `remedy` where the system refuses what is done in `folder`."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not (reason := _reason(error)):
            raise
        raise _refusal(folder, reason, getattr(error, "filename", None), remedy) from error


def check_writable(folder: Path, remedy: str) -> None:
    """Raises InputError with `remedy` unless files can be made in `folder`, or it can be made."""
    existing = folder
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise _refusal(folder, _reason(error), existing, remedy) from error


def _refusal(folder: Path, reason: str, path: Any, remedy: str) -> InputError:
    named = f": {path}" if path and str(path) != str(folder) else ""
    return InputError(f"{folder}: cannot be written ({reason}{named}); {remedy}")


def _reason(error: OSError | RuntimeError) -> str:
    """Returns the system's reason: array_record, in C++, only has it in its text."""
    if isinstance(error, OSError):
        return error.strerror or ""
    return next((os.strerror(n) for n in REFUSALS if os.strerror(n) in str(error)), "")


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[BinaryIO]:
    """Yields a file that is `path` when it is written: whole or not at all, after a power cut too.

    It has another name until its content is on the disk: a file system may store a name first.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_names(path.parent)


def sync_names(folder: Path) -> None:
    """Waits until the names in a folder are on the disk, where its file system can do that."""
    with contextlib.suppress(OSError):
        sync_one(folder)


def sync(folder: Path) -> None:
    """Waits until all files below `folder`, and their names, are on the disk.

    What the file system cannot do is left out: some have no such thing for folders.
    """
    for name, _, files in os.walk(folder):
        for path in (*(os.path.join(name, file) for file in files), name):
            with contextlib.suppress(OSError):
                sync_one(Path(path))


def sync_one(path: Path) -> None:
    """Waits until a file's content, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
