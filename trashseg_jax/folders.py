"""Where the user's cache is, and one line where the system refuses a folder."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trashseg_jax.errors import InputError


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
    except OSError as error:
        if error.errno is None:  # a library's own, which says what it is by itself
            raise
        named = error.filename if isinstance(error.filename, str) else ""
        within = f": {named}" if named and Path(named) != folder else ""
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}{within}); {remedy}"
        ) from error


def check_writable(folder: Path, remedy: str) -> None:
    """Raises InputError with `remedy` unless files can be made in `folder`, or it can be made."""
    existing = folder
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    with explained(folder, remedy):
        tempfile.TemporaryFile(dir=existing).close()
