"""Tensors out of PyTorch's files, both of its formats, without PyTorch.

`torch.save` writes pickles, which may name any function to be called. Here they may name those that
make tensors, all of them stand-ins; a pickle that names another is refused before it is called.
"""

import collections
import io
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from trashseg_jax.errors import InputError, show

# The first of the pickles in a file of the format before PyTorch 1.6, and its version.
MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


class UnreadableFile(ValueError):
    """Not a file of tensors; the text begins with a verb."""


class Storage(NamedTuple):
    """The numbers that a tensor, or several, are views of."""

    key: str
    dtype: np.dtype
    numel: int


class Tensor(NamedTuple):
    """A view of a storage, whose numbers a file of the old format holds behind the pickle."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch(path: Path) -> Any:
    """Returns what torch.save wrote into a file, its tensors as arrays.

    Raises InputError for a file that is damaged or holds more than containers, numbers, text and
    tensors; nothing in it is run.
    """
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                return _read_zip(file)
            file.seek(0)
            return _read_legacy(file)
    except UnreadableFile as error:
        raise InputError(
            f"{path}: {error}; save the model's state_dict alone, with torch.save or as "
            "safetensors, and pass that file"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # whatever pickle and zipfile trip over in a damaged file
        why = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: is not a whole file of torch.save ({why}); copy or download it again"
        ) from error


def _read_zip(file: io.BufferedReader) -> Any:
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        packed = [name for name, info in members.items() if info.compress_type]
        if packed:  # torch.save stores; what is packed may unpack to any size
            raise UnreadableFile(f"holds the compressed member {show(packed[0])}")
        pickles = [name for name in members if name.partition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise UnreadableFile("is a zip file without the one data.pkl that torch.save writes")
        root = pickles[0].removesuffix("data.pkl")
        order = members.get(f"{root}byteorder")
        if order and archive.read(order) != b"little":
            raise UnreadableFile("holds big-endian numbers")
        content = _Unpickler(io.BytesIO(archive.read(pickles[0]))).load()
        return _fill(content, lambda storage: archive.read(f"{root}data/{storage.key}"))


def _read_legacy(file: io.BufferedReader) -> Any:
    if _Unpickler(file).load() != MAGIC:
        raise UnreadableFile("is neither of torch.save's formats")
    if _Unpickler(file).load() != LEGACY_VERSION:
        raise UnreadableFile("is of an unknown version of torch.save's old format")
    system = _Unpickler(file).load()
    if not system.get("little_endian"):
        raise UnreadableFile("holds big-endian numbers")
    unpickler = _Unpickler(file)
    content = unpickler.load()
    data = {}
    for key in _Unpickler(file).load():
        storage = unpickler.storages[key]
        count = int.from_bytes(file.read(8), "little")
        if count != storage.numel:
            raise ValueError(f"storage {key} has {count} numbers, not {storage.numel}")
        data[key] = file.read(count * storage.dtype.itemsize)
    return _fill(content, lambda storage: data[storage.key])


class _Unpickler(pickle.Unpickler):
    """Loads containers, numbers, text, and tensors whose numbers are elsewhere."""

    def __init__(self, file: Any):
        super().__init__(file)
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _STAND_INS:
            return _STAND_INS[module, name]
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise UnreadableFile(f"would call {show(f'{module}.{name}')}, which is not done")

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, numel, *view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or any(view):
            raise UnreadableFile("holds a storage of an unknown kind")
        if type(key) is not str or type(numel) is not int or numel < 0:
            raise UnreadableFile("holds a storage without a name or size")
        return self.storages.setdefault(key, Storage(key, dtype, numel))


def _make_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, Storage) or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError("a tensor of no storage, or of a negative size")
    if len(shape) != len(strides) or math.prod(shape) > storage.numel:
        raise ValueError("a tensor that is larger than its storage")
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.numel:
        raise ValueError("a tensor that reaches beyond its storage")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _keep_tensor(tensor: Any, *_: Any) -> Any:
    """Stands in for what wraps a tensor."""
    return tensor


_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _make_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _make_tensor,
    ("torch._utils", "_rebuild_parameter"): _keep_tensor,
}


def _fill(content: Any, read: Callable[[Storage], bytes]) -> Any:
    """Replaces tensors by arrays, which share their storages' memory; containers become new ones.

    Each object is visited once: a hostile file may refer to one any number of times.
    """
    arrays: dict[str, np.ndarray] = {}
    filled: dict[int, Any] = {}

    def fill(value: Any) -> Any:
        if id(value) not in filled:
            filled[id(value)] = replace(value)
        return filled[id(value)]

    def replace(value: Any) -> Any:
        if isinstance(value, Tensor):
            return to_array(value)
        if isinstance(value, dict):
            return {key: fill(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [fill(item) for item in value]
        return value

    def to_array(tensor: Tensor) -> np.ndarray:
        storage = tensor.storage
        if storage.key not in arrays:
            data = read(storage)
            if len(data) != storage.numel * storage.dtype.itemsize:
                raise ValueError(f"storage {storage.key} is not whole")
            arrays[storage.key] = np.frombuffer(data, storage.dtype)
        flat = arrays[storage.key][tensor.offset :]
        strides = [stride * flat.itemsize for stride in tensor.strides]
        # Within the storage: _make_tensor has checked it.
        return np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)

    return fill(content)
