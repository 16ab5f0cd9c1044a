"""What predicts: the network of a run or of a model's folder, and what its outputs mean."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from trashseg_jax import inference, model_folder, model_sources, settings
from trashseg_jax.configs import default
from trashseg_jax.configs.ranges import RANGES
from trashseg_jax.data import augment, taxonomy
from trashseg_jax.errors import InputError
from trashseg_jax.model_description import read_json


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
        about = [self.classes, self.palette.tolist(), self.normalize, self.image_size]
        sha = hashlib.sha256(json.dumps([*about, repr(self.network)]).encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.variables):
            sha.update(jax.tree_util.keystr(path).encode())
            sha.update(np.ascontiguousarray(leaf).data)
        return sha.hexdigest()[:16]

    def segmenter(
        self,
        *,
        scale: str,
        tile_scale: float,
        tta: tuple[str, ...],
        batch_size: int,
        keep_probs: bool,
    ) -> inference.Segmenter:
        """Raises InputError for options out of their ranges, or at odds with each other."""
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
        )


def load(folder: Path, *, checkpoint: str) -> Model:
    """Returns the model of a run's folder, of the checkpoint named, or of a model's folder."""
    description = folder / "config.json"
    if not description.is_file():
        raise InputError(
            f"--model={folder}: holds no config.json; name the folder of a run or of a model"
        )
    is_model = "format" in read_json(description)
    return _of_folder(folder) if is_model else _of_run(folder, checkpoint=checkpoint)


def _of_folder(folder: Path) -> Model:
    model = model_folder.read(folder)
    same = ("network", "variables", "classes", "palette", "normalize", "image_size")
    return Model(**{name: getattr(model, name) for name in same})


def _of_run(folder: Path, *, checkpoint: str) -> Model:
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
