"""ResNet encoders (He et al. 2016) that return the features a decoder needs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

Features = list[Float[Array, "b _ _ _"]]

# Padding is explicit, never 'SAME': at stride 2 'SAME' samples other pixels than PyTorch's
# convolutions do, and pretrained weights would give other features.
conv = partial(nn.Conv, use_bias=False, kernel_init=nn.initializers.he_normal())


def make_norm(*, train: bool, dtype: Any) -> Callable[..., nn.BatchNorm]:
    """Returns BatchNorm with PyTorch's epsilon and momentum (0.9 here is 0.1 there)."""
    return partial(
        nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: the block of ResNet-18 and -34."""

    features: int
    stride: int
    dtype: Any
    expansion = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b H W f"]:
        norm = make_norm(train=train, dtype=self.dtype)
        conv3 = partial(conv, self.features, (3, 3), padding=1, dtype=self.dtype)
        y = nn.relu(norm(name="bn1")(conv3(strides=self.stride, name="conv1")(x)))
        y = norm(name="bn2")(conv3(name="conv2")(y))
        return nn.relu(y + shortcut(x, y, self.stride, norm))


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided) and 1x1 convolutions and a shortcut: the block of ResNet-50."""

    features: int
    stride: int
    dtype: Any
    expansion = 4

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b H W f"]:
        norm = make_norm(train=train, dtype=self.dtype)
        y = conv(self.features, (1, 1), dtype=self.dtype, name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y))
        y = conv(self.features, (3, 3), self.stride, padding=1, dtype=self.dtype, name="conv2")(y)
        y = nn.relu(norm(name="bn2")(y))
        y = conv(4 * self.features, (1, 1), dtype=self.dtype, name="conv3")(y)
        y = norm(name="bn3")(y)
        return nn.relu(y + shortcut(x, y, self.stride, norm))


def shortcut(
    x: Float[Array, "b h w c"], y: Float[Array, "b H W f"], stride: int, norm: Callable
) -> Float[Array, "b H W f"]:
    """Returns `x`, through a 1x1 convolution where the block changed its shape."""
    if x.shape == y.shape:
        return x
    projection = conv(y.shape[-1], (1, 1), stride, padding=0, dtype=y.dtype, name="downsample_conv")
    return norm(name="downsample_bn")(projection(x))


class ResNet(nn.Module):
    """A ResNet without its classifier.

    Returns the input and five features at strides 2, 4, 8, 16 and 32, largest first. Submodules
    bear the names of PyTorch's `state_dict`, so that weights convert key by key. `width` is the
    number of features of the stem, 64 in the paper.
    """

    blocks: tuple[int, int, int, int]
    block: type[BasicBlock] | type[Bottleneck]
    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Features:
        norm = make_norm(train=train, dtype=self.dtype)
        features = [x]
        x = conv(self.width, (7, 7), 2, padding=3, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(norm(name="bn1")(x))
        features.append(x)  # b h/2 w/2 width
        padding: Any = [(1, 1), (1, 1)]  # annotated as a string; pads with -inf
        x = nn.max_pool(x, (3, 3), (2, 2), padding=padding)
        for stage, depth in enumerate(self.blocks):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"layer{stage + 1}_{i}"
                x = self.block(self.width * 2**stage, stride, self.dtype, name=name)(x, train=train)
            features.append(x)  # at stride 2^(stage+2): width * 2^stage * expansion
        return features


ENCODERS = {
    "resnet18": partial(ResNet, (2, 2, 2, 2), BasicBlock),
    "resnet34": partial(ResNet, (3, 4, 6, 3), BasicBlock),
    "resnet50": partial(ResNet, (3, 4, 6, 3), Bottleneck),
}
