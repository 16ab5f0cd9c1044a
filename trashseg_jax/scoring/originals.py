"""Scores of photographs at their own size: of what prediction would write."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Integer, UInt8

from trashseg_jax import boundary, build, metrics
from trashseg_jax.ahead import one_behind
from trashseg_jax.data import scaling
from trashseg_jax.data.label_codec import decode_label
from trashseg_jax.data.originals import original_batches
from trashseg_jax.data.taxonomy import IGNORE_LABEL
from trashseg_jax.inference import Fitted, Member, Segmenter
from trashseg_jax.refine.calibration import Calibration
from trashseg_jax.scoring.batches import Batch, batch_options
from trashseg_jax.settings import Config

LINES = 64  # of a photograph, counted at a time


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
