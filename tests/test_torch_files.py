"""What torch.save writes, written here without PyTorch; test_torch_parity.py has its own files."""

import collections
import contextlib
import io
import os
import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trashseg_jax.errors import InputError
from trashseg_jax.models import torch_files
from trashseg_jax.models.torch_files import LEGACY_VERSION, MAGIC, read_torch

SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2}}


class Global:
    """Pickled as the name of something in a module that is not there."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """Pickled as a call of a Global."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


class Stored:
    """Pickled as a reference to numbers elsewhere."""

    def __init__(self, key, numel, dtype="FloatStorage", kind="storage"):
        self.pid = (kind, Global("torch", dtype), key, "cpu", numel)


class Pickler(pickle._Pickler):
    """Python's own pickler can write names of what does not exist here."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def persistent_id(self, value):
        return value.pid if isinstance(value, Stored) else None

    def save_name(self, value):
        self.write(f"c{value.module}\n{value.name}\n".encode())

    def save_call(self, value):
        self.save(value.function)
        self.save(value.arguments)
        self.write(pickle.REDUCE)

    dispatch[Global] = save_name
    dispatch[Call] = save_call


def dumped(value):
    file = io.BytesIO()
    Pickler(file, 2).dump(value)
    return file.getvalue()


def tensor(stored, offset=0, shape=(2, 3), strides=(3, 1), function="_rebuild_tensor_v2"):
    hooks = Call(Global("collections", "OrderedDict"))
    return Call(Global("torch._utils", function), stored, offset, shape, strides, False, hooks)


DATA = np.arange(8, dtype="<f4")
GOOD = {"a": tensor(Stored("0", 8), 2), "step": 3}


def zipped(path, content, data=DATA, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("weights/data.pkl", dumped(content))
        archive.writestr("weights/data/0", data.tobytes())
    return path


def legacy(path, content, data=DATA, system=SYSTEM):
    parts = [dumped(part) for part in (MAGIC, LEGACY_VERSION, system, content, ["0"])]
    path.write_bytes(b"".join(parts) + struct.pack("<q", len(data)) + data.tobytes())
    return path


@pytest.mark.parametrize("write", [zipped, legacy])
def test_tensors_are_views_of_their_storages(tmp_path, write):
    content = read_torch(write(tmp_path / "w", GOOD))
    assert content["step"] == 3
    np.testing.assert_array_equal(content["a"], np.arange(2, 8).reshape(2, 3))


HOSTILE = {
    "a function of the system": Call(Global("os", "system"), "touch ran"),
    "one by another name": Call(Global("posix", "system"), "touch ran"),
    "eval": Call(Global("builtins", "eval"), "1"),
    "an attribute of what is known": Call(Global("collections", "OrderedDict.fromkeys"), [1]),
    "a dotted storage": Global("torch", "FloatStorage.__class__"),
    "a module's class": Call(Global("torch.nn.modules.linear", "Linear"), 2, 2),
    "a file's opener": Call(Global("io", "open"), "ran", "w"),
    "the loader itself": Call(Global("pickle", "loads"), b"."),
}
MISSHAPEN = {
    "beyond its storage": tensor(Stored("0", 8), 3),
    "far beyond it": tensor(Stored("0", 8), 0, (2, 2), (10**9, 1)),
    "before it": tensor(Stored("0", 8), -1),
    "backwards": tensor(Stored("0", 8), 7, (2, 3), (-3, -1)),
    "larger than it": tensor(Stored("0", 8), 0, (10**6, 10**6), (0, 0)),
    "of another length than the file says": tensor(Stored("0", 9)),
    "of no storage": tensor([1, 2, 3]),
    "of an absent storage": tensor(Stored("7", 8)),
    "of a storage of unknown kind": tensor(Stored("0", 8, kind="module")),
    "of an unknown type": tensor(Stored("0", 8, dtype="ComplexFloatStorage")),
    "a storage without a size": tensor(Stored("0", None)),
}


@pytest.mark.parametrize("write", [zipped, legacy])
@pytest.mark.parametrize("name", HOSTILE | MISSHAPEN)
def test_what_is_not_a_tensor_is_refused_in_one_line_and_nothing_is_called(
    tmp_path, monkeypatch, write, name
):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "w", {"a": (HOSTILE | MISSHAPEN)[name]})
    with pytest.raises(InputError) as error:
        read_torch(path)
    assert str(error.value).startswith(f"{path}: ")
    assert len(str(error.value).splitlines()) == 1
    assert os.listdir(tmp_path) == ["w"]


def test_a_list_that_holds_itself_is_refused(tmp_path):
    content = []
    content.append(content)
    with pytest.raises(InputError, match="recursion"):
        read_torch(zipped(tmp_path / "w", content))


def test_a_file_that_refers_to_one_list_two_to_the_hundredth_times_is_read_at_once(tmp_path):
    content = []
    for _ in range(100):
        content = [content, content]
    assert read_torch(zipped(tmp_path / "w", {"a": content}))


@pytest.mark.parametrize(
    ("write", "fault"),
    [
        (lambda p: zipped(p, GOOD, compression=zipfile.ZIP_DEFLATED), "compressed"),
        (lambda p: legacy(p, GOOD, system={**SYSTEM, "little_endian": False}), "big-endian"),
        (lambda p: zipfile.ZipFile(p, "w").writestr("x", "y"), "without the one data.pkl"),
        (lambda p: p.write_bytes(dumped(GOOD)), "torch.save"),
        (lambda p: p.write_bytes(dumped(7)), "neither of torch.save's formats"),
        (lambda p: p.write_bytes(b""), "not a whole file"),
        (lambda p: p.write_bytes(legacy(p, GOOD).read_bytes()[:-5]), "not a whole file"),
    ],
)
def test_other_files_are_refused_with_what_they_are(tmp_path, write, fault):
    write(tmp_path / "w")
    with pytest.raises(InputError, match=fault):
        read_torch(tmp_path / "w")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_and_never_crashes(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    write = data.draw(st.sampled_from([zipped, legacy]))
    content = bytearray(write(folder / "w", GOOD).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "w").write_bytes(content)
    with contextlib.suppress(InputError):
        read_torch(folder / "w")


def test_standard_pickles_of_python_are_not_torch_files(tmp_path):
    (tmp_path / "w").write_bytes(pickle.dumps(collections.Counter("ab")))
    with pytest.raises(InputError):
        read_torch(tmp_path / "w")


def test_pytorch_is_never_imported(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))  # has no FloatStorage
    assert torch_files.read_torch(zipped(tmp_path / "w", GOOD))["step"] == 3
