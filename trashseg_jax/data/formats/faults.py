"""What is wrong with single images: raised, or kept while their images are left out.

Worker processes import this module: it needs neither jax nor tensorflow.
"""

from collections.abc import Hashable
from pathlib import Path

from trashseg_jax.data.records import SKIP_REMEDY
from trashseg_jax.errors import InputError


class Faults:
    """The images that a file's faults concern, and a line for each of them."""

    def __init__(self, file: Path, *, skip_bad: bool):
        self.file, self.skip_bad = file, skip_bad
        self.images: set[Hashable] = set()
        self.lines: list[str] = []

    def add(self, image: Hashable | None, fault: str) -> None:
        """Raises InputError unless bad images are skipped; `image` None: it is no listed one."""
        if not self.skip_bad:
            raise InputError(f"{self.file}: {fault}; correct it, {SKIP_REMEDY}")
        if image is None or image not in self.images:
            self.lines.append(f"{self.file}: {fault}")
        if image is not None:
            self.images.add(image)
