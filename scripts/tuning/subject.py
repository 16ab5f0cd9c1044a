"""What is tuned: a run or a model's folder, the images, and what may be done to its logits."""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trashseg_jax import build, calibrate, model_sources, scored_models, settings
from trashseg_jax.configs import ranges
from trashseg_jax.configs import run as stored_run
from trashseg_jax.data.augment import make_normalize
from trashseg_jax.data.builder import Prepared
from trashseg_jax.devices import sharding
from trashseg_jax.devices.compiling import compiler_options
from trashseg_jax.errors import InputError
from trashseg_jax.model_description import holds_model
from trashseg_jax.model_folder import Model
from trashseg_jax.refine.calibration import Calibration, calibrated
from trashseg_jax.run.identity import check_identity
from trashseg_jax.scoring.batches import batch_options
from trashseg_jax.settings import Config


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model on a split of a config's data.

    `prior` calibrates a run by its own focal loss and class weights, with the strength that is to
    be found; without it the model's probabilities are what they are, calibrated if it is.
    """

    folder: Path
    config: Config
    model: Model
    data: Prepared
    split: str
    prior: Calibration | None

    @property
    def step(self) -> int | None:
        return (self.model.training or {}).get("step")

    def identity(self) -> dict[str, Any]:
        """Returns what the stored probabilities, images and labels depend on."""
        pixels, _ = self.data.counts(self.split)
        return {
            "model": self.model.digest(),
            "step": self.step,
            "dataset": self.config.data.name,
            "split": self.split,
            "image_size": self.config.data.image_size,
            "num_images": len(pixels),
            "images": _digest(json.dumps(self.data.images(self.split)).encode()),
            "labels": _digest(pixels.tobytes()),
        }

    def log_probs(self) -> Iterator[dict[str, np.ndarray]]:
        """Yields the split's batches with `log_probs` f32[b,s,s,k], without the filling rows."""
        from trashseg_jax.data import pipeline  # TensorFlow

        mesh = sharding.make_mesh()
        variables = jax.device_put(self.model.variables, sharding.replicated(mesh))
        network, normalize = self.model.network, make_normalize(self.model.normalize)

        def see(variables: Any, batch: Any):
            logits: Any = network.apply(variables, normalize(batch["image"]), train=False)
            logits = calibrated(logits, self.model.calibration).astype(jnp.float32)
            return jax.nn.log_softmax(logits)

        see = jax.jit(see, compiler_options=compiler_options())
        source = self.data.source(self.split)
        for batch in pipeline.eval_batches(source, **batch_options(self.config)):
            found = np.asarray(see(variables, sharding.shard_batch(batch, mesh)))
            rows = {key: batch[key] for key in ("image", "label", "size")}
            yield {key: rows[batch["mask"]] for key, rows in {**rows, "log_probs": found}.items()}


def read_subject(
    folder: Path,
    config: Config | None,
    *,
    overridden: Collection[str],
    split: str,
    search_calibration: bool,
) -> Subject:
    """Returns what is to be tuned; without a `config`, a run on its own data."""
    is_model = holds_model(folder)
    if config is not None:
        settings.resolve_config(config, overridden=overridden)
    elif is_model:
        raise InputError(
            f"--model={folder}: is a model's folder, which names no data; pass "
            "--config=NAME:DATASET --config.data.dir=FOLDER"
        )
    else:
        config = stored_run.get_config(str(folder))
    ranges.check(config)
    ranges.expand_paths(config)
    sharding.check_batch_size(
        "config.eval.batch_size", config.eval.batch_size, sharding.make_mesh()
    )
    build.check_options(config)
    search = search_calibration and not is_model
    model = load_model(folder, config, overridden=overridden, as_it_is=search)
    data = build.build_data(config, for_training=not is_model)
    if len(data.source(split)) < 2:
        raise InputError(
            f"--split={split}: has one image, and one half judges what is fitted on the other; "
            "name another split"
        )
    prior = find_prior(folder, config, data, model, split) if search else None
    return Subject(folder, config, model, data, split, prior)


def load_model(
    folder: Path, config: Config, *, overridden: Collection[str], as_it_is: bool
) -> Model:
    """Returns the model; one of a run that is to be taken `as_it_is` has no calibration."""
    if holds_model(folder):
        return scored_models.load([folder], config, overridden=overridden)[folder]
    check_identity(config, folder)
    model = model_sources.trained_model(config, folder)
    return dataclasses.replace(model, calibration=None) if as_it_is else model


def find_prior(
    folder: Path, config: Config, data: Prepared, model: Model, split: str
) -> Calibration:
    """Returns what takes back the run's focal loss, and its weights at the strength to be found."""
    raw = calibrate.unfitted(
        config,
        data.classes,
        num_images=len(data.source(split)),
        step=(model.training or {})["step"],
    )
    sets = build.build_training_sets(config, data, mixed=False)
    prior = calibrate.taken_back(config, calibrate.read_record(folder), sets, raw)
    return dataclasses.replace(prior, split=split)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
