"""Weights of PyTorch encoders, as timm and torchvision publish them, for ours."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file

from trashseg_jax.errors import InputError

if TYPE_CHECKING:
    from trashseg_jax.models.encoders import Encoder

Weights = dict[str, np.ndarray]  # by PyTorch's names
LeafPath = tuple[str, ...]  # in Flax's tree: ("params", "layer1_0", "conv1", "kernel")

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# What other models put before an encoder's names.
PREFIX = re.compile(r"^((module|model|backbone|encoder)\.)+")
# What a segmentation model holds besides its encoder, and PyTorch's step counts.
UNUSED = re.compile(r"(decoder|segmentation_head)\.|.*\.num_batches_tracked$")


def load_encoder(source: str, variables: dict[str, Any], *, encoder: "Encoder") -> dict[str, Any]:
    """Returns an encoder's `variables` (params, batch_stats) with the weights that `source` names.

    `source` is a hub id or a .safetensors or .pth file. What no file has, the encoder's fresh
    leaves, stays as it is. Raises InputError, naming the key, for weights that are missing, that
    are left over or whose shape is another.
    """
    named = {PREFIX.sub("", name, count=1): weight for name, weight in read(source).items()}
    head = encoder.published_head + "."
    weights = {
        name: weight
        for name, weight in named.items()
        if not UNUSED.match(name) and not name.startswith(head)
    }
    leaves: dict[LeafPath, Any] = dict(traverse_util.flatten_dict(variables))
    used = set()
    for path, leaf in leaves.items():
        name = published_name(path, encoder)
        used.add(name)
        if not encoder.is_fresh(path, leaf.shape):
            leaves[path] = convert(source, weights, name, leaf.shape)
    if unknown := sorted(weights.keys() - used):
        raise InputError(
            f"{source}: {unknown[0]} is no weight of this encoder ({len(unknown)} such keys); "
            "set model.encoder to the one that the file is for"
        )
    return traverse_util.unflatten_dict(leaves)


def published_name(path: LeafPath, encoder: "Encoder") -> str:
    """Returns what published files call a leaf, PyTorch's name of its kind at the end."""
    module, _, leaf = encoder.published_name(path).rpartition(".")
    return f"{module}.{LEAVES[leaf]}"


def convert(source: str, weights: Weights, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns one weight in Flax's layout: kernels as h w in out."""
    if name not in weights:
        raise InputError(
            f"{source}: {name} is missing; set model.encoder to the one that the file is for"
        )
    weight = np.asarray(weights[name], np.float32)
    if weight.ndim == 4:
        weight = weight.transpose(2, 3, 1, 0)
    if weight.shape != shape:
        raise InputError(
            f"{source}: {name} is {list(weight.shape)} in the file (in Flax's order) and "
            f"{list(shape)} in the encoder; set model.encoder to the one that the file is for and "
            "model.width to its width, 64 for published weights"
        )
    return weight


def read(source: str) -> Weights:
    """Returns the weights that `source` names: a hub id or a .safetensors or .pth file."""
    suffix = Path(source).suffix
    if suffix in (".safetensors", ".pth"):
        path = Path(source).expanduser()
        if not path.is_file():
            raise InputError(f"config.model.pretrained={source!r}: there is no such file")
        return read_safetensors(path) if suffix == ".safetensors" else read_pth(path)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise InputError(
            f"config.model.pretrained={source!r}: must be a hub id such as "
            "timm/resnet34.a1_in1k, or end in .safetensors or .pth"
        )
    return read_safetensors(download(source))


def read_safetensors(path: Path) -> Weights:
    try:
        return load_file(path)
    except (SafetensorError, TypeError) as error:  # TypeError: bfloat16
        raise InputError(
            f"{path}: is no safetensors file of float32 or float16 ({error})"
        ) from error


def read_pth(path: Path) -> Weights:
    """Reads tensors only: PyTorch's other loading runs whatever code the file brings."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            f"{path}: a .pth file needs PyTorch; pip install torch, or pass a .safetensors file"
        ) from error
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, by what the file holds
        raise InputError(
            f"{path}: is no file of weights alone, and nothing else in it is run "
            f"({type(error).__name__}); pass a saved state_dict or a .safetensors file"
        ) from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    named = loaded if isinstance(loaded, dict) else {"": loaded}
    for name, value in named.items():
        if not isinstance(value, torch.Tensor):
            raise InputError(f"{path}: {name!r} is no tensor; save only the model's state_dict")
    return {str(name): value.float().numpy() for name, value in named.items()}


def download(hub_id: str) -> Path:
    """Returns the hub's model.safetensors, from its cache where it lies there."""
    remedy = "download its model.safetensors elsewhere and pass --config.model.pretrained=FILE"
    try:
        import huggingface_hub  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            f"config.model.pretrained={hub_id!r}: a hub id needs huggingface_hub; "
            f"pip install huggingface_hub, or {remedy}"
        ) from error
    huggingface_hub.utils.logging.set_verbosity_error()  # a line for each try otherwise
    try:
        return Path(huggingface_hub.hf_hub_download(hub_id, "model.safetensors"))
    except Exception as error:  # the hub's own, its client's or the system's
        raise InputError(
            f"config.model.pretrained={hub_id!r}: not in the cache and not to be had from the "
            f"hub ({type(error).__name__}); check the id, or {remedy}"
        ) from error
