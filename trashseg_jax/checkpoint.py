"""Orbax checkpoints of a run: the latest few and the best by mIoU."""

from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from trashseg_jax.errors import InputError
from trashseg_jax.steps import TrainState

preserve = ocp.training.preservation_policies
decide = ocp.training.save_decision_policies


class Checkpoints:
    """A run's `checkpoints/` folder; saves in the background, use as a context manager."""

    def __init__(self, folder: Path, *, keep: int):
        self.folder = folder
        checkpointer: Any = ocp.training.Checkpointer  # its annotations refuse its own policies
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
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc: Any) -> None:
        self._checkpointer.close()

    def save(self, state: TrainState, *, miou: float | None) -> None:
        """Saves `state` under its step, unless that step is saved; `miou` ranks it if known."""
        step = int(state.step)
        if self._checkpointer.latest is None or self._checkpointer.latest.step < step:
            metrics = None if miou is None else {"miou": miou}
            self._checkpointer.save_async(step, state, metrics=metrics)

    @property
    def latest_step(self) -> int | None:
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    @property
    def best_step(self) -> int | None:
        """The step with the highest mIoU; the latest where none was evaluated."""
        scored = [c for c in self._checkpointer.checkpoints if c.metrics]
        if not scored:
            return self.latest_step
        return max(scored, key=lambda c: (c.metrics["miou"], c.step)).step

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Returns the state saved at `step` with the shapes and shardings of `like`.

        `like` may be made of jax.ShapeDtypeStruct. Raises InputError naming what differs.
        """
        self._check_same(step, like)
        return self._checkpointer.load(step, like)

    def _check_same(self, step: int, like: TrainState) -> None:
        stored = _shapes(self._checkpointer.metadata(step).metadata)
        wanted = _shapes(like)
        for name in sorted(stored.keys() | wanted.keys()):
            if stored.get(name) != wanted.get(name):
                raise InputError(
                    f"{self.folder / str(step)}: {name} is {stored.get(name, 'absent')} in the "
                    f"checkpoint and {wanted.get(name, 'absent')} in this config; use the config "
                    "that the run was started with, or another --workdir"
                )


def has_checkpoint(folder: Path) -> bool:
    """Says whether a run's `checkpoints/` folder, which may not exist, holds a whole one."""
    return folder.is_dir() and any(entry.name.isdigit() for entry in folder.iterdir())


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
