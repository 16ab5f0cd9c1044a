"""A model's folder: what is written is what is read, and what is wrong in it is one line."""

import dataclasses
import json
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures_models import FIGURES, assert_same, make_model
from safetensors.numpy import load_file, save_file

from trashseg_jax import build, model_folder
from trashseg_jax.configs import default
from trashseg_jax.data.taxonomy import CLASSES
from trashseg_jax.errors import InputError
from trashseg_jax.model_description import MODEL_RULES, is_model_folder
from trashseg_jax.run.identity import identify


@pytest.fixture
def folder(tmp_path):
    model_folder.write(tmp_path, make_model(figures=FIGURES))
    return tmp_path


def change(folder, key, value):
    """Sets a key of config.json; None takes it out."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    *outer, last = key.split("/")
    place = content
    for part in outer:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    path.write_text(json.dumps(content))


def test_what_is_written_is_what_is_read(folder):
    written, read = make_model(figures=FIGURES), model_folder.read(folder)
    assert_same(read.variables, written.variables)
    assert read.network == written.network
    np.testing.assert_array_equal(read.palette, written.palette)
    for key in ("architecture", "dtype", "classes", "categories", "normalize", "image_size"):
        assert getattr(read, key) == getattr(written, key)
    assert read.figures == FIGURES
    assert is_model_folder(folder)


def test_the_same_model_gives_the_same_bytes(folder, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    model_folder.write(again, model_folder.read(folder))
    for name in ("model.safetensors", "config.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_versions_are_kept_and_a_checkout_has_none():
    assert model_folder.describe(make_model())["versions"]["jax"] == jax.__version__
    assert model_folder.installed_version("no-such-library") == "unknown"


def test_whoever_may_read_the_card_may_read_the_weights(folder):
    modes = {(folder / name).stat().st_mode for name in ("model.safetensors", "config.json")}
    assert len(modes) == 1


def test_a_model_s_identity_is_that_of_its_run(tiny_config):
    config = tiny_config()
    identity = identify(config)
    model = make_model(multi_grid=config.model.multi_grid)
    model = dataclasses.replace(model, categories=identity["categories"])
    assert model.identity == identity


def test_every_option_that_shapes_the_network_is_described():
    shaping = {key for key in default.get_config().model if key not in build.BEGINNING}
    assert {f"model.{key}" for key in shaping - {"dtype"}} == MODEL_RULES.keys()


def test_another_dtype_computes_with_the_same_weights(folder):
    model = model_folder.read(folder)
    half = model.with_dtype("bfloat16")
    image = jnp.asarray(np.random.default_rng(0).normal(size=(1, 32, 32, 3)), jnp.float32)
    exact, rounded = (m.network.apply(m.variables, image, train=False) for m in (model, half))
    error = np.abs(np.asarray(exact) - np.asarray(rounded)).max()
    assert 0 < error < 0.1 * np.abs(np.asarray(exact)).max()


def test_a_folder_is_read_without_tensorflow_and_what_a_training_keeps(folder):
    # The tests' own encoder is not known in another process.
    model_folder.write(folder, make_model(encoder="resnet18", multi_grid=(1, 1)))
    code = (
        "import sys\n"
        "for name in ('tensorflow', 'tensorflow_datasets', 'orbax', 'optax', 'pycocotools'):\n"
        "    sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from trashseg_jax import model_folder\n"
        "print(model_folder.read(Path(sys.argv[1])).classes)\n"
    )
    command = [sys.executable, "-c", code, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.stdout.strip() == str(CLASSES), result.stderr


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("format", 2, "is of format 2, and this version reads 1; update trashseg_jax"),
        ("format", None, 'has no "format", so this is not a model'),
        ("format", "1", "'format' is '1'; it must be 1"),
        ("format", 0, "'format' is 0; it must be 1"),
        ("classes", None, "'classes' is missing"),
        ("classes", ["Background", "Background"], "'classes' is .*2 to 255 different names"),
        ("classes", "Background", "'classes' is 'Background'; it must be a list"),
        ("palette", [[0, 0, 0]], "has 11 classes and 1 colours"),
        ("palette", [[0, 0, 256]] * 11, "'palette' is .* from 0 to 255"),
        ("image_size", 0, "'image_size' is 0; it must be a positive"),
        ("image_size", True, "'image_size' is True; it must be a positive"),
        ("dtype", "float16", "'dtype' is 'float16'; it must be one of float32, bfloat16"),
        ("dtype", [], "'dtype' is"),
        ("normalization/name", "sepia", "'normalization' is .*imagenet, inception, unit"),
        ("normalization/mean", [0, 0, 0], "normalization 'imagenet' has the mean"),
        ("model/width", -4, "'model.width' is -4"),
        ("model/attention", True, "'model.attention' is unknown to this version; update"),
        ("attention", True, "'attention' is unknown to this version; update"),
        ("model/multi_grid", None, "'model.multi_grid' is missing"),
        ("model/multi_grid", [1.5], "'model.multi_grid' is"),
        ("model/decoder_features", [8, 8, 8, 8], "it must be a list of five positive"),
        ("model/encoder", "resnet35", "config.model.encoder='resnet35': must be one of"),
        ("model/output_stride", 5, "model.output_stride=5: must be one of"),
        ("model", 3, "'model' is 3; it must be an object"),
        ("categories", {"a": 1}, "'categories' is"),
        ("figures", 3, "'figures' is 3; it must be an object or null"),
    ],
)
def test_a_description_that_is_wrong_is_one_line(folder, key, value, line):
    change(folder, key, value)
    with pytest.raises(InputError, match=line) as raised:
        model_folder.read(folder)
    assert str(raised.value).startswith(f"{folder / 'config.json'}: ")
    assert len(str(raised.value).splitlines()) == 1


HEAD = "segmentation_head.0.bias"


@pytest.mark.parametrize(
    ("alter", "line"),
    [
        (lambda w: w.pop(HEAD), f"{HEAD} is missing .1 keys are missing, 0 left over"),
        (lambda w: w.update(more=w[HEAD]), "more is not part of it"),
        (lambda w: w.update({HEAD: w[HEAD][:3]}), rf"{HEAD} is \[3\] .* \[11\] in this U-Net"),
        (lambda w: w.update({HEAD: w[HEAD] * np.float32("nan")}), f"{HEAD} holds numbers that"),
        (lambda w: w.update({HEAD: w[HEAD].astype(int)}), f"{HEAD} is of type int64"),
    ],
)
def test_weights_that_do_not_fit_are_one_line_with_the_key(folder, alter, line):
    path = folder / "model.safetensors"
    weights = load_file(path)
    alter(weights)
    save_file(weights, path)
    with pytest.raises(InputError, match=line) as raised:
        model_folder.read(folder)
    assert str(raised.value).startswith(f"{path}: ")


def test_absent_and_damaged_files_are_one_line(folder):
    weights, description = folder / "model.safetensors", folder / "config.json"
    whole = weights.read_bytes()
    for content, line in [
        (whole[:100], "is not a safetensors file"),
        (pickle.dumps({"a": 1}), "is not a safetensors file"),
        (None, "does not exist; copy the model's folder again"),
    ]:
        weights.unlink() if content is None else weights.write_bytes(content)
        with pytest.raises(InputError, match=line):
            model_folder.read(folder)
    for text, line in [("{", "is not json"), ("[]", "is a json list")]:
        description.write_text(text)
        with pytest.raises(InputError, match=line):
            model_folder.read(folder)
        assert not is_model_folder(folder)
    description.unlink()
    for path in (folder, folder / "absent", weights):
        with pytest.raises(InputError, match=r"is not a model; python -m trashseg_jax\.export"):
            model_folder.read(path)
