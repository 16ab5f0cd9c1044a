from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trashseg_jax.errors import InputError
from trashseg_jax.models import blocks, resnet, unet
from trashseg_jax.models.encoders import ENCODERS


def encoder_of(name, *, width=64, dtype=jnp.float32, **options):
    standard = {"output_stride": 32, "stem_pool": "max", "layer4": "standard"}
    options = {**standard, "multi_grid": (1, 1, 1), "remat": False, "drop_path": 0.0, **options}
    return ENCODERS[name](width=width, dtype=dtype, **options)


def unet_of(name, *, decoder=(256, 128, 64, 32, 16), dtype=jnp.float32, **options):
    encoder = encoder_of(name, dtype=dtype, **options)
    return unet.UNet(encoder, 11, decoder, dtype, dropout=0.0, hold_statistics=False)


def names_of(tree):
    return {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def shapes_of(model, *image_shape):
    """Shapes of variables and output, without computing either."""
    image = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    init = partial(model.init, jax.random.key(0), train=False)
    variables = jax.eval_shape(init, image)
    return variables, jax.eval_shape(partial(model.apply, train=False), variables, image)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# ResNet-34: segmentation_models_pytorch's count, in design.md. The others: torchvision's
# published counts (11,689,512 and 25,557,032) less the classifiers (512 and 2048 x 1000 + 1000).
def test_unet_with_resnet34_has_the_published_number_of_parameters():
    variables, _ = shapes_of(unet_of("resnet34"), 1, 64, 64, 3)
    assert count(variables["params"]) == 24_437_819


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_689_512 - 513_000),
        ("resnet34", 21_797_672 - 513_000),
        ("resnet50", 25_557_032 - 2_049_000),
    ],
)
def test_encoders_have_the_published_number_of_parameters(name, parameters):
    variables, _ = shapes_of(encoder_of(name), 1, 64, 64, 3)
    assert count(variables["params"]) == parameters


@pytest.mark.parametrize(("name", "expansion"), [("resnet34", 1), ("resnet50", 4)])
def test_features_are_at_strides_1_to_32(name, expansion):
    _, features = shapes_of(encoder_of(name), 2, 64, 96, 3)
    channels = [3, 64, *(expansion * c for c in (64, 128, 256, 512))]
    expected = [(2, 64 >> i, 96 >> i, c) for i, c in enumerate(channels)]
    assert [f.shape for f in features] == expected


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_parameters_statistics_and_logits_are_float32(dtype):
    model = unet_of("resnet18", width=4, decoder=(8, 8, 8, 8, 8), dtype=dtype)
    variables, logits = shapes_of(model, 1, 64, 32, 3)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert (logits.shape, logits.dtype) == ((1, 64, 32, 11), jnp.float32)


def test_bfloat16_really_computes_in_bfloat16():
    text = []
    for dtype in (jnp.float32, jnp.bfloat16):
        model = unet_of("resnet18", width=4, decoder=(8, 8, 8, 8, 8), dtype=dtype)
        variables, _ = shapes_of(model, 1, 32, 32, 3)
        image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        jaxpr = jax.make_jaxpr(partial(model.apply, train=False))(variables, image)
        text.append([e for e in str(jaxpr).splitlines() if "conv_general_dilated[" in e])
    assert all(":f32[" in line for line in text[0])
    assert all(":bf16[" in line for line in text[1])


def test_sizes_that_are_no_multiple_of_32_are_refused_with_the_next():
    with pytest.raises(InputError, match=r"100x64.*of 32.*128x64"):
        shapes_of(unet_of("resnet18"), 1, 100, 64, 3)
    with pytest.raises(InputError, match=r"100x64.*of 8.*104x64"):
        shapes_of(unet_of("resnet18", output_stride=8), 1, 100, 64, 3)


def test_stride_two_samples_the_pixels_that_pytorch_samples():
    """A 3x3 convolution of stride 2 and padding 1, written as sums over its taps."""
    image = np.random.default_rng(0).normal(size=(1, 6, 8, 2)).astype(np.float32)
    layer = blocks.conv(3, (3, 3), 2, padding=1)
    variables = layer.init(jax.random.key(0), image)
    kernel = np.asarray(variables["params"]["kernel"])
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = sum(
        padded[:, i : i + 6 : 2, j : j + 8 : 2] @ kernel[i, j] for i in range(3) for j in range(3)
    )
    np.testing.assert_allclose(layer.apply(variables, image), expected, atol=1e-5)


@pytest.mark.parametrize("stem_pool", ["max", "atrous"])
def test_every_parameter_influences_the_logits(stem_pool):
    stride = {"max": 32, "atrous": 16}[stem_pool]
    model = unet_of(
        "resnet18", width=4, decoder=(8, 8, 8, 8, 8), stem_pool=stem_pool, output_stride=stride
    )
    image = jax.random.normal(jax.random.key(1), (1, 32, 32, 3))
    variables = model.init(jax.random.key(0), image, train=False)

    def total(params):
        logits = model.apply({**variables, "params": params}, image, train=False)
        return jnp.sum(jnp.sin(logits))

    gradients = jax.jit(jax.grad(total))(variables["params"])
    silent = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
        if not np.any(leaf)
    ]
    assert not silent


# Strides of the five features, by hand: the stem's 2, then what pooling and stages add.
STRIDES = [
    ("max", 32, (2, 4, 8, 16, 32)),
    ("max", 16, (2, 4, 8, 16, 16)),
    ("max", 8, (2, 4, 8, 8, 8)),
    ("atrous", 16, (2, 2, 4, 8, 16)),
    ("none", 8, (2, 2, 4, 8, 8)),
]


@pytest.mark.parametrize(("stem_pool", "output_stride", "strides"), STRIDES)
def test_options_set_the_strides_of_features_and_keep_the_size_of_logits(
    stem_pool, output_stride, strides
):
    options = {"stem_pool": stem_pool, "output_stride": output_stride}
    _, features = shapes_of(encoder_of("resnet18", **options), 1, 64, 96, 3)
    assert [f.shape[1:3] for f in features[1:]] == [(64 // s, 96 // s) for s in strides]
    _, logits = shapes_of(unet_of("resnet18", **options), 1, 64, 96, 3)
    assert logits.shape == (1, 64, 96, 11)


@pytest.mark.parametrize(
    "options",
    [
        {"output_stride": 8},
        {"stem_pool": "none", "output_stride": 16, "multi_grid": (1, 2, 4)},
        {"layer4": "reference_dilated"},
    ],
)
def test_options_keep_names_and_shapes_of_the_weights(options):
    standard, _ = shapes_of(unet_of("resnet34"), 1, 32, 32, 3)
    variables, _ = shapes_of(unet_of("resnet34", **options), 1, 32, 32, 3)
    assert variables == standard


def test_atrous_stem_only_adds_weights():
    standard, _ = shapes_of(encoder_of("resnet34"), 1, 32, 32, 3)
    atrous = encoder_of("resnet34", stem_pool="atrous", output_stride=16)
    variables, _ = shapes_of(atrous, 1, 32, 32, 3)
    added = names_of(variables["params"]) - names_of(standard["params"])
    assert added
    assert all("stem_atrous" in name for name in added)
    assert names_of(standard) < names_of(variables)


# From the papers' figures. ResNet-34 at stride 8: layer3 at rate 2 and layer4 at rate 4 (DeepLab),
# the convolutions that had the strides at the rate before. Multi-grid (1, 2, 4) at stride 16 gives
# layer4 the rates 2 x (1, 2, 4) (Chen et al. 2017, section 3.2.1).
def test_dilation_takes_the_place_of_strides():
    plan = encoder_of("resnet34", output_stride=8).plan()
    assert plan[1] == [(2, (1, 1)), *[(1, (1, 1))] * 3]
    assert plan[2] == [(1, (1, 2)), *[(1, (2, 2))] * 5]
    assert plan[3] == [(1, (2, 4)), *[(1, (4, 4))] * 2]


def test_multi_grid_multiplies_the_dilations_of_layer4():
    plan = encoder_of("resnet34", output_stride=16, multi_grid=(1, 2, 4)).plan()
    assert plan[3] == [(1, (1, 2)), (1, (4, 4)), (1, (8, 8))]
    two_blocks = encoder_of("resnet18", output_stride=16, multi_grid=(1, 2, 4)).plan()
    assert two_blocks[3] == plan[3][:2]


def test_reference_dilated_dilates_layer4_and_keeps_its_stride():
    plan = encoder_of("resnet34", layer4="reference_dilated").plan()
    assert plan[:3] == encoder_of("resnet34").plan()[:3]
    assert plan[3] == [(2, (2, 2)), (1, (2, 2)), (1, (2, 2))]


@pytest.mark.parametrize("block", [resnet.BasicBlock, resnet.Bottleneck])
def test_dilated_features_at_strided_positions_are_the_strided_ones(block):
    """The same weights, evaluation BatchNorm: holds at the borders too, both are zero-padded."""
    make = partial(resnet.ResNet, (1, 1, 2, 2), block, width=4, dtype=jnp.float32)
    make = partial(make, stem_pool="max", layer4="standard", multi_grid=(1, 1))
    make = partial(make, remat=False, drop_path=0.0)
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(1, 64, 96, 3)), jnp.float32)
    shapes, _ = shapes_of(make(output_stride=32), *image.shape)
    variables = jax.tree.map(lambda x: rng.uniform(0.1, 0.5, x.shape).astype("f"), shapes)
    # Zero-mean kernels: features neither vanish nor grow over the layers.
    variables["params"] = jax.tree.map(
        lambda x: x - x.mean() if x.ndim == 4 else x, variables["params"]
    )
    strided = make(output_stride=32).apply(variables, image, train=False)
    dilated = make(output_stride=8).apply(variables, image, train=False)
    for a, b, step in zip(dilated[3:], strided[3:], (1, 2, 4), strict=True):
        assert np.std(b) > 1e-3
        np.testing.assert_allclose(a[:, ::step, ::step], b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"output_stride": 12}, "output_stride=12: must be one of 8, 16, 32"),
        ({"stem_pool": "atrous"}, "output_stride=32: must be one of 8, 16 with .*'atrous'"),
        ({"layer4": "reference_dilated", "output_stride": 8}, "reference_dilated.*set it to 32"),
        ({"multi_grid": (1, 2)}, r"multi_grid=\(1, 2\).*3 blocks"),
    ],
)
def test_options_that_exclude_each_other_are_refused(options, line):
    with pytest.raises(InputError, match=line):
        encoder_of("resnet34", **options).plan()
