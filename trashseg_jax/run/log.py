"""A run's log: log.jsonl, one object a logged step, and TensorBoard events."""

import json
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from tensorboardX import SummaryWriter

from trashseg_jax.report.files import write_text


class RunLog:
    """Appends to a run's log; entries after `first_step`, which a resume repeats, are dropped."""

    def __init__(self, workdir: Path, *, first_step: int):
        self._enabled = jax.process_index() == 0
        self.restart_clock(first_step)
        if not self._enabled:
            return
        path, events = workdir / "log.jsonl", workdir / "tensorboard"
        # Cut off where a killed run was writing; a new run writes the entry of step 0 itself.
        lines = path.read_text().splitlines(keepends=True) if path.exists() and first_step else []
        whole = [line for line in lines if line.endswith("\n")]
        write_text(path, "".join(x for x in whole if json.loads(x)["step"] <= first_step))
        self._file = path.open("a", buffering=1, encoding="utf-8")
        if not first_step:
            shutil.rmtree(events, ignore_errors=True)  # a run killed before its first checkpoint
        # TensorBoard then drops what it has read of later steps, even while it is running.
        self._events = SummaryWriter(str(events), purge_step=first_step + 1)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._enabled:
            self._file.close()
            self._events.close()

    def write(self, step: int, entry: Mapping[str, Any]) -> None:
        """Appends to log.jsonl, where NaN and infinity are null, and adds numbers to TensorBoard's.

        Nested values go to log.jsonl alone.
        """
        if not self._enabled:
            return
        self._append(step, entry)
        self._add_scalars(step, entry)

    def write_evaluation(
        self, step: int, figures: Mapping[str, Any], pictures: Sequence[UInt8[np.ndarray, "h w 3"]]
    ) -> None:
        """Logs what `evaluate.summarize` says, to TensorBoard under the split's name.

        There go each class's IoU and the pictures too.
        """
        if not self._enabled:
            return
        split, iou = figures["split"], figures["iou"]
        means = {key: figures[key] for key in ("miou", "boundary_miou") if key in figures}
        self._append(step, {**means, "eval_loss": figures["loss"], "iou": iou})
        scalars = {**means, "loss": figures["loss"]}
        scalars |= {f"iou/{name}": value for name, value in iou.items()}
        self._add_scalars(step, {f"{split}/{name}": value for name, value in scalars.items()})
        for index, picture in enumerate(pictures):
            self._events.add_image(f"{split}/sample{index}", picture, step, dataformats="HWC")

    def images_per_second(self, step: int, batch_size: int) -> float:
        """Returns the rate since `restart_clock`."""
        return (step - self._step) * batch_size / (time.perf_counter() - self._time)

    def sync(self) -> None:
        """Waits until the entries are on the disk: no checkpoint is to outlive those before it."""
        if self._enabled:
            os.fsync(self._file.fileno())

    def restart_clock(self, step: int) -> None:
        """Measures the rate from here: after an entry, or what is no part of it."""
        self._step, self._time = step, time.perf_counter()

    def _append(self, step: int, entry: Mapping[str, Any]) -> None:
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in entry.items()
        }
        self._file.write(json.dumps({"step": step, **finite}) + "\n")

    def _add_scalars(self, step: int, entry: Mapping[str, Any]) -> None:
        for name, value in entry.items():
            if isinstance(value, float) and math.isfinite(value):
                self._events.add_scalar(name, value, step)
