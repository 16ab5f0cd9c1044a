"""Scores of images as they are scaled for the network."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import flax.linen as nn
from jax.sharding import Mesh
from jaxtyping import Array

from trashseg_jax import build, steps
from trashseg_jax.ahead import one_behind
from trashseg_jax.devices import sharding
from trashseg_jax.refine.calibration import Calibration
from trashseg_jax.scoring.batches import Batch, along_boundaries, batch_options
from trashseg_jax.settings import Config


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
            return (
                {**batch, **count(batch, sharding.local_rows(batch["prediction"]))}
                for batch in scored
            )

        return look

    return scores


def score_batches(
    eval_step: Callable[..., Any], variables: Any, batches: Iterator[Batch], mesh: Mesh
) -> Iterator[Batch]:
    """Adds the eval step's outputs, still on the device, to each batch."""
    for batch in batches:
        yield {**batch, **eval_step(variables, sharding.shard_batch(batch, mesh))}
