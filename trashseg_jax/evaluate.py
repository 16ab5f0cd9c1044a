"""Evaluation: a split to per-image confusion matrices, and to the files that report it."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Integer
from tqdm import tqdm

from trashseg_jax import build, metrics, report, sharding, steps
from trashseg_jax.build import Config
from trashseg_jax.checkpoint import Checkpoints
from trashseg_jax.errors import InputError

if TYPE_CHECKING:
    from trashseg_jax.data.builder import Prepared

NUM_SAMPLES = 12


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One pass over a split: every image once, in the split's order."""

    ids: Integer[np.ndarray, "n"]
    confusion: Integer[np.ndarray, "n k k"]
    samples: list[report.Sample]


def evaluate(config: Config, workdir: Path) -> dict[str, Any]:
    """Scores a checkpoint of the run in `workdir`, writes its reports, returns its metrics."""
    mesh = sharding.make_mesh()
    data = build.build_data(config)
    model = build.build_model(config, num_classes=len(data.classes))
    tx, _ = build.build_optimizer(config, steps=1)
    state = restore(config, workdir, model, tx, mesh)
    score = build_scorer(config, data, model, mesh)
    return write_reports(config, workdir, data, score(state), step=int(state.step))


def restore(
    config: Config,
    workdir: Path,
    model: nn.Module,
    tx: optax.GradientTransformation,
    mesh: Mesh,
) -> steps.TrainState:
    """Returns the state of the checkpoint that `eval.checkpoint` names."""
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        raise InputError(f"{folder}: does not exist; give the --workdir of a run")
    with Checkpoints(folder, keep=config.train.keep_checkpoints) as checkpoints:
        choices = {"latest": checkpoints.latest_step, "best": checkpoints.best_step}
        step = build.choose("eval.checkpoint", config.eval.checkpoint, choices)
        if step is None:
            raise InputError(f"{folder}: holds no checkpoint; train first")
        return checkpoints.restore(step, abstract_state(config, model, tx, mesh))


def abstract_state(
    config: Config, model: nn.Module, tx: optax.GradientTransformation, mesh: Mesh
) -> steps.TrainState:
    """Returns the shapes and shardings of the run's state."""
    init = partial(steps.init_state, model=model, tx=tx, ema=config.train.ema_decay > 0)
    return sharding.as_replicated(jax.eval_shape(init, jax.random.key(config.seed)), mesh)


def build_scorer(
    config: Config, data: "Prepared", model: nn.Module, mesh: Mesh
) -> Callable[[steps.TrainState], Evaluation]:
    """Returns a function that scores a state on the split `eval.split`."""
    from trashseg_jax.data import pipeline  # TensorFlow

    sharding.check_batch_size("config.eval.batch_size", config.eval.batch_size, mesh)
    source = data.source(config.eval.split)
    eval_step = steps.make_eval_step(
        model, normalize=build.build_normalize(config), num_classes=len(data.classes)
    )
    total = -(-len(source) // config.eval.batch_size)
    chosen = np.unique(np.linspace(0, len(source) - 1, NUM_SAMPLES).astype(int))

    def score(state: steps.TrainState) -> Evaluation:
        batches = pipeline.eval_batches(
            source,
            batch_size=config.eval.batch_size,
            image_size=config.data.image_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        return score_batches(
            eval_step, state.eval_variables(), batches, mesh, sample_at=chosen, num_batches=total
        )

    return score


def score_batches(
    eval_step: Callable[..., Any],
    variables: Any,
    batches: Iterator[dict[str, np.ndarray]],
    mesh: Mesh,
    *,
    sample_at: Integer[np.ndarray, "s"],
    num_batches: int,
) -> Evaluation:
    """Returns ids and confusion matrices of all valid rows, and samples at the places named.

    With several processes the samples are those among this process's rows.
    """
    ids, confusions, samples, place = [], [], [], 0
    for batch in tqdm(batches, "Evaluating", num_batches, leave=False, unit="batch"):
        arrays = sharding.shard_batch({k: v for k, v in batch.items() if k != "id"}, mesh)
        predictions, confusion = eval_step(variables, arrays)
        ids.append(batch["id"])
        confusions.append((confusion, arrays["mask"]))  # fetched at the end: no waiting here
        rows = np.flatnonzero(np.isin(place + np.arange(len(batch["id"])), sample_at))
        if rows.size and jax.process_count() == 1:
            fetched = np.asarray(predictions[rows])
            samples += [
                report.Sample(batch["image"][r], batch["label"][r], p)
                for r, p in zip(rows, fetched, strict=True)
            ]
        place += len(batch["id"])
    return gather(ids, confusions, samples)


def gather(ids: list, confusions: list, samples: list) -> Evaluation:
    """Joins the batches of all processes and drops the rows that only fill up the last one."""
    all_ids = np.concatenate([sharding.to_host(i) for i in ids])
    fetched = [sharding.to_host(pair) for pair in confusions]
    mask = np.concatenate([m for _, m in fetched])
    confusion = np.concatenate([c for c, _ in fetched])
    return Evaluation(all_ids[mask], confusion[mask], samples)


def summarize(config: Config, data: "Prepared", result: Evaluation, *, step: int) -> dict[str, Any]:
    """Returns the figures of an evaluation as metrics.json holds them."""
    return {
        "dataset": config.data.name,
        "split": config.eval.split,
        "step": step,
        **metrics.summarize(
            result.confusion, classes=data.classes, common_share=config.eval.common_share
        ),
        "skipped": data.problems,
        "clipped_annotations": data.clipped,
    }


def write_reports(
    config: Config, workdir: Path, data: "Prepared", result: Evaluation, *, step: int
) -> dict[str, Any]:
    """Writes metrics.json, samples.png and report.html of an evaluation; returns the metrics."""
    figures = summarize(config, data, result, step=step)
    if jax.process_index() == 0:
        report.write_json(workdir / "metrics.json", figures)
        report.save_samples(workdir / "samples.png", result.samples, classes=data.classes)
        report.write_html(workdir / "report.html", figures, log=workdir / "log.jsonl")
    return figures
