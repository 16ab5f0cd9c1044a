from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trashseg_jax.errors import InputError
from trashseg_jax.models import resnet, unet


def unet_of(encoder, *, width=64, decoder=(256, 128, 64, 32, 16), dtype=jnp.float32):
    return unet.UNet(resnet.ENCODERS[encoder](width=width, dtype=dtype), 11, decoder, dtype)


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
    variables, _ = shapes_of(resnet.ENCODERS[name](width=64, dtype=jnp.float32), 1, 64, 64, 3)
    assert count(variables["params"]) == parameters


@pytest.mark.parametrize(("name", "expansion"), [("resnet34", 1), ("resnet50", 4)])
def test_features_are_at_strides_1_to_32(name, expansion):
    encoder = resnet.ENCODERS[name](width=64, dtype=jnp.float32)
    _, features = shapes_of(encoder, 2, 64, 96, 3)
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
    with pytest.raises(InputError, match=r"100x64.*128x64"):
        shapes_of(unet_of("resnet18"), 1, 100, 64, 3)


def test_stride_two_samples_the_pixels_that_pytorch_samples():
    """A 3x3 convolution of stride 2 and padding 1, written as sums over its taps."""
    image = np.random.default_rng(0).normal(size=(1, 6, 8, 2)).astype(np.float32)
    layer = resnet.conv(3, (3, 3), 2, padding=1)
    variables = layer.init(jax.random.key(0), image)
    kernel = np.asarray(variables["params"]["kernel"])
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = sum(
        padded[:, i : i + 6 : 2, j : j + 8 : 2] @ kernel[i, j] for i in range(3) for j in range(3)
    )
    np.testing.assert_allclose(layer.apply(variables, image), expected, atol=1e-5)


def test_every_parameter_influences_the_logits():
    model = unet_of("resnet18", width=4, decoder=(8, 8, 8, 8, 8))
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
