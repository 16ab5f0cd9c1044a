"""Calibration: a run's held-out images to calibration.json, and to the figures that judge it."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Float64, Int64, Integer, UInt8
from tqdm import tqdm

from trashseg_jax import alphas, build, evaluate, folders, metrics
from trashseg_jax.data.taxonomy import IGNORE_LABEL
from trashseg_jax.devices import sharding
from trashseg_jax.devices.compiling import compiler_options, on_cpu
from trashseg_jax.errors import InputError
from trashseg_jax.refine import calibration, likelihood, reliability
from trashseg_jax.refine.calibration import IMAGES, METHODS, RAW, Calibration
from trashseg_jax.report import curves, files
from trashseg_jax.run.identity import check_identity
from trashseg_jax.scoring.batches import batch_options
from trashseg_jax.settings import Config

if TYPE_CHECKING:
    from trashseg_jax.data.training_sets import TrainingSets

STRENGTHS = tuple(round(0.1 * i, 1) for i in range(16))  # 0 to 1.5
NOTHING = 1e-6  # of a logit
HALVES = ("even", "odd")
STRENGTH_CURVES, DIAGRAM = "calibration.png", "reliability.png"
RECORD = "config.json"

Confusion = Int64[np.ndarray, "n k k"]


class Pixels(NamedTuple):
    """Pixels of several images, drawn at random, with the network's logits."""

    logits: Float32[np.ndarray, "p k"]
    labels: UInt8[np.ndarray, "p"]
    images: Integer[np.ndarray, "p"]  # the place in the split of the image that each is of

    def of(self, images: Bool[np.ndarray, "n"]) -> "Pixels":
        kept = images[self.images]
        return Pixels(self.logits[kept], self.labels[kept], self.images[kept])


def calibrate(config: Config, workdir: Path) -> dict[str, Any]:
    """Fits a calibration to a checkpoint of the run in `workdir`; returns how it fares.

    It is in calibration.json with these figures; figures and curves are drawn beside it. All
    pixels are those of the images as they are scaled for the network. Raises InputError for a
    split that is reported, where all of its images are asked for.
    """
    # Checks that need no data.
    check_images(config)
    if jax.process_count() > 1:
        raise InputError("--mode=calibrate: works in one process; leave out those of --coordinator")
    remedy = "copy the run to a folder that can be written, and pass that as --workdir"
    folders.check_writable(workdir, remedy)
    mesh = sharding.make_mesh()
    sharding.check_batch_size("config.eval.batch_size", config.eval.batch_size, mesh)
    build.check_options(config)
    check_identity(config, workdir)

    # The images, the weights, and what their training did to the logits.
    data = build.build_data(config)
    source = data.source(config.calibration.split)
    num_images = len(source)
    if num_images < 2:
        raise InputError(
            f"config.calibration.split={config.calibration.split}: has {num_images} image, and "
            "one half judges what is fitted on the other; name another split"
        )
    model = build.build_model(config, num_classes=len(data.classes))
    tx, _ = build.build_optimizer(config, steps=1)
    state = evaluate.restore(config, workdir, model, tx, mesh)
    raw = unfitted(config, data.classes, num_images=num_images, step=int(state.step))
    sets = build.build_training_sets(config, data, mixed=False)
    prior = taken_back(config, read_record(workdir), sets, raw)
    strength = given_strength(config, prior)
    look = partial(scan, config, source, model, state.eval_variables(), mesh)

    # What each half of the images asks for, and what it does to the other half.
    by_strength = [dataclasses.replace(prior, strength=strength) for strength in STRENGTHS]
    pixels, curve = look(by_strength, per_half=config.calibration.pixels)
    fit = partial(fit_all, raw, by_strength, pixels, curve, strength=strength)
    fitted = {
        (name, method): found for name in IMAGES for method, found in fit(images=name).items()
    }
    crossed = [(half, method) for half in HALVES for method in METHODS]
    _, (before, *after) = look([raw, *(fitted[key] for key in crossed)], per_half=0)
    after = dict(zip(crossed, after, strict=True))

    # The figures, and the files.
    chosen = fitted[config.calibration.images, config.calibration.method]
    report = {
        "calibration": chosen.to_json(),
        "strength_given": strength is not None,
        "image_size": config.data.image_size,
        "num_images": num_images,
        "num_pixels": len(pixels.labels),
        "two_fold": judge(raw, fitted, before, after, pixels),
        "curve": describe_curve(curve[:, of_half(chosen.images, num_images)].sum(1), data.classes),
    }
    with folders.explained(workdir, remedy):
        files.write_json(workdir / calibration.FILE, report)
        curves.save_strengths(workdir / STRENGTH_CURVES, report)
        curves.save_reliability(workdir / DIAGRAM, report)
    return report


def check_images(config: Config) -> None:
    """Raises InputError where nothing would be left to report on."""
    options = config.calibration
    if options.images == "all" and options.split == config.eval.split:
        raise InputError(
            f"config.calibration.images='all': {options.split!r} is the split that is reported "
            "(config.eval.split), and figures on images that a calibration was fitted on tell "
            "nothing; keep a half with --config.calibration.images=even, or name another split"
        )


# What is known of the training.


def unfitted(
    config: Config, classes: tuple[str, ...], *, num_images: int, step: int
) -> Calibration:
    """Returns the calibration that changes nothing."""
    zeros = (0.0,) * len(classes)
    return Calibration(
        classes=classes,
        method="temperature",
        gamma=0.0,
        log_weight=zeros,
        strength=0.0,
        temperature=1.0,
        bias=zeros,
        dataset=config.data.name,
        split=config.calibration.split,
        images="all",
        num_images=num_images,
        step=step,
    )


def read_record(workdir: Path) -> dict[str, Any]:
    """Returns the run's own options and what it derived of its data."""
    path = workdir / RECORD
    if not path.is_file():
        raise InputError(f"{path}: does not exist; give the --workdir of a run")
    return json.loads(path.read_text())


def taken_back(
    config: Config, record: Mapping[str, Any], sets: "TrainingSets", raw: Calibration
) -> Calibration:
    """Returns `raw` with the run's own focal loss and effective weights, of strength 0.

    An older run has not recorded what the classes' shares of the pixels were; then they are counted
    in `sets`.
    """
    loss, derived = record["loss"], record.get("derived", {})
    if missing := [key for key in ("alpha", "priors") if key not in derived]:
        raise InputError(
            f"{RECORD} of the run has no derived.{missing[0]}: an older version trained it; train "
            "it for one more step, which records it, and calibrate then"
        )
    counted = dict(zip(raw.classes, build.natural_priors(sets).tolist(), strict=True))
    shares = (derived["alpha"], derived["priors"], derived.get("pixel_share", counted))
    values = [np.array([one[name] for name in raw.classes], np.float64) for one in shares]
    adjustment = loss.get("logit_adjustment", 0.0)
    log_weight = alphas.log_effective_weights(*values, logit_adjustment=adjustment)
    # With both, what the focal loss sees is not what predicts; then that is left as it is.
    undone = config.calibration.undo_focal and loss["name"] == "focal" and not adjustment
    return dataclasses.replace(
        raw,
        method="prior",
        gamma=float(loss["gamma"]) if undone else 0.0,
        log_weight=tuple(log_weight.tolist()),
    )


def given_strength(config: Config, prior: Calibration) -> float | None:
    """Returns `calibration.strength`, None where the best is asked for.

    Raises InputError for a number where there is nothing to take back.
    """
    strength = config.calibration.strength
    if strength == "best":
        return None
    if not has_weights(prior):
        raise InputError(
            f"config.calibration.strength={strength}: changes nothing, as the run's loss and its "
            "sampling treat all classes alike; leave it at best"
        )
    return float(strength)


def has_weights(prior: Calibration) -> bool:
    """Whether a strength changes anything: the training treated classes differently."""
    return bool(np.ptp(prior.log_weight) >= NOTHING)


# The pass over the images.


def scan(
    config: Config,
    source: Any,
    model: nn.Module,
    variables: Any,
    mesh: Any,
    candidates: Sequence[Calibration],
    *,
    per_half: int,
) -> tuple[Pixels, Int64[np.ndarray, "c n k k"]]:
    """Returns about `per_half` pixels of each half of the images, and each candidate's confusion.

    No more than a batch of logits is held, and the pixels that were drawn.
    """
    from trashseg_jax.data import pipeline  # TensorFlow

    size = config.data.image_size
    share = min(2 * per_half / (len(source) * size * size), 1.0)
    step = make_step(model, build.build_normalize(config), candidates)
    rng = np.random.default_rng(config.seed)
    drawn, counts, place = [], [], 0
    batches = pipeline.eval_batches(source, **batch_options(config))
    total = -(-len(source) // config.eval.batch_size)
    for batch in tqdm(batches, "Calibrating", total, leave=False, unit="batch", disable=None):
        valid = int(batch["mask"].sum())
        logits, confusion = step(variables, sharding.shard_batch(batch, mesh))
        counts.append(np.asarray(confusion)[:valid].astype(np.int64))
        if per_half:
            labels = batch["label"][:valid]
            taken = (labels != IGNORE_LABEL) & (rng.random(labels.shape) < share)
            images = place + np.nonzero(taken)[0]
            drawn.append(Pixels(np.asarray(logits)[:valid][taken], labels[taken], images))
        place += valid
    none = Pixels(
        np.zeros((0, len(candidates[0].classes)), np.float32),
        np.zeros(0, np.uint8),
        np.zeros(0, np.int64),
    )
    columns = zip(none, *drawn, strict=True)
    return Pixels(*map(np.concatenate, columns)), np.concatenate(counts).swapaxes(0, 1)


def make_step(
    model: nn.Module, normalize: Callable[[Array], Array], candidates: Sequence[Calibration]
) -> Callable[[Any, Any], tuple[Array, Array]]:
    """Returns jitted `(variables, batch) -> logits [b,h,w,k], confusion i32[b,c,k,k]`."""
    num_classes = len(candidates[0].classes)
    count = partial(metrics.confusion_matrix, num_classes=num_classes, by_pixel=on_cpu())

    def step(variables: Any, batch: Any):
        logits: Any = model.apply(variables, normalize(batch["image"]), train=False)
        classes = (jnp.argmax(one.apply(logits), -1) for one in candidates)
        return logits, jnp.stack([count(batch["label"], found) for found in classes], 1)

    return jax.jit(step, compiler_options=compiler_options())


# What is fitted.


def fit_all(
    raw: Calibration,
    by_strength: Sequence[Calibration],
    pixels: Pixels,
    curve: Int64[np.ndarray, "c n k k"],
    *,
    images: str,
    strength: float | None,
) -> dict[str, Calibration]:
    """Returns by method the calibration that `images`, of calibration.IMAGES, ask for.

    `curve` is the confusion matrix of each of `by_strength` on each image. Unless a strength is
    given it is the one of the best mIoU, the first of several; temperature and bias are those of
    the largest likelihood.
    """
    chosen = of_half(images, curve.shape[1])
    pixels = pixels.of(chosen)
    if not len(pixels.labels):
        raise InputError(
            f"config.calibration.split={raw.split}: its {images} images have no pixel with a "
            "label; name another split"
        )
    prior = by_strength[int(np.argmax(mean_iou(curve[:, chosen].sum(1))))]
    if strength is not None:
        prior = dataclasses.replace(prior, strength=strength)
    fitted = {}
    for method, start in {"temperature": raw, "bias": raw, "prior": prior}.items():
        found = likelihood.fit(
            np.asarray(start.apply(jnp.asarray(pixels.logits))),
            pixels.labels,
            bias=method == "bias",
        )
        fitted[method] = dataclasses.replace(
            start,
            method=method,
            temperature=found.temperature,
            bias=tuple(found.bias.tolist()),
            images=images,
            num_images=int(chosen.sum()),
        )
    return fitted


def of_half(images: str, count: int) -> Bool[np.ndarray, "n"]:
    """Returns which of `count` images, by their places, are of these."""
    places = np.arange(count)
    return {"even": places % 2 == 0, "odd": places % 2 == 1, "all": places >= 0}[images]


def mean_iou(confusion: Int64[np.ndarray, "c k k"]) -> Float64[np.ndarray, "c"]:
    """The mean over the classes that are in the truth.

    The mIoU of metrics.json is also over those that are predicted and not there: a strength that
    stops predicting one would gain by a mean over fewer classes.
    """
    occurs = confusion.sum(-1) > 0
    return np.where(occurs, metrics.iou(confusion), 0.0).sum(-1) / occurs.sum(-1)


# How it fares.


def judge(
    raw: Calibration,
    fitted: Mapping[tuple[str, str], Calibration],
    before: Confusion,
    after: Mapping[tuple[str, str], Confusion],
    pixels: Pixels,
) -> dict[str, Any]:
    """Returns the figures of all images, each calibrated by what was fitted on the other half.

    `fitted`, and `after`, their images' confusion matrices, are by half and method.
    """
    figures = partial(describe, labels=pixels.labels, classes=raw.classes)
    two_fold = {RAW: figures(before, probs_of(raw, pixels))}
    odd_image, odd_pixel = np.arange(len(before)) % 2 == 1, pixels.images % 2 == 1
    for method in METHODS:
        both = [fitted[half, method] for half in HALVES]
        confusion = cross(*(after[half, method] for half in HALVES), odd=odd_image)
        probs = cross(*(probs_of(one, pixels) for one in both), odd=odd_pixel)
        two_fold[method] = {
            **figures(confusion, probs),
            "gain_interval": metrics.difference_interval(
                before, confusion, resamples=metrics.RESAMPLES
            ),
            "strength": [one.strength for one in both],
            "temperature": [one.temperature for one in both],
        }
    return two_fold


def cross(of_even: np.ndarray, of_odd: np.ndarray, *, odd: Bool[np.ndarray, "n"]) -> np.ndarray:
    """Returns for each image or pixel what the half that it is not of was fitted for."""
    return np.where(odd.reshape(-1, *[1] * (of_even.ndim - 1)), of_even, of_odd)


def probs_of(fitted: Calibration, pixels: Pixels) -> Float64[np.ndarray, "p k"]:
    logits = fitted.apply(jnp.asarray(pixels.logits))
    return np.asarray(jax.nn.softmax(logits), np.float64)


def describe(
    per_image: Confusion,
    probs: Float64[np.ndarray, "p k"],
    *,
    labels: UInt8[np.ndarray, "p"],
    classes: Sequence[str],
) -> dict[str, Any]:
    """Returns the scores of all pixels, and how far the probabilities of some can be believed."""
    confusion = per_image.sum(0)
    errors = reliability.class_errors(probs, labels)
    bins = reliability.top_label(probs, labels)
    return {
        "miou": float(mean_iou(confusion[None])[0]),
        "iou": dict(zip(classes, map(metrics.number, metrics.iou(confusion)), strict=True)),
        "pixel_accuracy": metrics.pixel_accuracy(confusion),
        "log_loss": reliability.log_loss(probs, labels),
        "brier": reliability.brier(probs, labels),
        "ece": reliability.error(bins),
        "static_ece": float(errors.mean()),
        "class_ece": dict(zip(classes, errors.tolist(), strict=True)),
        "bins": {name: values.tolist() for name, values in bins._asdict().items()},
    }


def describe_curve(confusion: Int64[np.ndarray, "c k k"], classes: Sequence[str]) -> dict[str, Any]:
    """Returns mIoU and each class's IoU by strength; None for a class that is not in the truth."""
    columns = np.where(confusion.sum(-1) > 0, metrics.iou(confusion), np.nan).T
    return {
        "strength": list(STRENGTHS),
        "miou": mean_iou(confusion).tolist(),
        "iou": {
            name: [metrics.number(value) for value in column]
            for name, column in zip(classes, columns, strict=True)
        },
    }
