"""Finds updates that were not finite without making the device wait for the host."""

import io
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from trashseg_jax.errors import RunError
from trashseg_jax.report import files

DELAY = 2  # steps between an update and the look at it
PATIENCE = 100  # updates left out one after the other that end a run; half of a shorter one does
REMEDY = (
    "start again in another --workdir with a lower --config.optimizer.learning_rate; "
    "--config.nan_policy=stop saves the first such batch"
)


class FiniteWatch:
    """Looks at each step's `finite` when the device is `DELAY` steps further.

    Under `stops` the train step has frozen the state from such an update on, so what ran meanwhile
    changed nothing: raises RunError, the batch saved in `workdir`, its images called what
    `name_images` makes of their ids. Else raises RunError where nothing but such updates has come
    for long, as no later one will mend that.
    """

    def __init__(
        self,
        workdir: Path,
        name_images: Callable[[np.ndarray], Sequence[int | str]],
        *,
        stops: bool,
        total: int,
    ):
        self._workdir, self._name_images, self._stops = workdir, name_images, stops
        self._patience = min(PATIENCE, (total + 1) // 2)
        self._in_a_row = 0
        self._waiting: deque[tuple[int, dict[str, np.ndarray], dict[str, jax.Array]]] = deque()

    def add(self, step: int, batch: dict[str, np.ndarray], scalars: dict[str, jax.Array]) -> None:
        """Takes a step's batch, this process's rows, and what the train step said of it."""
        self._waiting.append((step, batch, scalars))
        if len(self._waiting) > DELAY:
            self._look(*self._waiting.popleft())

    def flush(self) -> None:
        """Looks at all steps so far: what follows needs a state that is sound."""
        while self._waiting:
            self._look(*self._waiting.popleft())

    def _look(self, step: int, batch: dict[str, np.ndarray], scalars: dict[str, Any]) -> None:
        if scalars["finite"]:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        said = f"loss {float(scalars['loss'])}, gradient norm {float(scalars['grad_norm'])}"
        if self._stops:
            path = self._workdir / f"diverged-step{step}-process{jax.process_index()}.npz"
            save_batch(path, batch)
            names = self._name_images(batch["id"])
            raise RunError(
                f"step {step}: {said}; its batch of images {names} is in {path}; "
                "go on from the last checkpoint with a lower --config.optimizer.learning_rate, or "
                "leave such updates out with --config.nan_policy=skip"
            )
        if self._in_a_row >= self._patience:
            raise RunError(
                f"step {step}: {said}; the last {self._in_a_row} updates were left out, none of "
                f"them was finite ({int(scalars['skipped'])} in all), and no later one will be; "
                f"{REMEDY}"
            )


def check_skipped(skipped: int, *, steps: int) -> None:
    """Raises RunError where a run of so many steps has left most of its updates out."""
    if 2 * skipped > steps:
        raise RunError(
            f"step {steps}: {skipped} of {steps} updates were left out as not finite, so these "
            f"weights are not those of this config's training; {REMEDY}"
        )


def save_batch(path: Path, batch: dict[str, np.ndarray]) -> None:
    content = io.BytesIO()
    np.savez(content, **batch)  # pyright: ignore[reportArgumentType]
    files.write_bytes(path, content.getvalue())
