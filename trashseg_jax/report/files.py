"""Files that are there whole or not at all, after a power cut too."""

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trashseg_jax import folders


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    with folders.replaced_file(path) as file:
        file.write(content)


@contextlib.contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder, which becomes `path`, in place of an earlier one, when it is filled.

    Of several processes that do so at once the last one's folder stays, whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        new.mkdir()
        yield new
        folders.sync(new)
        while True:
            with contextlib.suppress(FileNotFoundError):
                os.rename(path, old)
            try:
                os.rename(new, path)
                folders.sync_names(path.parent)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            shutil.rmtree(old, ignore_errors=True)  # another process's came between
