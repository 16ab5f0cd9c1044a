"""The prepared copies of data sets in a cache: how large they are, when they were used last."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from trashseg_jax import folders
from trashseg_jax.data import locks

WHOLE = "whole"  # the file that a finished copy has; its time is that of the last use
REMOVED = ".removed-"  # how the name of what is being removed begins


class Copy(NamedTuple):
    """A folder below `prepared/`, finished or not."""

    path: Path
    size: int  # bytes
    used: float  # seconds since the epoch

    @property
    def days(self) -> float:
        return (time.time() - self.used) / 86400


def folder(cache_dir: Path) -> Path:
    return cache_dir / "prepared"


def is_whole(path: Path) -> bool:
    return (path / WHOLE).exists()


def mark_whole(path: Path) -> None:
    """Makes `path` count as finished, once all of it is on the disk."""
    folders.sync(path)
    (path / WHOLE).touch()
    folders.sync(path)


def mark_used(path: Path) -> None:
    """Notes that the copy is in use now, where it may be written to."""
    try:
        os.utime(path / WHOLE)
    except OSError:
        return


def list_copies(cache_dir: Path) -> list[Copy]:
    """Returns what lies in the cache, the longest unused first."""
    top = folder(cache_dir)
    paths = [path for path in top.iterdir() if path.is_dir()] if top.is_dir() else []
    return sorted((Copy(path, _size(path), _used(path)) for path in paths), key=lambda c: c.used)


def remove(copy: Copy) -> bool:
    """Removes a copy unless a run has it open, or has used it since it was listed."""
    if copy.path.name.startswith(REMOVED):
        shutil.rmtree(copy.path)
        return True
    with locks.alone(copy.path) as free:
        if not free or _used(copy.path) > copy.used:
            return False
        # First out of the way: a copy is there whole or not at all.
        doomed = copy.path.with_name(REMOVED + copy.path.name)
        copy.path.rename(doomed)
        shutil.rmtree(doomed)
        return True


def describe_new(path: Path, cache_dir: Path) -> str:
    """Returns a line on a copy that has just been made, and on all that lie beside it."""
    copies = list_copies(cache_dir)
    total = sum(copy.size for copy in copies)
    others = f"; the {len(copies)} copies in this cache take {format_size(total)}, "
    others += "scripts/clean_cache.py removes old ones"
    return f"{path}: prepared, {format_size(_size(path))}{others if len(copies) > 1 else ''}"


def format_size(size: int) -> str:
    value, units = float(size), ["bytes", "KiB", "MiB"]
    while value >= 1024 and units:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units else f"{value:.1f} GiB"


def _used(path: Path) -> float:
    marker = path / WHOLE
    return (marker if marker.exists() else path).stat().st_mtime


def _size(path: Path) -> int:
    return sum(status.st_size for status in _statuses(path))


def _statuses(path: Path) -> Iterator[os.stat_result]:
    for name, _, files in os.walk(path):
        for file in files:
            try:
                yield os.stat(os.path.join(name, file), follow_symlinks=False)
            except FileNotFoundError:  # of a copy that is being made or removed
                continue
