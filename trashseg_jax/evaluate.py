"""Evaluation: a split to per-image confusion matrices, and to the files that report it."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, UInt8

from trashseg_jax import boundary, build, folders, metrics, steps
from trashseg_jax.data import audit, taxonomy
from trashseg_jax.devices import sharding
from trashseg_jax.errors import InputError
from trashseg_jax.inference import Member, member_of
from trashseg_jax.provenance import describe_origin
from trashseg_jax.refine import calibration, engines
from trashseg_jax.refine.calibration import Calibration
from trashseg_jax.report import choice, confusions, files, page, pictures, sheet
from trashseg_jax.report.history import read_history
from trashseg_jax.report.origin import Origin
from trashseg_jax.run.checkpoint import Checkpoints, Gone
from trashseg_jax.run.identity import check_identity
from trashseg_jax.scoring.batches import Batch
from trashseg_jax.scoring.evaluation import Evaluation, collect
from trashseg_jax.scoring.originals import build_original_scores
from trashseg_jax.scoring.refined import refine_batches
from trashseg_jax.scoring.scaled import build_scaled_scores
from trashseg_jax.scoring.second_look import MOST, look_again
from trashseg_jax.settings import Config, choose

if TYPE_CHECKING:
    from trashseg_jax.data.builder import Prepared
    from trashseg_jax.data.training_sets import TrainingSets
    from trashseg_jax.model_folder import Model


def evaluate(config: Config, workdir: Path) -> dict[str, Any]:
    """Scores a checkpoint of the run in `workdir`, and returns its metrics.

    They and the reports are in `evaluation_folder`; the run's own files stay as they are.
    """
    remedy = "copy the run to a folder that can be written, and pass that as --workdir"
    return _evaluate(config, workdir, models=(), described={}, remedy=remedy)


def evaluate_models(
    config: Config, workdir: Path, *, models: Sequence["Model"], described: list[dict[str, Any]]
) -> dict[str, Any]:
    """Scores models that are trained, several by their mean probabilities; returns the metrics.

    They and the reports are in `evaluation_folder`. `config` must have the first model's options,
    `described` is what metrics.json says of each (see scored_models.py).
    """
    remedy = "name a folder that can be written with --workdir"
    return _evaluate(config, workdir, models=models, described={"models": described}, remedy=remedy)


def _evaluate(
    config: Config,
    workdir: Path,
    *,
    models: Sequence["Model"],
    described: dict[str, Any],
    remedy: str,
) -> dict[str, Any]:
    """Scores `models`, or where there are none the run in `workdir`."""
    # Checks that need no data.
    if jax.process_index() == 0:
        folders.check_writable(workdir, remedy)  # before the images are scored
    mesh = sharding.make_mesh()
    sharding.check_batch_size("config.eval.batch_size", config.eval.batch_size, mesh)
    build.check_options(config)
    if not models:
        check_identity(config, workdir)

    # The split, the model as the checkpoint or the folder has it, and its calibration.
    data = build.build_data(config, for_training=not models)
    sets = build.build_training_sets(config, data, mixed=not models)
    warnings = audit.find_warnings(data, split=config.eval.split)
    warnings += audit.find_mixed_warnings(sets)
    model = build.build_model(config, num_classes=len(data.classes))
    tx, _ = build.build_optimizer(config, steps=1)
    priors = None
    if config.loss.logit_adjustment:
        priors = build.build_priors(config, sets, build.mix_image_weights(config, sets))
    loss_fn = build.build_loss(config, build.build_alpha(config, sets), priors)
    state = trained_state(models[0], mesh) if models else restore(config, workdir, model, tx, mesh)
    calibrations = [one.calibration for one in models]
    if not models:
        calibrations = [find_calibration(config, workdir, data.classes, step=int(state.step))]
    names = [one["name"] for one in described.get("models", [])] or [str(workdir)]
    for name, one in zip(names, calibrations, strict=True):
        if one is not None:
            print(calibration.announce(one, of=name))
            warnings += find_judged_by_itself(config, one)
    warnings += find_tuned_on_these(config)
    for line in warnings:
        print(f"warning: {line}")
    score = build_scorer(
        config,
        data,
        model,
        loss_fn,
        mesh,
        refine=config.crf.enabled,
        resolution=config.eval.resolution,
        detailed=True,
        others=[member_of(other) for other in models[1:]],
        calibration=calibrations[0],
    )

    # The figures.
    result = score(state)
    report = partial(summarize, config, sets, warnings=warnings, resamples=metrics.RESAMPLES)
    if models:
        training = models[0].training or {}
        step = training.get("step") if len(models) == 1 else None
        figures = {**report(result, step=step, skipped=None), **described}
    else:
        figures = report(result, step=int(state.step), skipped=int(state.skipped))
        if own := calibrations[0]:
            figures["calibration"] = own.describe()
    if any(calibrations):
        figures["loss"] = None  # the training's, which is of logits as they are
    if jax.process_index() == 0:
        folder = evaluation_folder(workdir, figures, tag=config.eval.tag)
        with folders.explained(workdir, remedy), files.replaced_folder(folder) as folder:
            # A model's folder has no log, and --workdir may have that of another model.
            log = (folder if models else workdir) / "log.jsonl"
            colors = models[0].palette if models else None
            origin = describe_origin(
                config,
                workdir=None if models else workdir,
                params=state.params,
                derived={} if models else read_derived(workdir),
            )
            write_reports(folder, figures, result, log=log, origin=origin, colors=colors)
            files.write_json(folder / "config.json", config.to_dict())
    return figures


def read_derived(workdir: Path) -> dict[str, Any]:
    """Returns what a run has recorded of its training data."""
    path = workdir / "config.json"
    return json.loads(path.read_text()).get("derived", {}) if path.exists() else {}


def find_calibration(
    config: Config, workdir: Path, classes: tuple[str, ...], *, step: int
) -> Calibration | None:
    """Returns that of the run in `workdir`, unless there is none or `eval.calibration` is off."""
    if not config.eval.calibration:
        return None
    return calibration.of_run(workdir, classes=classes, step=step)


def find_judged_by_itself(config: Config, fitted: Calibration) -> list[str]:
    """Returns a warning where images that a calibration was fitted on are about to be scored."""
    if (fitted.dataset, fitted.split) != (config.data.name, config.eval.split):
        return []
    return [
        f"{fitted.num_images} of these images, of {fitted.dataset}/{fitted.split} the "
        f"{fitted.images} ones, are those that the calibration was fitted on; what it does to "
        "others is in calibration.json"
    ]


def find_tuned_on_these(config: Config) -> list[str]:
    """Returns a warning where the CRF was tuned on the images that it is about to be scored on."""
    scored = f"{config.data.name}/{config.eval.split}"
    if not config.crf.enabled or config.crf.tuned_on != scored:
        return []
    return [
        f"the CRF was tuned on these images, {scored}; what it does to others is in the "
        "tuning.json beside its config"
    ]


def trained_state(model: "Model", mesh: Mesh) -> steps.TrainState:
    """Returns a state that can be scored and not trained, on every device."""
    variables = jax.device_put(model.variables, sharding.replicated(mesh))
    return steps.TrainState(0, 0, **variables, opt_state=(), ema={})


def evaluation_folder(workdir: Path, figures: dict[str, Any], *, tag: str) -> Path:
    """Returns where an evaluation's files are: `evaluations/SPLIT-STEP[-TAG]`.

    Of models, which have one step each, it is `evaluations/SPLIT[-TAG]`.
    """
    step = [] if "models" in figures else [str(figures["step"])]
    name = "-".join([figures["split"], *step, *([tag] if tag else [])])
    return workdir / "evaluations" / name


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
    with Checkpoints(folder, keep=config.train.keep_checkpoints, writable=False) as checkpoints:
        like = abstract_state(config, model, tx, mesh)
        while True:
            choices = {"latest": checkpoints.latest_step, "best": checkpoints.best_step}
            choices |= {str(step): step for step in checkpoints.steps}
            step = choose("eval.checkpoint", str(config.eval.checkpoint), choices)
            if step is None:
                raise InputError(f"{folder}: holds no checkpoint; train first")
            try:
                return checkpoints.restore(step, like)
            except Gone as gone:
                print(f"{gone}; taking the {config.eval.checkpoint} of those that are left")


def abstract_state(
    config: Config, model: nn.Module, tx: optax.GradientTransformation, mesh: Mesh
) -> steps.TrainState:
    """Returns the shapes and shardings of the run's state."""
    init = partial(steps.init_state, model=model, tx=tx, ema=config.train.ema_decay > 0)
    return sharding.as_replicated(jax.eval_shape(init, jax.random.key(config.seed)), mesh)


def build_scorer(
    config: Config,
    data: "Prepared",
    model: nn.Module,
    loss_fn: Callable[[Array, Array], Array],
    mesh: Mesh,
    *,
    refine: bool,
    resolution: str,
    detailed: bool = False,
    others: Sequence[Member] = (),
    calibration: Calibration | None = None,
) -> Callable[[steps.TrainState], Evaluation]:
    """Returns a function that scores a state on the split `eval.split`, with the CRF or not.

    It counts the pixels of the photographs ("original") or of the images as they are scaled for
    the network ("scaled"). At the former, probabilities are averaged with those of `others`. The
    state's logits are calibrated if a `calibration` is given; the loss is of these then. `detailed`
    adds what a report shows: confidence, and pictures of images that are scored twice for it.
    """
    score_all = {"original": build_original_scores, "scaled": build_scaled_scores}
    build_scores = choose("eval.resolution", resolution, score_all)
    source = data.source(config.eval.split)
    num_classes = len(data.classes)
    names = [name for name, _ in data.images(config.eval.split)]
    detailed &= jax.process_count() == 1
    if others:
        build_scores = partial(build_scores, others=others)
    scores = build_scores(
        config,
        model,
        loss_fn,
        mesh,
        num_classes=num_classes,
        probs=refine,
        calibration=calibration,
        confidence=detailed,
    )
    total = -(-len(source) // config.eval.batch_size)
    crf = build.build_crf(config.crf, side=config.data.image_size) if refine else None
    refined = partial(refine_batches, num_classes=num_classes, boundary_share=config.eval.boundary)
    finish = partial(
        collect,
        sample_at=np.array(choice.spread(len(source))),
        num_batches=total,
        resolution=resolution,
        names=names,
        num_classes=num_classes,
    )

    def score(state: steps.TrainState) -> Evaluation:
        look = scores(state.eval_variables())
        with contextlib.nullcontext() if crf is None else crf:

            def score_all(some: Any) -> Iterator[Batch]:
                return look(some) if crf is None else refined(look(some), crf)

            result = finish(score_all(source))
            if not detailed:
                return result
            places = choice.choose_images(result.confusion, most=MOST)
            looks = look_again(score_all, source, places, names=names)
            return dataclasses.replace(result, looks=looks)

    return score


def summarize(
    config: Config,
    data: "Prepared | TrainingSets",
    result: Evaluation,
    *,
    step: int | None,
    skipped: int | None,
    resamples: int,
    warnings: list[str],
) -> dict[str, Any]:
    """Returns the figures of an evaluation as metrics.json holds them.

    `loss` is the mean over the images, null if it is not finite; `skipped` updates of the training
    were left out, None if it is not known, as `step`; `warnings` are those of the data. Without
    resamples the interval is left out.
    """
    loss = float(result.loss.mean(dtype=np.float64))
    options = {"common_share": config.eval.common_share, "resamples": resamples}

    def summary(confusion, overlaps) -> dict[str, Any]:
        figures = metrics.summarize(confusion, classes=data.classes, **options)
        near = {} if overlaps is None else boundary.summarize(overlaps, classes=data.classes)
        return {**figures, **near}

    crf: dict[str, Any] = {}
    if result.refined_confusion is not None:
        engine = engines.resolve(config.crf.engine)
        failed = [{"id": i, "reason": reason} for i, reason in result.unrefined.items()]
        figures = summary(result.refined_confusion, result.refined_boundary)
        crf = {"crf": {**figures, "engine": engine, "failed": failed}}
    return {
        "dataset": config.data.name,
        "split": config.eval.split,
        "step": step,
        **describe_scoring(config, result.resolution),
        "skipped_updates": skipped,
        "loss": loss if math.isfinite(loss) else None,
        **summary(result.confusion, result.boundary),
        **crf,
        "skipped": data.problems,
        "data_notes": data.notes,
        "warnings": warnings,
    }


def describe_scoring(config: Config, resolution: str) -> dict[str, Any]:
    """Returns how the images were shown to the network, and at which size its classes counted."""
    own = resolution == "original"
    return {
        "resolution": resolution,
        "image_size": config.data.image_size,
        "scale": config.eval.scale if own else "fit",
        "tile_scale": config.eval.tile_scale if own else 1.0,
        "tta": config.eval.tta if own else "",
        "boundary": config.eval.boundary,
    }


def write_reports(
    folder: Path,
    figures: dict[str, Any],
    result: Evaluation,
    *,
    log: Path,
    origin: Origin,
    colors: UInt8[np.ndarray, "k 3"] | None = None,
) -> None:
    """Writes metrics.json, samples.png and report.html of an evaluation, and what compares runs."""
    files.write_json(folder / "metrics.json", figures)
    classes, names = list(figures["iou"]), result.names
    palette = taxonomy.palette(len(classes)) if colors is None else colors
    sheet.save_samples(folder / "samples.png", result.samples, classes=classes, colors=palette)
    confusions.save_confusions(folder / confusions.FILE, names, classes, result.confusion)
    shown = taxonomy.shown_colors(palette)
    drawn = pictures.encode_all(result.looks, colors=shown)
    pictures.save_pictures(folder / pictures.FILE, drawn)
    details = page.Details(
        names=names,
        per_image=result.confusion,
        confidence=result.confidence,
        pictures=drawn,
        colors=shown,
        history=read_history(log),
        origin=origin,
    )
    page.write_html(folder / "report.html", figures, details)
