"""A model that can be handed on: a folder of weights, a description and a card.

`model.safetensors` has the weights that are evaluated, under segmentation_models_pytorch's names;
`config.json` all that is needed to build and feed the network. Needs neither TensorFlow nor what a
training keeps.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from safetensors.numpy import save

from trashseg_jax.data.augment import STATISTICS
from trashseg_jax.errors import InputError
from trashseg_jax.model_description import FORMAT, read_description
from trashseg_jax.models import pretrained, smp_names
from trashseg_jax.models.unet import UNTRAINED, UNet, make_unet
from trashseg_jax.refine import calibration
from trashseg_jax.refine.calibration import Calibration

WEIGHTS, DESCRIPTION = "model.safetensors", "config.json"
AS_THEY_ARE = ("image_size", "categories", "figures", "training")
LIBRARIES = ("trashseg_jax", "jax", "flax")


@dataclasses.dataclass(frozen=True)
class Model:
    """A network with its weights, and what its inputs and outputs mean.

    `architecture` has the options of `config.model` that shape the network; `figures` are those of
    metrics.json for these weights, `training` is how they came about, `calibration` makes of the
    network's logits those whose softmax are the probabilities; all three may be None, and so may
    `categories`, the class of each category's name.
    """

    network: UNet
    variables: dict[str, Any]  # params and batch_stats, float32
    architecture: dict[str, Any]
    dtype: str  # of the convolutions
    classes: tuple[str, ...]
    categories: dict[str, str] | None
    palette: UInt8[np.ndarray, "k 3"]
    normalize: str  # of augment.STATISTICS
    image_size: int  # to which the longer side of a photograph is scaled
    figures: dict[str, Any] | None
    training: dict[str, Any] | None
    calibration: Calibration | None

    @property
    def identity(self) -> dict[str, Any]:
        """What gives the arrays their meaning, as `run/identity.py` has it of a run."""
        options = {f"model.{key}": value for key, value in self.architecture.items()}
        named = {} if self.categories is None else {"categories": self.categories}
        identity = {**options, "data.normalize": self.normalize, "classes": self.classes, **named}
        return json.loads(json.dumps(identity))  # which knows no tuples

    def with_dtype(self, dtype: str) -> "Model":
        """Returns the model with convolutions that compute in `dtype`, of unet.DTYPES."""
        network = make_network(self.architecture, num_classes=len(self.classes), dtype=dtype)
        return dataclasses.replace(self, network=network, dtype=dtype)

    def digest(self) -> str:
        """Returns 16 hex digits of all that its outputs depend on."""
        about = [self.classes, self.palette.tolist(), self.normalize, self.image_size]
        about += [self.calibration.to_json()] if self.calibration else []
        sha = hashlib.sha256(json.dumps([*about, repr(self.network)]).encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.variables):
            sha.update(jax.tree_util.keystr(path).encode())
            sha.update(np.ascontiguousarray(leaf).data)
        return sha.hexdigest()[:16]


def make_network(architecture: dict[str, Any], *, num_classes: int, dtype: str) -> UNet:
    return make_unet(num_classes=num_classes, dtype=dtype, **UNTRAINED, **architecture)


def variable_shapes(network: UNet) -> dict[str, Any]:
    """Returns the shapes of the network's params and batch_stats."""
    # The arrays are made where nothing is computed: they would be programs of their own. Any size
    # of the image gives these shapes.
    return jax.eval_shape(
        lambda: dict(network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False))
    )


def write(folder: Path, model: Model) -> None:
    """Writes weights and description into a folder that exists."""
    weights = smp_names.to_state_dict(model.variables, encoder=model.network.encoder)
    # The "format" is the convention by which other readers know PyTorch's layouts.
    # Not by save_file, which lets nobody else read what it writes.
    (folder / WEIGHTS).write_bytes(save(weights, metadata={"format": "pt"}))
    text = json.dumps(describe(model), indent=2, allow_nan=False, ensure_ascii=False)
    (folder / DESCRIPTION).write_text(f"{text}\n", encoding="utf-8")


def describe(model: Model) -> dict[str, Any]:
    """Returns what config.json holds."""
    mean, std = STATISTICS[model.normalize]
    return {
        "format": FORMAT,
        "versions": {name: installed_version(name) for name in LIBRARIES},
        "model": model.architecture,
        "dtype": model.dtype,
        "image_size": model.image_size,
        "normalization": {"name": model.normalize, "mean": mean, "std": std},
        "classes": model.classes,
        "categories": model.categories,
        "palette": model.palette.tolist(),
        "calibration": model.calibration and model.calibration.to_json(),
        "figures": model.figures,
        "training": model.training,
    }


def installed_version(name: str) -> str:
    """Returns a library's version, "unknown" for one that runs from a checkout."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def read(folder: Path, *, calibrated: bool = True) -> Model:
    """Returns the model in a folder, with the calibration that it has if it is to be `calibrated`.

    Raises InputError naming the file and what is wrong: a newer format, something missing, left
    over or of another shape, numbers that are not finite.
    """
    path, weights = folder / DESCRIPTION, folder / WEIGHTS
    described = read_description(path)
    classes, dtype = tuple(described["classes"]), described["dtype"]
    architecture = {key: as_tuple(value) for key, value in described["model"].items()}
    try:
        network = make_network(architecture, num_classes=len(classes), dtype=dtype)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if not weights.is_file():
        raise InputError(f"{weights}: does not exist; copy the model's folder again, whole")
    variables = smp_names.from_state_dict(
        str(weights),
        pretrained.read_safetensors(weights),
        variable_shapes(network),
        encoder=network.encoder,
    )
    stored = described["calibration"]
    fitted = stored and calibration.from_json(stored, path=path, classes=classes)
    return Model(
        network=network,
        variables=variables,
        architecture=architecture,
        dtype=dtype,
        classes=classes,
        palette=np.array(described["palette"], np.uint8),
        normalize=described["normalization"]["name"],
        calibration=fitted if calibrated else None,
        **{key: described[key] for key in AS_THEY_ARE},
    )


def as_tuple(value: Any) -> Any:
    """Returns a list as the tuple that it was: json knows none."""
    return tuple(value) if isinstance(value, list) else value
