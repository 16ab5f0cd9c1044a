"""Orbax checkpoints of a run: the latest few and the best by mIoU."""

import contextlib
import gc
import logging
import os
import re
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from trashseg_jax.errors import InputError, RunError
from trashseg_jax.steps import TrainState

preserve = ocp.training.preservation_policies
decide = ocp.training.save_decision_policies

SHOWN = 5  # differing arrays that an error names
ROTATION_SECONDS = 5.0  # that the removal of a whole checkpoint may take

# What Orbax's and TensorStore's parsers raise; anything else is no damage.
PARSER_ERRORS = (ValueError, KeyError, TypeError, StopIteration, EOFError, FileNotFoundError)
# TensorStore raises ValueError for these too, which say nothing of the content.
NO_DAMAGE = re.compile(
    r"PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED"
    r"|UNAUTHENTICATED|UNIMPLEMENTED"
)
# How a process found a checkpoint; the largest of all of them counts.
SOUND, DAMAGED, GONE, UNREADABLE = range(4)


class Gone(RunError):
    """A checkpoint was removed while it was read, by the training that it is of."""


class Checkpoints:
    """A run's `checkpoints/` folder; saves in the background, use as a context manager.

    `writable` is for the one run that owns the folder: it removes what a killed one left half
    written. Raises RunError where a save fails, from the call after it at the latest.
    """

    def __init__(self, folder: Path, *, keep: int, writable: bool):
        self.folder = folder
        self._patience = 0.0 if writable else ROTATION_SECONDS
        saved_steps(folder)  # Orbax passes over what it cannot read
        checkpointer: Any = ocp.training.Checkpointer  # its annotations refuse its own policies
        context = ocp.Context()
        # True would cut every array into a slice a device: a program to compile for each shape.
        context.array.saving.use_replica_parallel = False
        self._checkpointer = checkpointer(
            folder.resolve(),
            # When to save is the training loop's decision.
            save_decision_policy=decide.FixedIntervalPolicy(1),
            preservation_policy=preserve.AnyPreservationPolicy(
                [
                    preserve.LatestN(keep),
                    preserve.BestN(
                        get_metric_fn=lambda m: m["miou"],
                        n=1,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
            cleanup_tmp_directories=writable,
            context=context,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            with self._explained():
                self._checkpointer.close()
        else:  # what went wrong first is what is told
            with contextlib.suppress(Exception):
                self._checkpointer.close()

    def save(self, state: TrainState, *, miou: float | None) -> None:
        """Saves `state` under its step, unless that step is saved; `miou` ranks it if known."""
        step = int(state.step)
        if self.latest_step is None or self.latest_step < step:
            metrics = None if miou is None else {"miou": miou}
            with self._explained():
                self._checkpointer.save_async(
                    step, state, metrics=metrics, custom_metadata={"digest": digest(state)}
                )

    def wait(self) -> None:
        """Returns when what was saved is on the disk."""
        with self._explained():
            self._checkpointer.wait()

    @property
    def latest_step(self) -> int | None:
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    @property
    def steps(self) -> list[int]:
        """The steps that are saved, in ascending order."""
        return sorted(checkpoint.step for checkpoint in self._checkpointer.checkpoints)

    @property
    def best_step(self) -> int | None:
        """The step with the highest mIoU; the latest where none was evaluated."""
        scored = [c for c in self._checkpointer.checkpoints if c.metrics]
        if not scored:
            return self.latest_step
        return max(scored, key=lambda c: (c.metrics["miou"], c.step)).step

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Returns the state saved at `step` with the shapes and shardings of `like`.

        `like` may be made of jax.ShapeDtypeStruct. Raises InputError naming what differs from it,
        RunError where the files are damaged or cannot be read, and Gone where the training has
        removed them meanwhile: `latest_step` and `best_step` are others then.
        """
        state = self._load(step, like)
        if state is None:
            raise RunError(
                f"{self.folder / str(step)}: is damaged; move it away and use an earlier checkpoint"
            )
        return state

    def restore_latest(self, like: TrainState) -> TrainState:
        """Returns the latest sound state, and moves damaged ones that are later aside.

        Raises RunError where one cannot be read, whatever the reason, or all are damaged: nothing
        is moved then.
        """
        damaged = []
        for step in sorted(saved_steps(self.folder), reverse=True):
            state = self._load(step, like)
            if state is not None:
                for later in damaged:
                    self._set_aside(later)
                return state
            damaged.append(step)
        raise RunError(
            f"{self.folder}: every checkpoint is damaged ({', '.join(map(str, damaged))}); nothing "
            "was changed; to begin anew move this folder away, or use another --workdir"
        )

    def _load(self, step: int, like: TrainState) -> TrainState | None:
        """Returns None, on all processes, if the checkpoint is damaged for one of them."""
        state, reason, folder = None, "", self.folder / str(step)
        with _without_chatter():
            try:
                state = self._read(step, like)
                found = DAMAGED if state is None else SOUND
            except InputError:
                raise
            except Exception as error:  # Orbax, TensorStore and json have no common one
                found, reason = _diagnose(folder, error, patience=self._patience)
        if jax.process_count() > 1:
            found = int(multihost_utils.process_allgather(np.array(found)).max())
        if found == UNREADABLE:
            raise RunError(
                f"{folder}: cannot be read ({reason or 'another process says why'}); it may be "
                "sound, so nothing was changed: fix this and start the same command again"
            )
        if found == GONE:
            self._checkpointer.reload()
            raise Gone(f"{folder}: was removed while it was read, by the training that goes on")
        return state if found == SOUND else None

    def _read(self, step: int, like: TrainState) -> TrainState | None:
        """Returns None if the checksum says that the arrays are damaged."""
        metadata = self._checkpointer.metadata(step)
        if metadata.metadata is None:
            raise ValueError("the description of the arrays cannot be read")
        self._check_same(step, metadata.metadata, like)
        state = self._checkpointer.load(step, like)
        return state if digest(state) == metadata.custom_metadata["digest"] else None

    def _set_aside(self, step: int) -> None:
        """Renames a damaged checkpoint, so that another can be saved at its step."""
        folder = self.folder / str(step)
        aside = self.folder.parent / f"damaged-checkpoint-{step}"
        if jax.process_index() == 0:
            while aside.exists():
                aside = aside.with_name(aside.name + "-again")
            folder.rename(aside)
            print(f"{folder}: is damaged, moved to {aside.name}; going on from the one before")
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("set aside")
        self._checkpointer.reload()

    def _check_same(self, step: int, stored_tree: Any, like: TrainState) -> None:
        stored, wanted = _shapes(stored_tree), _shapes(like)
        different = [
            f"{name} is {stored.get(name, 'absent')} in the checkpoint and "
            f"{wanted.get(name, 'absent')} in this config"
            for name in sorted(stored.keys() | wanted.keys())
            if stored.get(name) != wanted.get(name)
        ]
        if different:
            more = len(different) - SHOWN
            raise InputError(
                f"{self.folder / str(step)}: {'; '.join(different[:SHOWN])}"
                f"{f'; and {more} more' if more > 0 else ''}; use the config that the run was "
                "started with, or another --workdir"
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax passes on the file system's and TensorStore's own
            saved: list[int] = []
            with contextlib.suppress(RunError):
                saved = saved_steps(self.folder)
            last = f"the last whole one is that of step {max(saved)}" if saved else "there is none"
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise RunError(
                f"{self.folder}: a checkpoint could not be written ({reason[:200]}); {last}; "
                "make room and start the same command again"
            ) from error


def has_checkpoint(folder: Path) -> bool:
    """Says whether a run's `checkpoints/` folder, which may not exist, holds a whole one."""
    return bool(saved_steps(folder))


def saved_steps(folder: Path) -> list[int]:
    """Returns the steps of the whole checkpoints in a folder, which may not exist.

    Raises RunError where it cannot be known: a run must not begin anew because of that.
    """
    if not os.path.lexists(folder):
        return []
    try:
        names = [name for name in os.listdir(folder) if name.isdecimal()]
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a training has just removed it
                os.listdir(folder / name)
    except OSError as error:
        raise RunError(
            f"{error.filename}: cannot be read ({error.strerror}), so whether it holds "
            "a checkpoint is unknown; fix this and start the same command again"
        ) from error
    return [int(name) for name in names]


def _diagnose(folder: Path, error: Exception, *, patience: float) -> tuple[int, str]:
    """Returns how a checkpoint was found whose reading raised `error`, and what to say of it.

    Orbax hides some of the file system's errors, so each file is read once more.
    """
    if reason := _foreign(error):
        return UNREADABLE, reason
    try:
        _read_files(folder)
    except FileNotFoundError:
        return (UNREADABLE, "its files come and go") if _remains(folder, patience) else (GONE, "")
    except OSError as refusal:
        return UNREADABLE, f"{refusal.filename}: {refusal.strerror}"
    # All there is can be read, but a training may be at removing it.
    return (DAMAGED, "") if _remains(folder, patience) else (GONE, "")


def _foreign(error: BaseException | None) -> str:
    """Returns what to say of an error that no parser raises, or "" if it may mean damage."""
    while error is not None:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            return f"{error.filename}: {error.strerror}" if error.filename else str(error)
        if isinstance(error, MemoryError):
            return "out of memory"
        text = next(iter(str(error).strip().splitlines()), "")
        if not isinstance(error, PARSER_ERRORS) or NO_DAMAGE.search(text):
            return f"{type(error).__name__}: {text[:200]}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return ""


def _read_files(folder: Path) -> None:
    """Reads every file below a folder; raises the system's OSError for one that it refuses."""
    for entry in sorted(os.listdir(folder)):
        path = folder / entry
        # Orbax leaves no folder empty, but these two where the one file in them is lost.
        if path.is_dir() and (os.listdir(path) or entry in ("d", "array_metadatas")):
            _read_files(path)
            continue
        with path.open("rb") as file:
            while file.read(2**24):
                pass


def _remains(folder: Path, patience: float) -> bool:
    """Waits for a removal that may be under way; says whether the folder is still there."""
    end = time.monotonic() + patience
    while folder.exists():
        if time.monotonic() > end:
            return True
        time.sleep(0.05)
    return False


def digest(state: TrainState) -> str:
    """Returns the CRC-32 of all arrays of a replicated state, as 8 hex digits.

    TensorStore keeps no checksum of an array's data: a flipped bit would be loaded unseen.
    """
    crc = 0
    for leaf in jax.tree.leaves(state):
        crc = zlib.crc32(np.asarray(leaf.addressable_data(0)).tobytes(), crc)
    return f"{crc:08x}"


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Hides what Orbax's loader tells of broken files: pages, some when it is collected."""
    disabled, hook = logging.root.manager.disable, sys.unraisablehook
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    try:
        yield
    finally:
        gc.collect()
        sys.unraisablehook = hook
        logging.disable(disabled)


def _shapes(tree: Any) -> dict[str, str]:
    """Maps each leaf's path to its type and shape, whatever containers hold it."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        "/".join(_key_name(key) for key in path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }


def _key_name(key: Any) -> str:
    """The bare name or number of a dict key, attribute or index."""
    return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))
