"""The training loop: data, model, steps, evaluations and checkpoints, from config to metrics."""

import contextlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Float64, UInt8

from trashseg_jax import build, folders, metrics, settings, steps
from trashseg_jax.data import audit, image_sizes, sampling
from trashseg_jax.data.paste import Bank
from trashseg_jax.data.training_sets import TrainingSets
from trashseg_jax.devices import processes, sharding
from trashseg_jax.errors import InputError, Interrupted, RunError
from trashseg_jax.evaluate import (
    Evaluation,
    abstract_state,
    build_scorer,
    summarize,
    write_reports,
)
from trashseg_jax.models.unet import UNet
from trashseg_jax.provenance import describe_origin
from trashseg_jax.report import files, sheet, table
from trashseg_jax.run.checkpoint import Checkpoints, has_checkpoint
from trashseg_jax.run.divergence import FiniteWatch, check_skipped
from trashseg_jax.run.identity import Identity, identify
from trashseg_jax.run.interrupts import StepBoundary
from trashseg_jax.run.lock import REMEDY, RunLock
from trashseg_jax.run.log import RunLog
from trashseg_jax.run.progress import Progress
from trashseg_jax.run.resume import Changes, check_resume, find_changes
from trashseg_jax.settings import Config

if TYPE_CHECKING:
    from trashseg_jax.data.builder import Prepared

# Options that the figures of given weights depend on.
SCORING = (
    "data.image_size",
    *(f"eval.{key}" for key in ("split", "common_share", "boundary", "resolution")),
    *(f"eval.{key}" for key in ("scale", "tile_scale", "tta")),
    "crf.",
    "loss.",
)
PICTURE_EVERY = 3  # one in this many of an evaluation's samples is drawn for TensorBoard


def train(config: Config, workdir: Path) -> dict[str, Any]:
    """Trains to the end, from the latest checkpoint in `workdir` if there is one.

    Returns the final metrics, which are in metrics.json too. Raises Interrupted, a checkpoint
    saved, after SIGTERM or SIGINT, and RunError where the run cannot go on.
    """
    # Checks that need no data, which can take long to prepare.
    mesh = sharding.make_mesh()
    sharding.check_batch_size(
        "config.train.batch_size", config.train.batch_size, mesh, parts=config.train.accumulate
    )
    sharding.check_batch_size("config.eval.batch_size", config.eval.batch_size, mesh)
    build.check_options(config)
    if jax.process_index() == 0:
        folders.check_writable(workdir, REMEDY)
    check_resume(config, workdir)
    identity = identify(config)
    stops_at_nan = build.stops_at_nan(config)
    published = load_published(config, workdir, mesh)

    # Data: which images, how often, and what each class weighs.
    data = build.build_data(config)
    folder, allow_overlap = config.data.dir or config.data.name, config.data.allow_overlap
    audit.check_training(data, folder=folder, allow_overlap=allow_overlap)
    sets = build.build_training_sets(config, data)
    audit.check_mixed(sets, allow_overlap=allow_overlap)
    warnings = audit.find_warnings(data, split=config.eval.split)
    warnings += audit.find_mixed_warnings(sets)
    alpha = build.build_alpha(config, sets)
    image_weights = build.mix_image_weights(config, sets)
    priors = build.build_priors(config, sets, image_weights)
    total = build.num_steps(config, num_images=len(image_weights))

    # Model, optimizer, evaluators.
    model = build.build_model(config, num_classes=len(data.classes))
    tx, schedule = build.build_optimizer(config, steps=total)
    loss_fn = build.build_loss(config, alpha, priors)
    build_score = partial(build_scorer, config, data, model, loss_fn, mesh)
    score = build_score(refine=False, resolution="scaled")
    resolution, refine = config.eval.resolution, config.crf.enabled
    score_last = build_score(refine=refine, resolution=resolution, detailed=True)
    report = partial(summarize, config, sets, warnings=warnings)
    device = sharding.describe_devices()
    classes = describe_classes(sets, alpha, priors, image_weights)
    bank = build.build_bank(config, data)
    counts = count_objects(data, bank)
    derived = {**classes, **sets.describe(), **counts, "device": device}

    keep = config.train.keep_checkpoints
    with (
        hold_folder(workdir),
        Checkpoints(workdir / "checkpoints", keep=keep, writable=True) as checkpoints,
    ):
        # State: the latest checkpoint's, or a new one.
        state = restore_or_begin(config, checkpoints, model, tx, mesh, published)
        first = checkpoints.latest_step or 0  # state.step would wait for the weights
        changes = find_changes(config, workdir, derived) if first else {}
        if first >= total and (figures := finished_figures(workdir, first, changes)):
            return figures
        skipped = int(state.skipped) if first else 0
        sizes = settings.image_sizes(config)
        train_steps = {
            size: build_train_step(config, model, tx, loss_fn, skipped_before=skipped, size=size)
            for size in sizes
        }
        announce(workdir, derived, changes, warnings)
        print(
            f"{workdir}: {len(image_weights)} training images, from step {first} to {total}, on "
            f"{device}"
        )
        batches = train_batches(config, sets, image_weights, bank, start_step=first)
        watch = FiniteWatch(workdir, sets.name_images, stops=stops_at_nan, total=total)
        with (
            RunLog(workdir, first_step=first) as log,
            StepBoundary(several_processes=jax.process_count() > 1) as boundary,
            Progress(first=first, total=total) as progress,
        ):
            for step in range(first + 1, total + 1):
                batch = next(batches)
                train_step = train_steps[image_sizes.size_at(step, total=total, sizes=sizes)]
                state, scalars = train_step(state, sharding.shard_batch(batch, mesh))
                watch.add(step, batch, scalars)
                if step == first + 1:
                    # Records: what could refuse this start, a step of its options too, is behind.
                    jax.block_until_ready(scalars)
                    write_config(config, workdir, derived, identity)
                    if changes or first == 0:
                        log.write(first, {"changes": changes} if first else derived)
                miou, stops = None, boundary.is_last()
                logs, evaluates, saves = (step % n == 0 or step == total for n in intervals(config))
                if logs or evaluates or saves or stops:
                    watch.flush()  # waits for the step
                if logs:
                    rate = log.images_per_second(step, config.train.batch_size)
                    log.restart_clock(step)
                    numbers = read_scalars(scalars, schedule)
                    progress.show(step, loss=numbers["loss"], images_per_second=rate)
                    log.write(step, {**numbers, "images_per_second": rate})
                if evaluates:
                    result = score(state)
                    skipped = int(state.skipped)
                    figures = report(result, step=step, skipped=skipped, resamples=0)
                    miou = figures["miou"]
                    progress.write(f"step {step}: mIoU {table.format_number(miou)}")
                    log.write_evaluation(step, figures, draw_pictures(result, data))
                if evaluates or saves or stops:
                    log.sync()
                    checkpoints.save(state, miou=miou)
                    log.restart_clock(step)
                if stops and step < total:
                    checkpoints.wait()
                    raise Interrupted(
                        boundary.number,
                        f"saved after step {step} of {total}; the same command with "
                        f"--workdir={workdir} goes on from there",
                    )

        # The figures and the page.
        step, skipped = max(first, total), int(state.skipped)
        check_skipped(skipped, steps=step)
        result = score_last(state)  # with what the page shows besides, and perhaps other pixels
        figures = report(result, step=step, skipped=skipped, resamples=metrics.RESAMPLES)
        if jax.process_index() == 0:
            origin = describe_origin(config, workdir=workdir, params=state.params, derived=derived)
            write_reports(workdir, figures, result, log=workdir / "log.jsonl", origin=origin)
        return figures


@contextlib.contextmanager
def hold_folder(workdir: Path) -> Iterator[None]:
    """Makes the run's folder and keeps other runs out; tells what the file system refuses."""
    with RunLock(workdir) if jax.process_index() == 0 else contextlib.nullcontext():
        processes.wait_for_all("run.lock")  # which may be a killed run's, and take minutes
        try:
            yield
        except OSError as error:
            raise RunError(
                f"{error.filename or workdir}: {error.strerror}; the checkpoints so far are "
                "whole: fix it and start the same command again"
            ) from error


def intervals(config: Config) -> tuple[int, int, int]:
    """Returns after how many steps each the run logs, evaluates and saves."""
    return config.train.log_every, config.train.eval_every, config.train.checkpoint_every


def load_published(config: Config, workdir: Path, mesh: Mesh) -> dict[str, Any] | None:
    """Returns a model's variables with the weights that a new run begins with, None if none do.

    They are those of `model.pretrained` or `model.init`; what these do not have is abstract. Raises
    InputError for weights that do not fit.
    """
    published = config.model.pretrained or config.model.init
    if not published or has_checkpoint(workdir / "checkpoints"):
        return None
    model = build.build_model(config, num_classes=1)  # whatever the classes: a head is not asked
    tx, _ = build.build_optimizer(config, steps=1)
    state = abstract_state(config, model, tx, mesh)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    variables, said = build.load_beginning(config, model, variables)
    if said and jax.process_index() == 0:
        print(said)
    return variables


def finished_figures(workdir: Path, step: int, changes: Changes) -> dict[str, Any] | None:
    """Returns the metrics of a run with no step left to train; None if it was never scored there.

    Raises InputError where it would have to be scored now by other options than it was made with.
    """
    path, changed = workdir / "metrics.json", ", ".join(changes)
    figures = json.loads(path.read_text()) if path.exists() else {}
    if figures.get("step") == step and "resolution" in figures:  # an older version's lacks it
        also = f"; {changed} differ from the run's and change nothing" if changes else ""
        print(
            f"{workdir}: this run is finished, at step {step}, and nothing is trained{also}; "
            "--mode=evaluate scores it by other options, a larger config.train.steps trains on"
        )
        return figures
    if scored := [key for key in changes if key.startswith(SCORING)]:
        raise InputError(
            f"{path}: this run is finished and was not scored, and {scored[0]} "
            f"was {changes[scored[0]][0]!r}, is {changes[scored[0]][1]!r}; score it as it was "
            f"trained, with --config=run:{workdir}"
        )
    return None


def build_train_step(
    config: Config,
    model: UNet,
    tx: optax.GradientTransformation,
    loss_fn: Callable[..., Any],
    *,
    skipped_before: int,
    size: int,
) -> Callable[..., Any]:
    """Returns the step that trains on images of `size`; it is compiled when it is first taken."""
    augment = build.build_augment(config)
    return steps.make_train_step(
        model,
        tx,
        loss_fn,
        augment=lambda key, batch: image_sizes.shrink(augment(key, batch), size=size),
        normalize=build.build_normalize(config),
        ema_decay=config.train.ema_decay,
        stop_at_nan=build.stops_at_nan(config),
        skipped_before=skipped_before,
        accumulate=config.train.accumulate,
        # Not the key that the weights come from; why a seed ends one number early (settings.py).
        key=jax.random.key(config.seed + 1),
    )


def describe_classes(
    data: TrainingSets,
    alpha: Float64[np.ndarray, "k"],
    priors: Float64[np.ndarray, "k"],
    image_weights: Float64[np.ndarray, "n"],
) -> dict[str, Any]:
    """Returns, by class, its weight (alpha), its prior, its share of pixels and of images.

    The prior is its share of the pixels as the loss counts them, after sampling; `pixel_share` is
    that of the main data set as it is. The share of images is given before and after sampling.
    """
    pixels, _ = data.counts("train")
    before = sampling.expected_shares(np.ones_like(image_weights), pixels)
    after = sampling.expected_shares(image_weights, pixels)
    values = (alpha, priors, build.natural_priors(data), before, after)
    by_name = [dict(zip(data.classes, one.tolist(), strict=True)) for one in values]
    alphas, priors_by_name, pixel_share, before, after = by_name
    return {
        "alpha": alphas,
        "priors": priors_by_name,
        "pixel_share": pixel_share,
        "image_shares": {"before": before, "after": after},
    }


def count_objects(data: "Prepared", bank: Bank | None) -> dict[str, Any]:
    """Returns, by class, how many objects there are to paste; nothing where none are pasted."""
    if bank is None:
        return {}
    return {"paste_objects": dict(zip(data.classes, bank.counts.tolist(), strict=True))}


def announce(workdir: Path, derived: dict[str, Any], changes: Changes, warnings: list[str]) -> None:
    """Prints what the data led to, what is doubtful about them, and what differs from before."""
    print(table.format_balance(derived))
    for line in warnings:
        print(f"warning: {line}")
    for key, (before, now) in changes.items():
        print(f"changed since the run began: {key} was {before!r}, is {now!r}")


def write_config(
    config: Config, workdir: Path, derived: dict[str, Any], identity: Identity
) -> None:
    """Writes config.json: the options, what was derived from the data, what the model is."""
    if jax.process_index() == 0:
        content = {**config.to_dict(), "derived": derived, "identity": identity}
        files.write_json(workdir / "config.json", content)


def restore_or_begin(
    config: Config,
    checkpoints: Checkpoints,
    model: UNet,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    published: dict[str, Any] | None,
) -> steps.TrainState:
    """Returns the latest checkpoint's state; where there is none a new one, perhaps pretrained."""
    if has_checkpoint(checkpoints.folder):
        return checkpoints.restore_latest(abstract_state(config, model, tx, mesh))
    state = new_state(config, model, tx, mesh)
    if published is None:
        return state
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    variables = build.take_loaded(variables, published)
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
    config: Config,
    sets: TrainingSets,
    image_weights: Float64[np.ndarray, "n"],
    bank: Bank | None,
    *,
    start_step: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Returns this process's rows of the training stream from a step on."""
    from trashseg_jax.data import pipeline  # TensorFlow

    return pipeline.train_batches(
        sets.source(),
        index_of=build.mix_index(config, image_weights, sets),
        seed=config.seed,
        batch_size=config.train.batch_size,
        image_size=config.data.image_size,
        crop_area=config.data.augment.crop_area,
        crop_ratio=config.data.augment.crop_ratio,
        object_crops=config.data.augment.object_crops,
        paste=build.build_paste(config, bank),
        start_step=start_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def read_scalars(scalars: dict[str, jax.Array], schedule: optax.Schedule) -> dict[str, float | int]:
    """Returns what the log holds of a step, as plain numbers.

    The learning rate is that of the step's update: the optimizer counts the updates that it made.
    """
    numbers = {name: float(scalars[name]) for name in ("loss", "grad_norm")}
    rate = np.asarray(schedule(int(scalars["made"])))
    return {**numbers, "skipped": int(scalars["skipped"]), "learning_rate": float(rate)}


def draw_pictures(result: Evaluation, data: "Prepared") -> list[UInt8[np.ndarray, "h w 3"]]:
    """Returns a few of the samples, the same at each evaluation, for TensorBoard."""
    return [sheet.draw_strip(one, classes=data.classes) for one in result.samples[::PICTURE_EVERY]]
