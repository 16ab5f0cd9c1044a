"""Files that are there whole or not at all, after a power cut too."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from trashseg_jax import folders


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file under another name, waits until it is on the disk, and renames it.

    Without the wait a file system may store the new name before the content.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # some file systems cannot do that for a folder
        folders.sync_one(path.parent)
