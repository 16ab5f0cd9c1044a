"""EfficientNet-Lite encoders (Tan & Le 2019; the Lite variants of its authors' repository)."""

import itertools
import math
import re
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from trashseg_jax.errors import InputError
from trashseg_jax.models.blocks import Features, conv, depth_rates, drop_path, run_block
from trashseg_jax.models.depthwise import DepthwiseConv, same_padding
from trashseg_jax.models.normalization import BatchNorm
from trashseg_jax.models.pretrained import LeafPath
from trashseg_jax.models.resnet import OUTPUT_STRIDES

# By stage: blocks, kernel, stride, expansion, features (the paper's table 1, B0). Lite has neither
# squeeze-and-excitation nor swish, and scales neither the stem nor the depth of the ends.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM = 32
TAPS = (0, 1, 2, 4, 6)  # the stages whose results a decoder takes, at strides 2, 4, 8, 16 and 32
PUBLISHED_WIDTH = 64  # the `width` at which features are as published
EPSILON = 1e-3  # of BatchNorm, TensorFlow's
LARGEST = 6.0  # that ReLU6 lets through


class Pointwise(nn.Module):
    """A 1x1 convolution without bias, as the product of matrices that it is."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w f"]:
        shape = (1, 1, x.shape[-1], self.features)
        kernel = jnp.asarray(self.param("kernel", nn.initializers.he_normal(), shape), self.dtype)
        # In two dimensions: of more, XLA for CPUs transposes what the kernel's gradient multiplies.
        rows = x.astype(self.dtype).reshape(-1, x.shape[-1])
        return (rows @ kernel[0, 0]).reshape(*x.shape[:-1], self.features)


class Block(nn.Module):
    """1x1 expansion, if there is any, depthwise and 1x1 convolutions; a shortcut for one shape.

    An inverted residual, whose last convolution no activation follows (Sandler et al. 2018, section
    3.2). Without an expansion timm numbers what is left, and calls the last 1x1 `conv_pw`.
    """

    features: int
    size: int
    stride: int
    dilation: int
    expansion: int
    dtype: Any
    drop_path: float

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b H W f"]:
        norm = partial(BatchNorm, train=train, dtype=self.dtype, epsilon=EPSILON)
        norms = (norm(name=f"bn{i}") for i in itertools.count(1))
        y, last = x, "conv_pw"
        if self.expansion > 1:
            y = Pointwise(self.expansion * x.shape[-1], self.dtype, name="conv_pw")(x)
            y, last = nn.relu6(next(norms)(y)), "conv_pwl"
        y = DepthwiseConv(self.size, self.stride, self.dilation, self.dtype, name="conv_dw")(y)
        y = nn.relu6(next(norms)(y))
        y = next(norms)(Pointwise(self.features, self.dtype, name=last)(y))
        return x + drop_path(self, y, rate=self.drop_path) if x.shape == y.shape else y


class EfficientNetLite(nn.Module):
    """An EfficientNet-Lite without its 1x1 head and classifier.

    Returns the input and five features: those of the stages TAPS, at strides 2, 4, 8, 16 and 32, or
    at most `output_stride`: a stride that would lead beyond it becomes a dilation. Submodules bear
    timm's names. Padding is TensorFlow's 'SAME', which the published weights were trained with.
    """

    depth: float  # factor on the stages' numbers of blocks
    scale: float  # factor on the stages' numbers of features
    width: int
    dtype: Any
    output_stride: int
    stem_pool: str
    layer4: str
    multi_grid: tuple[int, ...]
    remat: bool
    drop_path: float

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Features:
        features = [x]
        ends = same_padding(3, stride=2, dilation=1)
        stem = partial(conv, self.widen(STEM), (3, 3), 2, padding=(ends, ends), dtype=self.dtype)
        norm = BatchNorm(train=train, dtype=self.dtype, epsilon=EPSILON, name="bn1")
        x = nn.relu6(norm(stem(name="conv_stem")(x)))
        plan = self.plan()
        rates = iter(depth_rates(self.drop_path, sum(map(len, plan))))
        for stage, blocks in enumerate(plan):
            for i, options in enumerate(blocks):
                block = Block(
                    **options,
                    dtype=self.dtype,
                    drop_path=next(rates),
                    name=f"blocks_{stage}_{i}",
                )
                x = run_block(block, x, train=train, remat=self.remat)
            if stage in TAPS:
                features.append(x)
        return features

    def plan(self) -> list[list[dict[str, Any]]]:
        """Returns the options of each stage's blocks.

        Where a stride becomes a dilation, the block that had it keeps the dilation before it, as in
        `resnet.ResNet.plan`.
        """
        self.check_options()
        reached, dilation, plan = 2, 1, []
        for stage, (blocks, size, stride, expansion, features) in enumerate(STAGES):
            if 0 < stage < len(STAGES) - 1:
                blocks = math.ceil(blocks * self.depth)
            before = dilation
            if reached * stride > self.output_stride:
                stride, dilation = 1, dilation * stride
            reached *= stride
            features = self.widen(round_features(features * self.scale))
            options = {"features": features, "size": size, "expansion": expansion}
            first = {**options, "stride": stride, "dilation": before}
            following = {**options, "stride": 1, "dilation": dilation}
            plan.append([first] + [following] * (blocks - 1))
        return plan

    def widen(self, features: int) -> int:
        """Returns a number of features for `width`, in proportion to the published one's."""
        return max(1, round(features * self.width / PUBLISHED_WIDTH))

    def check_options(self) -> None:
        """Raises InputError for options that belong to ResNets, and for an impossible stride."""
        given = {"stem_pool": self.stem_pool, "layer4": self.layer4, "multi_grid": self.multi_grid}
        for key, plain in {"stem_pool": "max", "layer4": "standard"}.items():
            if given[key] != plain:
                raise InputError(
                    f"config.model.{key}={given[key]!r}: an EfficientNet-Lite has neither a "
                    f"pooling nor a layer4; leave it at {plain!r}, and set "
                    "config.model.output_stride=16 for dilation in place of the last stride"
                )
        if set(self.multi_grid) != {1}:
            raise InputError(
                f"config.model.multi_grid={self.multi_grid}: an EfficientNet-Lite has no layer4; "
                "leave it at (1, 1, 1)"
            )
        if self.output_stride not in OUTPUT_STRIDES:
            raise InputError(
                f"config.model.output_stride={self.output_stride}: must be one of "
                f"{', '.join(map(str, OUTPUT_STRIDES))}"
            )

    def published_name(self, path: LeafPath) -> str:
        """Returns timm's name of a leaf's module and the leaf's own name."""
        _, *modules, leaf = path
        return re.sub(r"blocks_(\d+)_(\d+)", r"blocks.\1.\2", ".".join([*modules, leaf]))

    def is_fresh(self, path: LeafPath, shape: tuple[int, ...]) -> bool:
        """Says whether published weights leave this leaf as it was initialised: they have all."""
        del path, shape
        return False

    def stages_after(self, path: LeafPath) -> int:
        """Returns how many features come after that of a leaf's stage: 4 in the stem."""
        block = re.match(r"blocks_(\d)", path[1])
        return sum(tap >= int(block[1]) for tap in TAPS) - 1 if block else len(TAPS) - 1

    def common_name(self, name: str) -> str:
        """Returns timm's name for one of efficientnet_pytorch's; others as they are.

        That library counts blocks through all stages, and names what is in one by its role.
        """
        starts = np.cumsum([0, *map(len, self.plan())])

        def rename(match):
            number, module = int(match[1]), match[2]
            stage = int(np.searchsorted(starts[1:-1], number, "right"))
            names = SEPARABLE_NAMES if STAGES[stage][3] == 1 else EXPANDED_NAMES
            return f"blocks.{stage}.{number - starts[stage]}.{names.get(module, module)}"

        name = re.sub(r"\b_blocks\.(\d+)\._(\w+)", rename, name)
        return re.sub(r"\b_(conv_stem|bn0|conv_head|bn1|fc)\b", lambda m: OUTER_NAMES[m[1]], name)


def round_features(features: float) -> int:
    """Returns the nearest multiple of 8 that is not more than a tenth smaller."""
    nearest = max(8, int(features + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * features else nearest + 8


# efficientnet_pytorch's names of modules, without the underscore that each begins with, and timm's.
OUTER_NAMES = {
    "conv_stem": "conv_stem",
    "bn0": "bn1",
    "conv_head": "conv_head",
    "bn1": "bn2",
    "fc": "classifier",
}
SEPARABLE_NAMES = {
    "depthwise_conv": "conv_dw",
    "bn1": "bn1",
    "project_conv": "conv_pw",
    "bn2": "bn2",
}
EXPANDED_NAMES = {
    "expand_conv": "conv_pw",
    "bn0": "bn1",
    "depthwise_conv": "conv_dw",
    "bn1": "bn2",
    "project_conv": "conv_pwl",
    "bn2": "bn3",
}

FAMILY = {
    "efficientnet_lite0": partial(EfficientNetLite, 1.0, 1.0),
    "efficientnet_lite1": partial(EfficientNetLite, 1.1, 1.0),
    "efficientnet_lite2": partial(EfficientNetLite, 1.2, 1.1),
}
