"""What encoders and the decoder are built of."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trashseg_jax.models.convolution import conv_general_dilated

Features = list[Float[Array, "b _ _ _"]]

# Padding is explicit, never 'SAME': at stride 2 'SAME' samples other pixels than PyTorch's
# convolutions do, and pretrained weights would give other features.
conv = partial(
    nn.Conv,
    padding=0,
    use_bias=False,
    kernel_init=nn.initializers.he_normal(),
    conv_general_dilated=conv_general_dilated,
)


def conv3(features: int, stride: int, dilation: int, *, dtype: Any, name: str) -> nn.Conv:
    """Returns a 3x3 convolution whose padding keeps the size, but for the stride."""
    return conv(
        features,
        (3, 3),
        stride,
        padding=dilation,
        kernel_dilation=dilation,
        dtype=dtype,
        name=name,
    )


def run_block(block: nn.Module, *inputs: Any, train: bool, remat: bool) -> Any:
    """Calls a block; with `remat` only its inputs are kept for the backward pass.

    What happens in it is then computed a second time (Chen et al. 2016): memory for time.
    """

    def run(block, *inputs):
        return block(*inputs, train=train)

    return (nn.remat(run) if remat else run)(block, *inputs)


def depth_rates(rate: float, blocks: int) -> list[float]:
    """Returns each block's rate of stochastic depth: rising linearly to the last one's, `rate`.

    The first one's is `rate / blocks` (Huang et al. 2016, equation 4).
    """
    return [rate * (block + 1) / blocks for block in range(blocks)]


def drop_path(
    module: nn.Module, branch: Float[Array, "b h w c"], *, rate: float
) -> Float[Array, "b h w c"]:
    """Stochastic depth (Huang et al. 2016): leaves a residual branch out, by example.

    Happens where `apply` is given a "dropout" key, so never in evaluation. What stays is divided by
    `1 - rate`, which keeps the expectation; the paper scales in evaluation instead.
    """
    if not rate or not module.has_rng("dropout"):
        return branch
    stays = jax.random.bernoulli(module.make_rng("dropout"), 1 - rate, (len(branch), 1, 1, 1))
    return jnp.where(stays, branch / (1 - rate), 0)
