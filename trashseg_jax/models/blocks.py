"""What encoders and the decoder are built of."""

from functools import partial
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

Features = list[Float[Array, "b _ _ _"]]

# Padding is explicit, never 'SAME': at stride 2 'SAME' samples other pixels than PyTorch's
# convolutions do, and pretrained weights would give other features.
conv = partial(nn.Conv, use_bias=False, kernel_init=nn.initializers.he_normal())


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
