"""JAX's persistent compilation cache: a program that was compiled once is loaded by later runs.

JAX writes an entry in place, keeps one that was cut off (by a kill, a full disk) for good, and
bounds the folder's size only with a package of its own for locks; what is done here needs none.
"""

import hashlib
import os
import platform
import stat
import warnings
import zlib
from pathlib import Path

from trashseg_jax import folders
from trashseg_jax.errors import InputError

MAX_BYTES = 2**30  # some hundred programs of a full-size model
WORTH_KEEPING = 0.05  # seconds of compilation; JAX's own limit is 1, and predicting needs several
CHECKED = "checked"  # the file whose time says when `mend` last ran
CHUNK = 2**20
NOBODY = 65534  # whom a container shows as the owner of what belongs to the host's root


def keep_programs() -> None:
    """Loads compiled programs from the user's own cache, and keeps new ones in it.

    A loaded program is run: so none comes from a folder in which others can write, as that of
    prepared data may be. $JAX_COMPILATION_CACHE_DIR is used in its place, and left to JAX, where
    that is set. Where there is no such folder that is said, and every program is compiled.
    """
    import jax

    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    try:
        own = own_folder()
    except InputError as error:
        print(error)
        return
    mend(own)
    prune(own, max_bytes=MAX_BYTES)
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    jax.config.update("jax_compilation_cache_dir", str(own))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH_KEEPING)


def own_folder() -> Path:
    """Returns this processor's folder of programs, made where it is not there yet.

    Raises InputError where it cannot be made, or is not this user's alone to write.
    """
    remedy = (
        "compiled programs are not kept; name a folder of your own with "
        "$JAX_COMPILATION_CACHE_DIR, or pass --nocompilation_cache"
    )
    try:
        cache = folders.user_cache()
    except InputError as error:
        raise InputError(f"~/.cache: this user has no home folder; {remedy}") from error
    own = cache / "programs" / machine()
    with folders.explained(own, remedy):
        cache.mkdir(parents=True, exist_ok=True)
        for folder in (own.parent, own):
            folder.mkdir(mode=0o700, exist_ok=True)
        own = own.resolve()  # its own parents are looked at, not those of a link to it
        others = foreign_writers(own)
    if others:
        raise InputError(f"{others}; {remedy}")
    return own


def foreign_writers(own: Path) -> str:
    """Says who else could put a file into `own`, or another folder in its place; or ""."""
    user = os.geteuid()
    for folder in (own, *own.parents):
        status, ours = folder.stat(), folder in (own, own.parent)
        if status.st_uid not in ({user} if ours else {user, 0, NOBODY}):
            return f"{folder}: belongs to user {status.st_uid}, not to {user}"
        # In a sticky folder, as /tmp is, nobody can rename what belongs to another.
        sticky = status.st_mode & stat.S_ISVTX and not ours
        if status.st_mode & (0o022 if ours else 0o002) and not sticky:
            return f"{folder}: others may write in it (mode {stat.S_IMODE(status.st_mode):o})"
    return ""


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
