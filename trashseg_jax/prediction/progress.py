"""How far a job is: a bar on a terminal, plain lines anywhere else."""

import sys
import time

from tqdm import tqdm

from trashseg_jax.run.progress import SECONDS, format_seconds, write_line


class Progress:
    """Counts photographs of `total`; use as a context manager."""

    def __init__(self, total: int):
        self._total, self._count = total, 0
        self._start = self._shown = time.monotonic()
        self._bar = tqdm(total=total, unit="image") if sys.stderr.isatty() else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def add(self) -> None:
        self._count += 1
        if self._bar is not None:
            self._bar.update()
            return
        now = time.monotonic()
        if now - self._shown >= SECONDS or self._count == self._total:
            self._shown = now
            rate = self._count / max(now - self._start, 1e-9)
            left = format_seconds((self._total - self._count) / rate)
            self.write(
                f"{self._count} of {self._total} photographs: {rate:.2g} images/s, {left} left"
            )

    def write(self, line: str) -> None:
        write_line(line)
