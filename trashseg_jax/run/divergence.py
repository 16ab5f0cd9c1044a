"""Finds updates that were not finite without making the device wait for the host."""

import io
from collections import deque
from pathlib import Path
from typing import Any

import jax
import numpy as np

from trashseg_jax.errors import RunError
from trashseg_jax.report import files

DELAY = 2  # steps between an update and the look at it


class FiniteWatch:
    """Looks at each step's `finite` when the device is `DELAY` steps further.

    The train step has frozen the state from such an update on, so what ran meanwhile changed
    nothing. Raises RunError, the batch saved in `workdir`.
    """

    def __init__(self, workdir: Path):
        self._workdir = workdir
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
            return
        path = self._workdir / f"diverged-step{step}-process{jax.process_index()}.npz"
        save_batch(path, batch)
        raise RunError(
            f"step {step}: loss {float(scalars['loss'])}, gradient norm "
            f"{float(scalars['grad_norm'])}; its batch of images {batch['id'].tolist()} is in "
            f"{path}; go on from the last checkpoint with a lower "
            "--config.optimizer.learning_rate, or leave such updates out with "
            "--config.nan_policy=skip"
        )


def save_batch(path: Path, batch: dict[str, np.ndarray]) -> None:
    content = io.BytesIO()
    np.savez(content, **batch)  # pyright: ignore[reportArgumentType]
    files.write_bytes(path, content.getvalue())
