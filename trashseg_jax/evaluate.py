"""Evaluation: a split to per-image confusion matrices, and to the files that report it."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float32, Int64, Integer, UInt8
from tqdm import tqdm

from trashseg_jax import boundary, build, folders, metrics, steps
from trashseg_jax.ahead import one_behind
from trashseg_jax.data import audit, scaling, taxonomy
from trashseg_jax.data.label_codec import decode_label
from trashseg_jax.data.originals import original_batches
from trashseg_jax.data.taxonomy import IGNORE_LABEL
from trashseg_jax.devices import sharding
from trashseg_jax.errors import InputError
from trashseg_jax.inference import Fitted, Member, Segmenter, member_of
from trashseg_jax.provenance import describe_origin
from trashseg_jax.refine import calibration, engines, pool, reliability
from trashseg_jax.refine.calibration import Calibration
from trashseg_jax.report import choice, confusions, files, page, pictures, sheet
from trashseg_jax.report.history import read_history
from trashseg_jax.report.origin import Origin
from trashseg_jax.run.checkpoint import Checkpoints, Gone
from trashseg_jax.run.identity import check_identity
from trashseg_jax.second_look import MOST, look_again
from trashseg_jax.settings import Config, choose

if TYPE_CHECKING:
    from trashseg_jax.data.builder import Prepared
    from trashseg_jax.data.training_sets import TrainingSets
    from trashseg_jax.model_folder import Model

Batch = dict[str, Any]

REASON_BYTES = 120
LINES = 64  # of a photograph, counted at a time


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One pass over a split: every image once, in the split's order."""

    ids: Integer[np.ndarray, "n"]
    loss: Float32[np.ndarray, "n"]
    confusion: Integer[np.ndarray, "n k k"]
    boundary: Integer[np.ndarray, "n k 2"] | None  # boundary.count_overlaps, if asked for
    refined_confusion: Integer[np.ndarray, "n k k"] | None  # after the CRF, where it ran
    refined_boundary: Integer[np.ndarray, "n k 2"] | None
    unrefined: dict[int, str]  # why the CRF failed, by id; these count as predicted
    samples: list[sheet.Sample]
    resolution: str  # of the pixels that were counted: original or scaled
    names: list[str]  # of the images' files
    # What a report shows besides, where it is asked for; not with several processes.
    confidence: Int64[np.ndarray, "k 256 2"] | None = None  # reliability.count_confidence
    looks: list[pictures.Look] = dataclasses.field(default_factory=list)


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


def batch_options(config: Config) -> dict[str, int]:
    return {
        "batch_size": config.eval.batch_size,
        "image_size": config.data.image_size,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }


def build_scaled_scores(
    config: Config,
    model: nn.Module,
    loss_fn: Callable[[Array, Array], Array],
    mesh: Mesh,
    *,
    num_classes: int,
    probs: bool,
    calibration: Calibration | None,
    confidence: bool,
) -> Callable[[Any], Callable[[Any], Iterator[Batch]]]:
    """Returns `variables -> source -> batches` with the eval step's outputs."""
    from trashseg_jax.data import pipeline  # TensorFlow

    normalize = build.build_normalize(config)
    eval_step = steps.make_eval_step(
        model,
        loss_fn,
        normalize=normalize,
        num_classes=num_classes,
        probs=probs,
        calibration=calibration,
        confidence=confidence,
    )
    share = config.eval.boundary

    def scores(variables: Any) -> Callable[[Any], Iterator[Batch]]:
        def look(source: Any) -> Iterator[Batch]:
            batches = pipeline.eval_batches(source, **batch_options(config))
            scored = score_batches(eval_step, variables, batches, mesh)
            # The CRF waits for each batch anyway, and another one's probabilities take memory.
            if (share or confidence) and not probs:  # they are counted on the host
                scored = one_behind(scored)
            if not share:
                return scored
            count = partial(along_boundaries, num_classes=num_classes, share=share)
            return ({**batch, **count(batch, predicted_rows(batch))} for batch in scored)

        return look

    return scores


def score_batches(
    eval_step: Callable[..., Any], variables: Any, batches: Iterator[Batch], mesh: Mesh
) -> Iterator[Batch]:
    """Adds the eval step's outputs, still on the device, to each batch."""
    for batch in batches:
        yield {**batch, **eval_step(variables, sharding.shard_batch(batch, mesh))}


def along_boundaries(
    batch: Batch, predictions: UInt8[np.ndarray, "b h w"], *, num_classes: int, share: float
) -> dict[str, Integer[np.ndarray, "b k 2"]]:
    """Counts `boundary` in the scaled images without their padding; nothing where `share` is 0."""
    if not share:
        return {}
    counts = np.zeros((len(batch["id"]), num_classes, 2), np.int64)
    for row in np.flatnonzero(batch["mask"]):
        height, width = batch["size"][row]
        both = (one[row, :height, :width] for one in (batch["label"], predictions))
        counts[row] = boundary.count_overlaps(*both, num_classes=num_classes, share=share)
    return {"boundary": counts}


def build_original_scores(
    config: Config,
    model: nn.Module,
    loss_fn: Callable[[Array, Array], Array],
    mesh: Mesh,
    *,
    num_classes: int,
    probs: bool,
    calibration: Calibration | None,
    confidence: bool,
    others: Sequence[Member] = (),
) -> Callable[[Any], Callable[[Any], Iterator[Batch]]]:
    """Returns `variables -> source -> batches` with the same outputs, of what is predicted.

    The loss is that of the scaled images, and so are the CRF's `probs`.
    """
    del mesh  # the segmenter uses the devices that the variables lie on
    del confidence  # which there is at no cost
    loss_step = jax.jit(loss_fn)
    counting = {"num_classes": num_classes, "boundary_share": config.eval.boundary}

    def scores(variables: Any) -> Callable[[Any], Iterator[Batch]]:
        segmenter = Segmenter(
            model,
            variables,
            normalize=build.build_normalize(config),
            num_classes=num_classes,
            image_size=config.data.image_size,
            scale=config.eval.scale,
            tile_scale=config.eval.tile_scale,
            tta=tta_names(config),
            batch_size=config.eval.batch_size // jax.process_count(),
            others=others,
            calibration=calibration,
        )
        see = partial(see_photo, segmenter)

        def look(source: Any) -> Iterator[Batch]:
            batches = original_batches(source, see=see, **batch_options(config))
            return segment_batches(segmenter, loss_step, batches, probs=probs, **counting)

        return look

    return scores


def tta_names(config: Config) -> tuple[str, ...]:
    return tuple(config.eval.tta.split(",")) if config.eval.tta else ()


class Seen(NamedTuple):
    """A photograph, where windows of it are seen, and how it is scaled for the views.

    With windows it is scaled for the plain views alone.
    """

    image: UInt8[np.ndarray, "h w 3"] | None
    fitted: Fitted


def see_photo(segmenter: Segmenter, image: UInt8[np.ndarray, "h w 3"]) -> tuple[Any, Any, Seen]:
    """Returns a photograph in the square, its size there, and what the segmenter needs of it."""
    fitted = segmenter.fit(image, plain=segmenter.tiles)
    seen = Seen(image if segmenter.tiles else None, fitted)
    return fitted.images[0], fitted.valid[0], seen


def segment_batches(
    segmenter: Segmenter,
    loss_step: Callable[[Array, Array], Array],
    batches: Iterator[Batch],
    *,
    num_classes: int,
    boundary_share: float,
    probs: bool,
) -> Iterator[Batch]:
    """Adds what is seen in the photographs to each batch.

    A batch comes out when the device has been given the next one, so that it never waits.
    """
    given = give_batches(segmenter, loss_step, batches, probs=probs)
    for batch, logits in one_behind(given):
        yield with_classes(
            segmenter, batch, logits, num_classes=num_classes, boundary_share=boundary_share
        )


def give_batches(
    segmenter: Segmenter,
    loss_step: Callable[[Array, Array], Array],
    batches: Iterator[Batch],
    *,
    probs: bool,
) -> Iterator[tuple[Batch, list[Array]]]:
    """Yields each batch, with its `loss` and `probs` if asked for, and the logits of its views."""
    plain = segmenter.tiles
    for batch in batches:
        if fitted := [seen.fitted for seen in batch["seen"]]:
            logits = segmenter.view_logits(fitted, plain=plain)
            scaled = segmenter.plain_logits(fitted, logits, plain=plain)
        else:  # a process whose rows only fill up the last batch
            logits = [scaled := segmenter.logits(batch["image"])]
        batch["loss"] = loss_step(scaled, segmenter.put(batch["label"], fill=IGNORE_LABEL))
        if probs:
            batch["probs"] = jax.nn.softmax(scaled)
        yield batch, logits


def with_classes(
    segmenter: Segmenter,
    batch: Batch,
    logits: list[Array],
    *,
    num_classes: int,
    boundary_share: float,
) -> Batch:
    """Adds `classes`, a list at the photographs' size, their counts and the scaled `prediction`.

    The scaled `confidence` is the probability of the prediction in 255ths.
    """
    seen, rows = batch.pop("seen"), len(batch["id"])
    if segmenter.tiles:
        segmented = (segmenter.segment_tiles(one.image) for one in seen)
    else:
        segmented = segmenter.segment_fitted([one.fitted for one in seen], logits)
    classes = []
    prediction, confidence = np.zeros_like(batch["label"]), np.zeros_like(batch["label"])
    for row, one in enumerate(segmented):
        height, width = batch["size"][row].tolist()
        classes.append(one.classes)
        prediction[row, :height, :width] = scaling.scale_label(one.classes, (height, width))
        sure = scaling.nearest(one.confidence, (height, width)).astype(np.float32)
        confidence[row, :height, :width] = np.rint(255 * sure)
    loss = np.asarray(batch["loss"])[:rows]
    counts = count_originals(batch, classes, num_classes=num_classes, boundary_share=boundary_share)
    outputs = {"classes": classes, "prediction": prediction, "confidence": confidence}
    return {**batch, **outputs, "loss": loss, **counts}


def count_originals(
    batch: Batch,
    classes: list[UInt8[np.ndarray, "_ _"]],
    *,
    num_classes: int,
    boundary_share: float,
) -> dict[str, Integer[np.ndarray, "b k _"]]:
    """Counts classes against the labels, at the photographs' size; filling rows count nowhere.

    Returns `confusion` [b,k,k] and, unless `boundary_share` is 0, `boundary` [b,k,2].
    """
    confusion = np.zeros((len(batch["id"]), num_classes, num_classes), np.int64)
    near = np.zeros((len(batch["id"]), num_classes, 2), np.int64)
    for row, (encoded, found) in enumerate(zip(batch["encoded"], classes, strict=True)):
        label = decode_label(encoded)
        for top in range(0, len(label), LINES):  # which stay in the processor's cache
            lines = label[None, top : top + LINES], found[None, top : top + LINES]
            confusion[row] += metrics.count_confusion(*lines, num_classes=num_classes)[0]
        if boundary_share:
            near[row] = boundary.count_overlaps(
                label, found, num_classes=num_classes, share=boundary_share
            )
    return {"confusion": confusion, **({"boundary": near} if boundary_share else {})}


def refine_batches(
    scored: Iterator[Batch], crf: engines.Engine, *, num_classes: int, boundary_share: float
) -> Iterator[Batch]:
    """Replaces `probs` by `refined` u8[b,h,w], its counts and `unrefined`.

    The counts are `refined_confusion` i64[b,k,k] and, unless `boundary_share` is 0,
    `refined_boundary` i64[b,k,2]. `unrefined` is u8[b,REASON_BYTES]: in ASCII why a row is the raw
    prediction, 0 where it is not. Each batch comes out after the next one went in: the CRF never
    waits for the model.
    """
    submitted = (
        (batch, submit_rows(crf, batch, sharding.local_rows(batch.pop("probs"))))
        for batch in scored
    )
    for batch, futures in one_behind(submitted):
        yield with_refined(batch, futures, num_classes=num_classes, boundary_share=boundary_share)


def submit_rows(
    crf: engines.Engine, batch: Batch, probs: Float32[np.ndarray, "b h w k"]
) -> list[engines.Answer]:
    """Hands the valid rows to the CRF without their padding, which would pull at the edge."""
    futures = []
    for row in np.flatnonzero(batch["mask"]):
        height, width = batch["size"][row]
        futures.append(
            crf.submit(probs[row, :height, :width], batch["image"][row, :height, :width])
        )
    return futures


def with_refined(
    batch: Batch, futures: list[engines.Answer], *, num_classes: int, boundary_share: float
) -> Batch:
    """Waits for a batch's refined rows; what they do not cover is 0, and ignored in the label.

    Counted at the photographs' size, where the batch has them, they are enlarged to the nearest
    pixel.
    """
    refined = np.zeros_like(batch["label"])
    reasons = [""] * len(refined)
    for row, future in zip(np.flatnonzero(batch["mask"]), futures, strict=True):
        height, width = batch["size"][row]
        try:
            classes = future.result()
        except pool.CrfError as error:
            classes = predicted_rows(batch)[row, :height, :width]
            reasons[row] = str(error)
        refined[row, :height, :width] = classes
    if "encoded" in batch:
        enlarged = enlarge_refined(batch, refined, reasons)
        counts = count_originals(
            batch, enlarged, num_classes=num_classes, boundary_share=boundary_share
        )
    else:
        confusion = metrics.count_confusion(batch["label"], refined, num_classes=num_classes)
        near = along_boundaries(batch, refined, num_classes=num_classes, share=boundary_share)
        counts = {"confusion": confusion, **near}
    counts = {f"refined_{key}": rows for key, rows in counts.items()}
    # As numbers: only these travel between processes.
    unrefined = np.array(reasons, f"S{REASON_BYTES}").view(np.uint8).reshape(-1, REASON_BYTES)
    return {**batch, "refined": refined, **counts, "unrefined": unrefined}


def predicted_rows(batch: Batch) -> UInt8[np.ndarray, "b h w"]:
    prediction = batch["prediction"]
    return prediction if isinstance(prediction, np.ndarray) else sharding.local_rows(prediction)


def enlarge_refined(
    batch: Batch, refined: UInt8[np.ndarray, "b h w"], reasons: list[str]
) -> list[UInt8[np.ndarray, "_ _"]]:
    """Returns refined rows at the photographs' size; one that failed as it was predicted."""
    enlarged = []
    for row, classes in enumerate(batch["classes"]):
        height, width = batch["size"][row].tolist()
        inner = refined[row, :height, :width]
        enlarged.append(classes if reasons[row] else scaling.scale_label(inner, classes.shape))
    return enlarged


def collect(
    scored: Iterator[Batch],
    *,
    sample_at: Integer[np.ndarray, "s"],
    num_batches: int,
    resolution: str,
    names: list[str],
    num_classes: int,
) -> Evaluation:
    """Returns ids and counts of all valid rows, and samples at the places named.

    With several processes samples and confidence are left out.
    """
    wanted = {"id", "mask", "loss", "confusion", "boundary"}
    wanted |= {"refined_confusion", "refined_boundary", "unrefined"}
    kept: dict[str, list] = {}
    samples, place, confidence = [], 0, None
    for batch in tqdm(scored, "Evaluating", num_batches, leave=False, unit="batch", disable=None):
        for key in batch.keys() & wanted:
            kept.setdefault(key, []).append(batch[key])  # fetched at the end: no waiting here
        rows = np.flatnonzero(np.isin(place + np.arange(len(batch["id"])), sample_at))
        if rows.size and jax.process_count() == 1:
            samples += take_samples(batch, rows)
        place += len(batch["id"])
        if "confidence" in batch and jax.process_count() == 1:
            counts = count_confidence(batch, num_classes=num_classes)
            confidence = counts if confidence is None else confidence + counts
    result = gather(kept, samples, resolution=resolution, names=names)
    return dataclasses.replace(result, confidence=confidence)


def count_confidence(batch: Batch, *, num_classes: int) -> Int64[np.ndarray, "k 256 2"]:
    """Counts the scaled images' valid pixels; `reliability.count_confidence` says how."""
    label, prediction = batch["label"], predicted_rows(batch)
    valid = label < num_classes
    confidence = np.asarray(batch["confidence"])[valid]
    right = (label == prediction)[valid]
    return reliability.count_confidence(
        prediction[valid], confidence, right, num_classes=num_classes
    )


def take_samples(batch: Batch, rows: Integer[np.ndarray, "r"]) -> list[sheet.Sample]:
    predictions = np.asarray(batch["prediction"][rows])
    refined = batch["refined"][rows] if "refined" in batch else [None] * len(rows)
    pictures = zip(batch["image"][rows], batch["label"][rows], predictions, refined, strict=True)
    return [sheet.Sample(*four) for four in pictures]


def gather(
    kept: dict[str, list],
    samples: list[sheet.Sample],
    *,
    resolution: str,
    names: list[str],
) -> Evaluation:
    """Joins the batches of all processes and drops the rows that only fill up the last one."""
    joined = {
        key: np.concatenate([sharding.to_host(value) for value in kept[key]])
        for key in sorted(kept)  # the processes must agree on the order
    }
    valid = {key: value[joined["mask"]] for key, value in joined.items()}
    ids = valid["id"]
    texts = valid.get("unrefined", np.zeros((len(ids), 0), np.uint8))
    reasons = [bytes(text).rstrip(b"\0").decode() for text in texts]
    unrefined = {int(i): reason for i, reason in zip(ids, reasons, strict=True) if reason}
    return Evaluation(
        ids=ids,
        loss=valid["loss"],
        confusion=valid["confusion"],
        boundary=valid.get("boundary"),
        refined_confusion=valid.get("refined_confusion"),
        refined_boundary=valid.get("refined_boundary"),
        unrefined=unrefined,
        samples=samples,
        resolution=resolution,
        names=names,
    )


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
