"""Conversion of PyTorch's weights. The state_dicts are written from the public key names."""

import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from trashseg_jax import build, evaluate, train
from trashseg_jax.devices import sharding
from trashseg_jax.errors import InputError
from trashseg_jax.models import pretrained
from trashseg_jax.models.encoders import ENCODERS
from trashseg_jax.run.checkpoint import Checkpoints

WIDTH = 4


@pytest.fixture(scope="module")
def weights():
    """Those of a ResNet-18 of four features."""
    return state_dict(depth=2)


def state_dict(*, depth):
    """Random weights of `depth` basic blocks a stage, as torchvision and timm name them."""
    rng = np.random.default_rng(0)
    shapes = {"conv1.weight": (WIDTH, 3, 7, 7), **norm("bn1", WIDTH)}
    before = WIDTH
    for stage in range(1, 5):
        features = WIDTH * 2 ** (stage - 1)
        for block in range(depth):
            name = f"layer{stage}.{block}"
            shapes[f"{name}.conv1.weight"] = (features, before, 3, 3)
            shapes[f"{name}.conv2.weight"] = (features, features, 3, 3)
            shapes |= norm(f"{name}.bn1", features) | norm(f"{name}.bn2", features)
            if before != features:
                shapes[f"{name}.downsample.0.weight"] = (features, before, 1, 1)
                shapes |= norm(f"{name}.downsample.1", features)
            before = features
    shapes |= {"fc.weight": (1000, before), "fc.bias": (1000,)}
    return {name: np.asarray(rng.uniform(0.1, 1, s), np.float32) for name, s in shapes.items()}


def norm(name, features):
    vectors = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{v}": (features,) for v in vectors} | {f"{name}.num_batches_tracked": ()}


@pytest.fixture
def save(tmp_path):
    """A function that saves a state_dict and returns the file's path."""

    def to_file(state_dict):
        save_file(state_dict, tmp_path / "weights.safetensors")
        return str(tmp_path / "weights.safetensors")

    return to_file


def make_encoder(**options):
    standard = {"output_stride": 32, "stem_pool": "max", "layer4": "standard"}
    options = {**standard, "multi_grid": (1, 1), "remat": False, "drop_path": 0.0, **options}
    return ENCODERS["resnet18"](width=WIDTH, dtype=jnp.float32, **options)


def fresh_variables(encoder):
    """An encoder's variables, all -1, which no weight of the file is."""
    image = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(lambda: encoder.init(jax.random.key(0), image, train=False))
    return jax.tree.map(lambda x: np.full(x.shape, -1, np.float32), shapes)


def load(path, *, prefix="", **options):
    """Loads a file into the fresh variables of an encoder with these options."""
    encoder = make_encoder(**options)
    return pretrained.load_encoder(path, fresh_variables(encoder), encoder=encoder, prefix=prefix)


def untouched(variables):
    """Names of the modules of which some leaf is still fresh."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {"/".join(k.key for k in path[1:-1]) for path, leaf in leaves if np.any(leaf == -1)}


def test_weights_arrive_at_their_places(weights, save):
    variables = load(save(weights))
    assert not untouched(variables)
    params, stats = variables["params"], variables["batch_stats"]
    expected = np.moveaxis(weights["layer2.0.conv1.weight"], (2, 3, 1, 0), (0, 1, 2, 3))
    np.testing.assert_array_equal(params["layer2_0"]["conv1"]["kernel"], expected)
    for name, leaf in [
        ("layer3.1.bn2.weight", params["layer3_1"]["bn2"]["scale"]),
        ("layer3.1.bn2.bias", params["layer3_1"]["bn2"]["bias"]),
        ("layer4.0.downsample.1.running_mean", stats["layer4_0"]["downsample_bn"]["mean"]),
        ("bn1.running_var", stats["bn1"]["var"]),
    ]:
        np.testing.assert_array_equal(leaf, weights[name])


# What stands before an encoder's names in published files, and beside it, by where they come from.
WRAPPERS = {
    "a classifier trained in parallel": ("module.", ["module.fc.weight"]),
    "segmentation_models_pytorch": ("encoder.", ["decoder.blocks.0.conv1.0.weight"]),
    "the same, trained with Lightning": (
        "state_dict.model.encoder.",
        ["state_dict.model.segmentation_head.0.weight", "state_dict.loss.weight"],
    ),
    "mmsegmentation": (
        "state_dict.backbone.",
        ["state_dict.decode_head.conv_seg.weight", "state_dict.auxiliary_head.conv_seg.bias"],
    ),
    "torchvision's segmentation models": (
        "backbone.",
        ["classifier.4.weight", "aux_classifier.4.weight"],
    ),
    "SwAV": ("module.", ["module.projection_head.0.weight", "module.prototypes.weight"]),
    "MoCo": (
        "state_dict.module.encoder_q.",
        ["state_dict.module.encoder_q.fc.0.weight", "state_dict.module.queue"],
    ),
    "DenseCL": ("state_dict.encoder_q.0.", ["state_dict.encoder_q.1.mlp.0.weight"]),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_encoder_is_found_in_whatever_model_holds_it(weights, save, name):
    prefix, others = WRAPPERS[name]
    named = {prefix + n: weight for n, weight in weights.items() if not n.startswith("fc.")}
    named |= {other: np.zeros((2, 2), np.float32) for other in others}
    assert not untouched(load(save(named)))


def test_of_moco_s_two_encoders_the_query_is_taken(weights, save):
    """The key encoder is its moving average, which nobody publishes."""
    query = {f"module.encoder_q.{name}": weight for name, weight in weights.items()}
    key = {f"module.encoder_k.{name}": np.asarray(weight + 5) for name, weight in weights.items()}
    variables = load(save({**key, **query}))
    expected = weights["bn1.bias"]
    np.testing.assert_array_equal(variables["params"]["bn1"]["bias"], expected)


def test_two_networks_in_a_file_are_an_error_until_one_is_named(weights, save):
    student = {f"student.{name}": weight for name, weight in weights.items()}
    teacher = {f"teacher.{name}": np.asarray(weight + 5) for name, weight in weights.items()}
    path = save({**student, **teacher})
    with pytest.raises(InputError, match=r"2 networks, under 'student\.', 'teacher\.'; .*_prefix"):
        load(path)
    bias = load(path, prefix="teacher.")["params"]["bn1"]["bias"]
    np.testing.assert_array_equal(bias, weights["bn1.bias"] + 5)


def test_dilated_encoders_load_the_same_weights(weights, save):
    options = {"output_stride": 8, "stem_pool": "atrous"}
    fresh = fresh_variables(make_encoder(**options))
    variables = load(save(weights), **options)
    assert untouched(variables) == {name for name in untouched(fresh) if "stem_atrous" in name}


def test_reference_dilated_keeps_its_fresh_convolutions(weights, save):
    variables = load(save(weights), layer4="reference_dilated")
    blocks, convs = ("layer4_0", "layer4_1"), ("conv1", "conv2")
    assert untouched(variables) == {f"{b}/{c}" for b in blocks for c in convs}


def without(weights, name):
    return {n: w for n, w in weights.items() if n != name}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda w: without(w, "conv1.weight"), "conv1.weight is missing"),
        (lambda w: without(w, "layer4.1.bn2.running_var"), "layer4.1.bn2.running_var is missing"),
        (
            lambda w: {**w, "layer4.2.conv1.weight": w["layer4.1.conv1.weight"]},
            r"layer4.2.conv1.weight is not a weight .*model.encoder",
        ),
        (
            lambda w: {**w, "conv1.weight": np.zeros((64, 3, 7, 7), np.float32)},
            r"conv1.weight is \[7, 7, 3, 64\] .* \[7, 7, 3, 4\] .*model.width",
        ),
        (lambda w: {**w, "bn1.bias": np.zeros(5, np.float32)}, r"bn1.bias is \[5\] .* \[4\]"),
        (
            lambda w: {**w, "bn1.bias": np.array([1, 2, np.nan, 4], np.float32)},
            "bn1.bias holds numbers that are not finite",
        ),
        (
            lambda w: {"stem.0.weight": w["conv1.weight"], **without(w, "conv1.weight")},
            r"conv1.weight is missing \(stem.0.weight is there: a stem of several convolutions\)",
        ),
        (
            lambda w: {"blocks.0.attn.qkv.weight": np.zeros((3, 3), np.float32)},
            r"other weights \(the first keys there are: blocks.0.attn.qkv.weight\)",
        ),
    ],
)
def test_files_for_another_encoder_are_refused_with_the_key(weights, save, change, line):
    with pytest.raises(InputError, match=line):
        load(save(change(weights)))


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_absent_and_damaged_files_are_one_line(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(InputError, match=r"model\.pretrained.*no such file"):
        pretrained.read(str(path))
    path.write_bytes(b"hello")
    with pytest.raises(InputError, match=f"{name}: ") as raised:
        pretrained.read(str(path))
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["w.pt", "w.pth.tar", "w.ckpt", "w.bin", "w.safetensors"])
def test_a_file_that_is_absent_is_never_taken_for_a_hub_id(name):
    with pytest.raises(InputError, match="there is no such file"):
        pretrained.read(f"folder/{name}")


@pytest.mark.parametrize("name", ["w.bin", "w"])
def test_a_file_is_read_by_what_it_holds(weights, save, tmp_path, name):
    Path(save(weights)).rename(tmp_path / name)
    assert pretrained.read(str(tmp_path / name)).keys() == weights.keys()


def test_a_model_folder_is_read_from_its_weights(weights, save, tmp_path):
    Path(save(weights)).rename(tmp_path / "model.safetensors")
    assert pretrained.read(str(tmp_path)).keys() == weights.keys()


@pytest.mark.parametrize("source", ["resnet34", "a/b/c", "https://host/w"])
def test_sources_of_no_kind_are_refused(source):
    with pytest.raises(InputError, match="or a hub id"):
        pretrained.read(source)


def test_hub_ids_resolve_to_their_safetensors(weights, save, monkeypatch):
    asked = []

    def download(*arguments):
        asked.append(arguments)
        return save(weights)

    monkeypatch.setitem(sys.modules, "huggingface_hub", hub(download))
    assert pretrained.read("timm/resnet18.a1_in1k").keys() == weights.keys()
    assert asked == [("timm/resnet18.a1_in1k", "model.safetensors")]


def test_hub_offline_is_a_line_that_says_how_to_pass_a_file(monkeypatch):
    def fail(*_):
        raise FileNotFoundError("no\nnetwork")

    for module in (hub(fail), None):  # None: not installed
        monkeypatch.setitem(sys.modules, "huggingface_hub", module)
        with pytest.raises(InputError, match=r"timm/none.*model\.pretrained=FILE") as raised:
            pretrained.read("timm/none")
        assert len(str(raised.value).splitlines()) == 1


def hub(download):
    logging = types.SimpleNamespace(set_verbosity_error=lambda: None)
    utils = types.SimpleNamespace(logging=logging)
    return types.SimpleNamespace(hf_hub_download=download, utils=utils)


def test_new_run_begins_with_the_weights_and_later_does_without_the_file(
    save, tiny_config, tiny_model, tmp_path
):
    config, model, mesh = tiny_config(), tiny_model, sharding.make_mesh()
    config.model.pretrained = save(state_dict(depth=1))
    tx, _ = build.build_optimizer(config, steps=4)
    with Checkpoints(tmp_path / "checkpoints", keep=1, writable=True) as checkpoints:
        published = train.load_published(config, tmp_path, mesh)
        state = train.restore_or_begin(config, checkpoints, model, tx, mesh, published)
        for variables in ({"params": state.params, "batch_stats": state.batch_stats}, state.ema):
            encoder = {kind: tree["encoder"] for kind, tree in variables.items()}
            expected = pretrained.load_encoder(
                config.model.pretrained, encoder, encoder=model.encoder, prefix=""
            )
            jax.tree.map(np.testing.assert_array_equal, encoder, expected)
        average = jax.tree.leaves(state.ema["params"])
        buffers = [leaf.unsafe_buffer_pointer() for leaf in local(average)]
        trained = [leaf.unsafe_buffer_pointer() for leaf in local(jax.tree.leaves(state.params))]
        assert not set(buffers) & set(trained)  # the step donates both
        checkpoints.save(state, miou=None)

    (tmp_path / "weights.safetensors").unlink()
    with Checkpoints(tmp_path / "checkpoints", keep=1, writable=True) as checkpoints:
        published = train.load_published(config, tmp_path, mesh)
        resumed = train.restore_or_begin(config, checkpoints, model, tx, mesh, published)
    evaluated = evaluate.restore(config, tmp_path, model, tx, mesh)
    for other in (resumed, evaluated):
        jax.tree.map(np.testing.assert_array_equal, other, state)


def local(leaves):
    return [leaf.addressable_shards[0].data for leaf in leaves]
