"""The training loop: data, model, steps, evaluations and checkpoints, from config to metrics."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Float64

from trashseg_jax import build, steps
from trashseg_jax.data import sampling
from trashseg_jax.devices import sharding
from trashseg_jax.errors import Interrupted, RunError
from trashseg_jax.evaluate import abstract_state, build_scorer, summarize, write_reports
from trashseg_jax.models.unet import UNet
from trashseg_jax.report import files, table
from trashseg_jax.run.checkpoint import Checkpoints, has_checkpoint
from trashseg_jax.run.divergence import FiniteWatch
from trashseg_jax.run.interrupts import StepBoundary
from trashseg_jax.run.lock import RunLock
from trashseg_jax.run.log import RunLog
from trashseg_jax.run.progress import Progress
from trashseg_jax.run.resume import Changes, check_resume
from trashseg_jax.settings import Config

if TYPE_CHECKING:
    from trashseg_jax.data.builder import Prepared


def train(config: Config, workdir: Path) -> dict[str, Any]:
    """Trains to the end, from the latest checkpoint in `workdir` if there is one.

    Returns the final metrics, which are in metrics.json too. Raises Interrupted, a checkpoint
    saved, after SIGTERM or SIGINT, and RunError where the run cannot go on.
    """
    mesh = sharding.make_mesh()
    sharding.check_batch_size(
        "config.train.batch_size", config.train.batch_size, mesh, parts=config.train.accumulate
    )
    check_extras(config, workdir)  # before the data are prepared, which can take long
    data = build.build_data(config)
    alpha = build.build_alpha(config, data)
    image_weights = build.build_image_weights(config, data)
    total = build.num_steps(config, num_images=len(image_weights))
    model = build.build_model(config, num_classes=len(data.classes))
    tx, schedule = build.build_optimizer(config, steps=total)
    train_step = build_train_step(config, model, tx, alpha)
    score = build_scorer(config, data, model, mesh, refine=False)
    score_last = build_scorer(config, data, model, mesh, refine=config.crf.enabled)
    device = sharding.describe_devices()
    derived = {**balance(data, alpha, image_weights), "device": device}

    folder = workdir / "checkpoints"
    changes = check_resume(config, workdir, derived) if has_checkpoint(folder) else {}
    keep = config.train.keep_checkpoints
    with owned(workdir), Checkpoints(folder, keep=keep, writable=True) as checkpoints:
        state = start(config, checkpoints, model, tx, mesh)
        first = checkpoints.latest_step or 0  # state.step would wait for the weights
        record_start(config, workdir, derived, changes)
        print(
            f"{workdir}: {len(image_weights)} training images, from step {first} to {total}, on "
            f"{device}"
        )
        batches = train_batches(config, data, image_weights, start_step=first)
        watch = FiniteWatch(workdir) if build.stops_at_nan(config) else None
        result = None
        with (
            RunLog(workdir, first_step=first) as log,
            StepBoundary(several_processes=jax.process_count() > 1) as boundary,
            Progress(first=first, total=total) as progress,
        ):
            if changes or first == 0:
                log.write(first, {"changes": changes} if first else derived)
            for step in range(first + 1, total + 1):
                batch = next(batches)
                state, scalars = train_step(state, sharding.shard_batch(batch, mesh))
                if watch:
                    watch.add(step, batch, scalars)
                miou, stops = None, boundary.is_last()
                logs, evaluates, saves = (step % n == 0 or step == total for n in rhythm(config))
                if watch and (logs or evaluates or saves or stops):
                    watch.flush()  # waits for the step
                if logs:
                    rate = log.images_per_second(step, config.train.batch_size)
                    numbers = entry(scalars, schedule(step - 1), rate)
                    progress.show(step, loss=numbers["loss"], images_per_second=rate)
                    log.write(step, numbers)
                if evaluates:
                    result = score(state)
                    figures = summarize(config, data, result, step=step)
                    miou = figures["miou"]
                    progress.write(f"step {step}: mIoU {table.format_number(miou)}")
                    log.write(step, {"miou": miou, "iou": figures["iou"]})
                if evaluates or saves or stops:
                    checkpoints.save(state, miou=miou)
                    log.restart_clock(step)
                if stops and step < total:
                    checkpoints.wait()
                    raise Interrupted(
                        f"{boundary.name}: saved after step {step} of {total}; the same command "
                        f"with --workdir={workdir} goes on from there"
                    )
        if result is None or config.crf.enabled:  # the run had ended before, or the CRF is due
            result = score_last(state)
        return write_reports(config, workdir, data, result, step=max(first, total))


@contextlib.contextmanager
def owned(workdir: Path) -> Iterator[None]:
    """Makes the run's folder and keeps other runs out; tells what the file system refuses."""
    with RunLock(workdir) if jax.process_index() == 0 else contextlib.nullcontext():
        try:
            yield
        except OSError as error:
            raise RunError(
                f"{error.filename or workdir}: {error.strerror}; the checkpoints so far are "
                "whole: mend it and start the same command again"
            ) from error


def rhythm(config: Config) -> tuple[int, int, int]:
    """Returns after how many steps each the run logs, evaluates and saves."""
    return config.train.log_every, config.train.eval_every, config.train.checkpoint_every


def check_extras(config: Config, workdir: Path) -> None:
    """Raises InputError for a CRF or pretrained weights that the run could not use."""
    if config.crf.enabled:
        build.build_crf(config)
    if begins_with_weights(config) and not has_checkpoint(workdir / "checkpoints"):
        model = build.build_model(config, num_classes=1)
        tx, _ = build.build_optimizer(config, steps=1)
        state = abstract_state(config, model, tx, sharding.make_mesh())
        build.load_beginning(
            config, model, {"params": state.params, "batch_stats": state.batch_stats}
        )


def begins_with_weights(config: Config) -> bool:
    return bool(config.model.pretrained or config.model.init)


def build_train_step(
    config: Config,
    model: UNet,
    tx: optax.GradientTransformation,
    alpha: Float64[np.ndarray, "k"],
) -> Callable[..., Any]:
    return steps.make_train_step(
        model,
        tx,
        build.build_loss(config, alpha),
        augment=build.build_augment(config),
        normalize=build.build_normalize(config),
        ema_decay=config.train.ema_decay,
        stop_at_nan=build.stops_at_nan(config),
        accumulate=config.train.accumulate,
        key=jax.random.key(config.seed + 1),
    )


def balance(
    data: "Prepared", alpha: Float64[np.ndarray, "k"], image_weights: Float64[np.ndarray, "n"]
) -> dict[str, Any]:
    """Returns, by class, alpha and the share of images that hold it, before and after sampling."""
    pixels, _ = data.counts("train")
    before = sampling.expected_shares(np.ones_like(image_weights), pixels)
    after = sampling.expected_shares(image_weights, pixels)
    alphas, before, after = (
        dict(zip(data.classes, values.tolist(), strict=True)) for values in (alpha, before, after)
    )
    return {"alpha": alphas, "image_shares": {"before": before, "after": after}}


def record_start(config: Config, workdir: Path, derived: dict[str, Any], changes: Changes) -> None:
    """Writes config.json, with what was derived from the data beside the options, and prints it."""
    if jax.process_index() == 0:
        files.write_json(workdir / "config.json", {**config.to_dict(), "derived": derived})
        print(table.format_balance(derived))
        for key, (before, now) in changes.items():
            print(f"changed since the run began: {key} was {before!r}, is {now!r}")


def start(
    config: Config,
    checkpoints: Checkpoints,
    model: UNet,
    tx: optax.GradientTransformation,
    mesh: Mesh,
) -> steps.TrainState:
    """Returns the latest checkpoint's state; where there is none a new one, perhaps pretrained."""
    if checkpoints.latest_step is not None:
        state = checkpoints.restore_latest(abstract_state(config, model, tx, mesh))
        if state is not None:
            return state
    state = new_state(config, model, tx, mesh)
    if not begins_with_weights(config):
        return state
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    variables, said = build.load_beginning(config, model, variables)
    if said and jax.process_index() == 0:
        print(said)
    return state.with_variables(jax.device_put(variables, sharding.replicated(mesh)))


def new_state(
    config: Config, model: UNet, tx: optax.GradientTransformation, mesh: Mesh
) -> steps.TrainState:
    """Returns the state of step 0, random weights from `seed`, on every device."""
    init = jax.jit(
        partial(steps.init_state, model=model, tx=tx, ema=config.train.ema_decay > 0),
        out_shardings=sharding.replicated(mesh),
        # Runs once, and its random numbers take the compiler long to optimise.
        compiler_options={"xla_backend_optimization_level": 0},
    )
    return init(jax.random.key(config.seed))


def train_batches(
    config: Config, data: "Prepared", image_weights: Float64[np.ndarray, "n"], *, start_step: int
) -> Iterator[dict[str, np.ndarray]]:
    """Returns this process's rows of the training stream from a step on."""
    from trashseg_jax.data import pipeline  # TensorFlow

    return pipeline.train_batches(
        data.source("train"),
        index_of=build.build_index(config, image_weights),
        seed=config.seed,
        batch_size=config.train.batch_size,
        image_size=config.data.image_size,
        crop_area=build.pair(config, "data.augment.crop_area"),
        crop_ratio=build.pair(config, "data.augment.crop_ratio"),
        start_step=start_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def entry(scalars: dict[str, jax.Array], learning_rate: Any, rate: float) -> dict[str, float | int]:
    """Returns a log entry of plain numbers."""
    numbers = {name: float(scalars[name]) for name in ("loss", "grad_norm")}
    numbers["skipped"] = int(scalars["skipped"])
    return {**numbers, "learning_rate": float(learning_rate), "images_per_second": rate}
