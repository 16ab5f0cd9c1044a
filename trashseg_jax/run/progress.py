"""A training's progress: a bar on a terminal, plain lines anywhere else."""

import sys
import time

from tqdm import tqdm

SECONDS = 10.0  # between two plain lines, but for the first and the last


class Progress:
    """Shows steps, loss, speed and the time left; use as a context manager."""

    def __init__(self, *, first: int, total: int):
        self._first, self._total = first, total
        self._start, self._shown = time.monotonic(), -SECONDS
        self._bar = (
            tqdm(total=total, initial=first, unit="step", desc="Training")
            if sys.stderr.isatty()
            else None
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, step: int, *, loss: float, images_per_second: float) -> None:
        if self._bar is not None:
            shown = {"loss": f"{loss:.3f}", "images_per_s": f"{images_per_second:.1f}"}
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(step - self._bar.n)
            return
        now = time.monotonic()
        if now - self._shown >= SECONDS or step == self._total:
            self._shown = now
            left = (now - self._start) / (step - self._first) * (self._total - step)
            self.write(
                f"step {step} of {self._total}: loss {loss:.3f}, "
                f"{images_per_second:.1f} images/s, {format_seconds(left)} left"
            )

    def write(self, line: str) -> None:
        write_line(line)


def write_line(line: str) -> None:
    """Prints a line, at once even into a pipe, without tearing a bar."""
    with tqdm.external_write_mode():
        print(line, flush=True)


def format_seconds(seconds: float) -> str:
    """Returns a duration as 1 h 05 min, 3 min 07 s or 12 s."""
    seconds = round(seconds)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
