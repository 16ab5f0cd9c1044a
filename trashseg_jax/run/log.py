"""A run's log: log.jsonl, one object a logged step, and the same as TensorBoard events."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import jax
from tensorboardX import SummaryWriter

from trashseg_jax.report.files import write_text


class RunLog:
    """Appends to a run's log; entries after `first_step`, which a resume repeats, are dropped."""

    def __init__(self, workdir: Path, *, first_step: int):
        self._enabled = jax.process_index() == 0
        self._step, self._time = first_step, time.perf_counter()
        if not self._enabled:
            return
        path = workdir / "log.jsonl"
        # Cut off where a killed run was writing; a new run writes the entry of step 0 itself.
        lines = path.read_text().splitlines(keepends=True) if path.exists() and first_step else []
        whole = [line for line in lines if line.endswith("\n")]
        kept = [line for line in whole if json.loads(line)["step"] <= first_step]
        write_text(path, "".join(kept))
        self._file = path.open("a", buffering=1, encoding="utf-8")
        folder = str(workdir / "tensorboard")
        self._events = SummaryWriter(folder, purge_step=first_step + 1 if kept else None)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._enabled:
            self._file.close()
            self._events.close()

    def write(self, step: int, scalars: dict[str, Any]) -> None:
        """Writes an entry; nested values go to log.jsonl alone, where NaN and infinity are null."""
        if not self._enabled:
            return
        scalars = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in scalars.items()
        }
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")
        for name, value in scalars.items():
            if isinstance(value, float):
                self._events.add_scalar(name, value, step)

    def images_per_second(self, step: int, batch_size: int) -> float:
        """Returns the rate since the last call or `restart_clock`."""
        now = time.perf_counter()
        rate = (step - self._step) * batch_size / (now - self._time)
        self._step, self._time = step, now
        return rate

    def sync(self) -> None:
        """Waits until the entries are on the disk: no checkpoint is to outlive those before it."""
        if self._enabled:
            os.fsync(self._file.fileno())

    def restart_clock(self, step: int) -> None:
        """Leaves what was done since the last entry, an evaluation say, out of the rate."""
        self._step, self._time = step, time.perf_counter()
