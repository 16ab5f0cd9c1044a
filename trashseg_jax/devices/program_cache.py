"""JAX's persistent compilation cache: a program that was compiled once is loaded by later runs.

JAX writes an entry in place, keeps one that was cut off (by a kill, a full disk) for good, and
bounds the folder's size only with a package of its own for locks; what is done here needs none.
"""

import hashlib
import os
import platform
import warnings
import zlib
from pathlib import Path

MAX_BYTES = 2**30  # some hundred programs of a full-size model
CHECKED = "checked"  # the file whose time says when `mend` last ran
CHUNK = 2**20


def keep_programs(folder: Path) -> None:
    """Loads compiled programs from a subfolder of `folder`, and keeps new ones in it.

    $JAX_COMPILATION_CACHE_DIR is used in its place, and left to JAX, where that is set. A cache
    that cannot be read or written is worth no word: the program is compiled.
    """
    import jax

    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    own = folder / machine()
    if own.is_dir():
        mend(own)
        prune(own, max_bytes=MAX_BYTES)
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(own))


def machine() -> str:
    """Returns a name for the processor: machine code for one may be an illegal one on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    except OSError:  # not Linux
        features = [platform.processor()]
    digest = hashlib.sha256(repr(sorted(set(features))).encode()).hexdigest()
    return f"{platform.machine()}-{digest[:8]}"


def mend(folder: Path) -> None:
    """Removes what was cut off while it was written, of the entries that are new."""
    checked = folder / CHECKED
    try:
        since = checked.stat().st_mtime if checked.exists() else 0.0
        checked.touch()  # first: what is written from now on is for the next time
        for entry in folder.glob("*-cache"):
            if entry.stat().st_mtime >= since and not is_whole(entry):
                entry.unlink(missing_ok=True)
    except OSError:  # read-only, or another run has removed the entry
        return


def is_whole(entry: Path) -> bool:
    """Says whether zlib's checksum at the entry's end is there and right.

    With the package zstandard installed JAX uses that instead: such an entry counts as whole.
    """
    unpacker = zlib.decompressobj()
    with entry.open("rb") as file:
        if file.read(1) not in (b"\x78", b""):
            return True
        file.seek(0)
        try:
            while (packed := file.read(CHUNK)) and not unpacker.eof:
                unpacker.decompress(packed)
        except zlib.error:
            return False
    return unpacker.eof


def prune(folder: Path, *, max_bytes: int) -> None:
    """Removes the entries not read for longest until the folder is no larger than `max_bytes`."""
    try:
        entries = [(entry, entry.stat()) for entry in folder.glob("*-cache")]
        # Where a file system does not note when a file is read, the time of writing counts.
        entries.sort(key=lambda pair: max(pair[1].st_atime, pair[1].st_mtime), reverse=True)
        size = 0
        for entry, stat in entries:
            size += stat.st_size
            if size > max_bytes:
                entry.unlink(missing_ok=True)
    except OSError:
        return
