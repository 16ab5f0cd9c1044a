"""The names and layouts of segmentation_models_pytorch's U-Net, for our variables and back."""

from typing import Any

import numpy as np
from flax import traverse_util

from trashseg_jax.errors import InputError
from trashseg_jax.models import efficientnet_lite, resnet
from trashseg_jax.models.encoders import Encoder
from trashseg_jax.models.pretrained import LEAVES, LeafPath, Weights, published_name

UP_BLOCK = {"conv1": "conv1.0", "bn1": "conv1.1", "conv2": "conv2.0", "bn2": "conv2.1"}
HEAD = "segmentation_head.0"
# PyTorch counts the batches that a BatchNorm's averages have seen. Nothing reads the count where
# their momentum is fixed, but its strict loading wants the key.
COUNTER = "num_batches_tracked"
# The encoders that the library has too, and what it calls them; "tu-" are timm's own. Its
# "timm-tf_efficientnet_lite0" is another network, without TensorFlow's padding and epsilon.
SMP_ENCODERS = {
    **{name: name for name in resnet.FAMILY},
    **{name: f"tu-tf_{name}" for name in efficientnet_lite.FAMILY},
}
# What precedes the names of an encoder's weights there: "encoder." but for timm's own.
PREFIXES: dict[type, str] = {efficientnet_lite.EfficientNetLite: "encoder.model."}
# The options of `config.model` whose network the library has.
SMP_OPTIONS = {
    "width": 64,
    "output_stride": 32,
    "stem_pool": "max",
    "layer4": "standard",
    "multi_grid": (1, 1, 1),
}
SMP_DECODER = (256, 128, 64, 32, 16)


def smp_name(path: LeafPath, encoder: Encoder) -> str:
    """Returns the key of a leaf of U-Net's variables in that library's state_dict.

    What the library does not have, an atrous stem, has a name of the same kind.
    """
    kind, part, *rest = path
    if part == "encoder":
        prefix = PREFIXES.get(type(encoder), "encoder.")
        return f"{prefix}{published_name((kind, *rest), encoder)}"
    leaf = LEAVES[rest[-1]]
    if part == "head":
        return f"{HEAD}.{leaf}"
    return f"decoder.blocks.{int(part.removeprefix('up')) - 1}.{UP_BLOCK[rest[0]]}.{leaf}"


def smp_lacks(architecture: dict[str, Any]) -> list[str]:
    """Returns the options, as KEY=VALUE, for which that library has no network."""
    lacks = [
        f"model.{key}={architecture[key]!r}"
        for key, value in SMP_OPTIONS.items()
        if architecture[key] != value
    ]
    encoder = architecture["encoder"]
    return lacks if encoder in SMP_ENCODERS else [f"model.encoder={encoder!r}", *lacks]


def smp_call(architecture: dict[str, Any], *, num_classes: int) -> str:
    """Returns the Python expression that makes the network there, where `smp_lacks` nothing."""
    decoder = architecture["decoder_features"]
    channels = "" if decoder == SMP_DECODER else f"decoder_channels={decoder}, "
    encoder = SMP_ENCODERS[architecture["encoder"]]
    return f'smp.Unet("{encoder}", {channels}classes={num_classes}, encoder_weights=None)'


def own_weights(source: str, weights: Weights) -> Weights:
    """Returns the U-Net's weights among those of a file, without what precedes their names.

    A training's checkpoint has "state_dict.model." before them, for example.
    """
    heads = [name for name in weights if name.endswith(f"{HEAD}.weight")]
    if len(heads) != 1:
        found = f"{len(heads)} of them" if heads else f"none among {len(weights)} keys"
        raise InputError(
            f"{source}: must hold one segmentation_head.0.weight and holds {found}; pass the "
            "state_dict of one smp.Unet"
        )
    prefix = heads[0].removesuffix(f"{HEAD}.weight")
    return {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}


def read_architecture(weights: Weights, *, encoder: str) -> dict[str, Any]:
    """Returns the options of `config.model` for an smp.Unet's weights; the decoder's from them."""
    names = [f"decoder.blocks.{i}.conv2.0.weight" for i in range(len(SMP_DECODER))]
    features = tuple(len(weights[n]) for n in names if n in weights and weights[n].ndim == 4)
    # Of another number of blocks: what is missing is told when the weights are taken.
    features = features if len(features) == len(SMP_DECODER) else SMP_DECODER
    return {"encoder": encoder, **SMP_OPTIONS, "decoder_features": features}


def to_state_dict(variables: dict[str, Any], *, encoder: Encoder) -> Weights:
    """Returns the variables (params, batch_stats) in float32, kernels as out in h w."""
    weights: Weights = {}
    for path, leaf in traverse_util.flatten_dict(variables).items():
        name, weight = smp_name(path, encoder), np.asarray(leaf, np.float32)
        if weight.ndim == 4:
            weight = weight.transpose(3, 2, 0, 1)
        weights[name] = np.ascontiguousarray(weight)
        if path[-1] == "var":
            weights[f"{name.rpartition('.')[0]}.{COUNTER}"] = np.zeros((), np.int64)
    return dict(sorted(weights.items()))


def from_state_dict(
    source: str, weights: Weights, shapes: dict[str, Any], *, encoder: Encoder
) -> dict[str, Any]:
    """Returns variables of these `shapes`; `source` is named in errors.

    Raises InputError for a key that is missing or left over, for another shape, and for numbers
    that are not finite.
    """
    leaves: dict[LeafPath, Any] = dict(traverse_util.flatten_dict(shapes))
    names = {path: smp_name(path, encoder) for path in leaves}
    left_over = sorted(k for k in weights.keys() - names.values() if not k.endswith(COUNTER))
    missing = sorted(set(names.values()) - weights.keys())
    if left_over or missing:
        what = f"{missing[0]} is missing" if missing else f"{left_over[0]} is not part of it"
        raise InputError(
            f"{source}: does not hold the weights of this U-Net: {what} ({len(missing)} keys are "
            f"missing, {len(left_over)} left over); the weights must be those of the encoder and "
            "options named"
        )
    for path, leaf in leaves.items():
        leaves[path] = _to_flax(source, names[path], weights[names[path]], leaf.shape)
    return traverse_util.unflatten_dict(leaves)


def _to_flax(source: str, name: str, weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if not np.issubdtype(weight.dtype, np.floating):
        raise InputError(f"{source}: {name} is of type {weight.dtype}, not floating-point")
    found = np.asarray(weight, np.float32)
    if found.ndim == 4:
        found = found.transpose(2, 3, 1, 0)
    if found.shape != shape:
        raise InputError(
            f"{source}: {name} is {list(found.shape)} (in Flax's order), and {list(shape)} in this "
            "U-Net; the weights must be those of the encoder and options named"
        )
    if not np.isfinite(found).all():
        raise InputError(f"{source}: {name} holds numbers that are not finite; use a sound file")
    return np.ascontiguousarray(found)
