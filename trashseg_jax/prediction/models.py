"""What predicts: the network of a run or of a model's folder, and what its outputs mean."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from trashseg_jax import inference, model_folder, settings
from trashseg_jax.configs import default
from trashseg_jax.configs.ranges import RANGES
from trashseg_jax.data import augment, taxonomy
from trashseg_jax.errors import InputError
from trashseg_jax.model_description import holds_model


@dataclasses.dataclass(frozen=True)
class Model:
    """A network with its weights; the longer side of what it sees is `image_size`."""

    network: Any
    variables: dict[str, Any]
    classes: tuple[str, ...]
    palette: UInt8[np.ndarray, "k 3"]
    normalize: str  # of augment.STATISTICS
    image_size: int

    def digest(self) -> str:
        """Returns 16 hex digits of all that its outputs depend on."""
        return model_folder.digest(self)

    def as_member(self) -> inference.Member:
        """Returns what a segmenter takes of it."""
        normalize = augment.make_normalize(self.normalize)
        return inference.Member(self.network, self.variables, normalize, self.image_size)

    def segmenter(
        self,
        *,
        scale: str,
        tile_scale: float,
        tta: tuple[str, ...],
        batch_size: int,
        keep_probs: bool,
        others: Sequence["Model"] = (),
    ) -> inference.Segmenter:
        """Returns what segments with this model, or with the mean of this one and `others`.

        Raises InputError for options out of their ranges, or at odds with each other.
        """
        rule = RANGES["eval.tile_scale"]
        if not rule.holds(tile_scale):
            raise InputError(f"tile_scale={tile_scale}: must be {rule.says}")
        return inference.Segmenter(
            self.network,
            self.variables,
            normalize=augment.make_normalize(self.normalize),
            num_classes=len(self.classes),
            image_size=self.image_size,
            scale=scale,
            tile_scale=tile_scale,
            tta=tta,
            batch_size=batch_size,
            keep_probs=keep_probs,
            others=[other.as_member() for other in others],
        )


def load_all(folders: Sequence[Path], *, checkpoint: str) -> list[Model]:
    """Returns the models of several folders; raises InputError where their classes differ."""
    if len(folders) == 1:
        return [load(folders[0], checkpoint=checkpoint)]
    from trashseg_jax import scored_models  # late: a single model starts without it

    scored_models.check_named_once("model", folders)
    models = [load(folder, checkpoint=checkpoint) for folder in folders]
    classes = {folder: model.classes for folder, model in zip(folders, models, strict=True)}
    scored_models.check_classes(classes)
    return models


def load(folder: Path, *, checkpoint: str) -> Model:
    """Returns the model of a run's folder, of the checkpoint named, or of a model's folder."""
    return _of_folder(folder) if holds_model(folder) else _of_run(folder, checkpoint=checkpoint)


def _of_folder(folder: Path) -> Model:
    model = model_folder.read(folder)
    same = ("network", "variables", "classes", "palette", "normalize", "image_size")
    return Model(**{name: getattr(model, name) for name in same})


def _of_run(folder: Path, *, checkpoint: str) -> Model:
    # Imported late: a model's folder needs nothing that restores a training.
    from trashseg_jax import model_sources

    config: Any = settings.read_config(folder, defaults=default.get_config)
    config.eval.checkpoint = checkpoint
    network, state, identity = model_sources.restore_run(config, folder)
    classes = tuple(identity["classes"])
    return Model(
        network=network,
        variables=jax.tree.map(np.asarray, state.eval_variables()),
        classes=classes,
        palette=taxonomy.palette(len(classes)),
        normalize=identity["data.normalize"],
        image_size=config.data.image_size,
    )
