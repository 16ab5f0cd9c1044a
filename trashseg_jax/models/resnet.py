"""ResNet encoders (He et al. 2016), dilated on demand, that return the features a decoder needs."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from trashseg_jax.errors import InputError
from trashseg_jax.models.blocks import Features, conv, conv3, depth_rates, drop_path, run_block
from trashseg_jax.models.normalization import BatchNorm
from trashseg_jax.models.pooling import max_pool
from trashseg_jax.models.pretrained import LeafPath
from trashseg_jax.settings import choose

Dilations = tuple[int, int]  # of a block's first 3x3 convolution and of those after it


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: the block of ResNet-18 and -34."""

    features: int
    stride: int
    dilations: Dilations
    dtype: Any
    drop_path: float
    expansion = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b H W f"]:
        norm = partial(BatchNorm, train=train, dtype=self.dtype)
        first, second = self.dilations
        y = conv3(self.features, self.stride, first, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y))
        y = conv3(self.features, 1, second, dtype=self.dtype, name="conv2")(y)
        y = norm(name="bn2")(y)
        branch = drop_path(self, y, rate=self.drop_path)
        return nn.relu(branch + shortcut(x, y, self.stride, norm))


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided) and 1x1 convolutions and a shortcut: the block of ResNet-50."""

    features: int
    stride: int
    dilations: Dilations
    dtype: Any
    drop_path: float
    expansion = 4

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b H W f"]:
        norm = partial(BatchNorm, train=train, dtype=self.dtype)
        y = conv(self.features, (1, 1), dtype=self.dtype, name="conv1")(x)
        y = nn.relu(norm(name="bn1")(y))
        dilation = self.dilations[0]
        y = conv3(self.features, self.stride, dilation, dtype=self.dtype, name="conv2")(y)
        y = nn.relu(norm(name="bn2")(y))
        y = conv(4 * self.features, (1, 1), dtype=self.dtype, name="conv3")(y)
        y = norm(name="bn3")(y)
        branch = drop_path(self, y, rate=self.drop_path)
        return nn.relu(branch + shortcut(x, y, self.stride, norm))


def shortcut(
    x: Float[Array, "b h w c"], y: Float[Array, "b H W f"], stride: int, norm: Callable
) -> Float[Array, "b H W f"]:
    """Returns `x`, through a 1x1 convolution where the block changed its shape."""
    if x.shape == y.shape:
        return x
    projection = conv(y.shape[-1], (1, 1), stride, dtype=y.dtype, name="downsample_conv")
    return norm(name="downsample_bn")(projection(x))


class AtrousBlock(nn.Module):
    """Stands in for a pooling without its stride: parallel 3x3 convolutions of rising dilation.

    As DeepLabv3's pyramid (Chen et al. 2017, section 3.3): the branches are concatenated and
    projected. The shortcut hands pretrained stages after it the features that they know.
    """

    dtype: Any
    dilations = (1, 2, 4)

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        norm = partial(BatchNorm, train=train, dtype=self.dtype)
        features, branches = x.shape[-1], []
        for i, dilation in enumerate(self.dilations, 1):
            y = conv3(features, 1, dilation, dtype=self.dtype, name=f"conv{i}")(x)
            branches.append(nn.relu(norm(name=f"bn{i}")(y)))
        y = jnp.concatenate(branches, axis=-1)  # b h w 3c
        y = conv(features, (1, 1), dtype=self.dtype, name="project_conv")(y)
        return nn.relu(x + norm(name="project_bn")(y))


class ResNet(nn.Module):
    """A ResNet without its classifier; docs/encoders.md explains its options.

    Returns the input and five features: the stem's at stride 2 and one a stage, the last at stride
    `output_stride`; for 32 and the stem's pooling they are at 2, 4, 8, 16 and 32. Submodules bear
    the names of PyTorch's `state_dict`, so that weights convert key by key, and no option but the
    atrous stem adds or reshapes any. `width` is the number of features of the stem, 64 in the
    paper. `remat`, which holds for the decoder too: see `run_block`; `drop_path`, the rate of the
    last block: see `drop_path` and `depth_rates`.
    """

    blocks: tuple[int, int, int, int]
    block: type[BasicBlock] | type[Bottleneck]
    width: int
    dtype: Any
    output_stride: int
    stem_pool: str  # of STEM_STRIDES
    layer4: str  # of LAYER4_RATES
    multi_grid: tuple[int, ...]
    remat: bool
    drop_path: float

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Features:
        norm = partial(BatchNorm, train=train, dtype=self.dtype)
        features = [x]
        x = conv(self.width, (7, 7), 2, padding=3, dtype=self.dtype, name="conv1")(x)
        x = nn.relu(norm(name="bn1")(x))
        features.append(x)  # b h/2 w/2 width
        if self.stem_pool == "max":
            x = max_pool(x)
        elif self.stem_pool == "atrous":
            block = AtrousBlock(self.dtype, name="stem_atrous")
            x = run_block(block, x, train=train, remat=self.remat)
        rates = iter(depth_rates(self.drop_path, sum(self.blocks)))
        for stage, plan in enumerate(self.plan()):
            make_block = partial(self.block, self.width * 2**stage, dtype=self.dtype)
            for i, (stride, dilations) in enumerate(plan):
                block = make_block(
                    stride=stride,
                    dilations=dilations,
                    drop_path=next(rates),
                    name=f"layer{stage + 1}_{i}",
                )
                x = run_block(block, x, train=train, remat=self.remat)
            features.append(x)  # width * 2^stage * expansion
        return features

    def plan(self) -> list[list[tuple[int, Dilations]]]:
        """Returns stride and dilations of each stage's blocks.

        A stride that would lead beyond `output_stride` becomes a dilation of all that follows. The
        convolution that had the stride keeps the dilation before it: so each takes the pixels that
        it took in the strided network (Chen et al. 2017, section 3.1).
        """
        self.check_options()
        reached, dilation, plan = STEM_STRIDES[self.stem_pool], 1, []
        for depth, stride in zip(self.blocks, (1, 2, 2, 2), strict=True):
            before = dilation
            if reached * stride > self.output_stride:
                stride, dilation = 1, dilation * stride
            reached *= stride
            plan.append([(stride, (before, dilation))] + [(1, (dilation, dilation))] * (depth - 1))
        factor = LAYER4_RATES[self.layer4]
        plan[3] = [
            (stride, (first * rate * factor, second * rate * factor))
            for (stride, (first, second)), rate in zip(plan[3], self.multi_grid, strict=False)
        ]
        return plan

    def check_options(self) -> None:
        """Raises InputError for options that are unknown or exclude each other."""
        choose("model.stem_pool", self.stem_pool, STEM_STRIDES)
        choose("model.layer4", self.layer4, LAYER4_RATES)
        natural = 8 * STEM_STRIDES[self.stem_pool]
        possible = [stride for stride in OUTPUT_STRIDES if stride <= natural]
        if self.output_stride not in possible:
            raise InputError(
                f"config.model.output_stride={self.output_stride}: must be one of "
                f"{', '.join(map(str, possible))} with config.model.stem_pool={self.stem_pool!r}"
            )
        if self.layer4 == "reference_dilated" and self.output_stride != natural:
            raise InputError(
                "config.model.layer4='reference_dilated' keeps layer4's stride, which "
                f"config.model.output_stride={self.output_stride} replaces; set it to {natural}, "
                "or model.layer4 to 'standard'"
            )
        depth = self.blocks[3]
        if len(self.multi_grid) < depth:
            raise InputError(
                f"config.model.multi_grid={self.multi_grid}: must hold a factor for each of "
                f"layer4's {depth} blocks; {(1,) * depth} changes nothing"
            )

    def published_name(self, path: LeafPath) -> str:
        """Returns the name in PyTorch's ResNets of a leaf's module and the leaf's own name."""
        _, *modules, leaf = path
        name = re.sub(r"(layer\d)_(\d+)", r"\1.\2", ".".join([*modules, leaf]))
        return re.sub("downsample_(conv|bn)", lambda m: DOWNSAMPLE[m[1]], name)

    def common_name(self, name: str) -> str:
        """Returns the name itself: files of ResNets agree."""
        return name

    def is_fresh(self, path: LeafPath, shape: tuple[int, ...]) -> bool:
        """Says whether published weights leave this leaf as it was initialised."""
        replaced = self.layer4 == "reference_dilated" and path[1].startswith("layer4_")
        return path[1] == "stem_atrous" or (replaced and shape[:2] == (3, 3))

    def stages_after(self, path: LeafPath) -> int:
        """Returns how many stages come after a leaf's: 0 in layer4, 4 in the stem."""
        if path[1] == "stem_atrous":  # in place of layer1's pooling
            return 3
        layer = re.match(r"layer(\d)", path[1])
        return 4 - int(layer[1]) if layer else 4


OUTPUT_STRIDES = (8, 16, 32)
STEM_STRIDES = {"max": 4, "atrous": 2, "none": 2}  # of what follows the stem
LAYER4_RATES = {"standard": 1, "reference_dilated": 2}
DOWNSAMPLE = {"conv": "downsample.0", "bn": "downsample.1"}

FAMILY = {
    "resnet18": partial(ResNet, (2, 2, 2, 2), BasicBlock),
    "resnet34": partial(ResNet, (3, 4, 6, 3), BasicBlock),
    "resnet50": partial(ResNet, (3, 4, 6, 3), Bottleneck),
}
