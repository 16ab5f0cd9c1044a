"""U-Net (Ronneberger et al. 2015) on a ResNet, as segmentation_models_pytorch builds it."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from trashseg_jax.errors import InputError
from trashseg_jax.models.resnet import ResNet, conv, make_norm


class UpBlock(nn.Module):
    """Upsamples `x` by two, concatenates the skip if there is one, then two conv-BN-ReLU.

    A skip of `x`'s own size, as a dilated encoder gives, needs no upsampling.
    """

    features: int
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], skip: Float[Array, "b H W s"] | None, *, train: bool
    ) -> Float[Array, "b H W f"]:
        norm = make_norm(train=train, dtype=self.dtype)
        if skip is None or skip.shape[1:3] != x.shape[1:3]:
            x = upsample(x)
        if skip is not None:
            x = jnp.concatenate([x, skip], axis=-1)  # b H W c+s
        for i in (1, 2):
            x = conv(self.features, (3, 3), padding=1, dtype=self.dtype, name=f"conv{i}")(x)
            x = nn.relu(norm(name=f"bn{i}")(x))
        return x


class UNet(nn.Module):
    """Encoder, five up-blocks, 3x3 head.

    `image` is normalised; its height and width must be multiples of the encoder's output stride.
    The logits are float32 whatever `dtype` the convolutions compute in; parameters and statistics
    are float32.
    """

    encoder: ResNet
    num_classes: int
    decoder_features: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], *, train: bool) -> Float[Array, "b h w k"]:
        check_size(*image.shape[1:3], multiple=self.encoder.output_stride)
        _, *skips, x = self.encoder(image.astype(self.dtype), train=train)
        for i, features in enumerate(self.decoder_features):
            skip = skips.pop() if skips else None
            x = UpBlock(features, self.dtype, name=f"up{i + 1}")(x, skip, train=train)
        logits = nn.Conv(self.num_classes, (3, 3), padding=1, dtype=self.dtype, name="head")(x)
        return logits.astype(jnp.float32)


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Doubles height and width, repeating pixels (nearest). Unlike a resize it needs no gather."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)


def check_size(height: int, width: int, *, multiple: int) -> None:
    """Raises InputError, naming the next possible size, unless both are multiples of `multiple`."""
    if height % multiple or width % multiple:
        up = [-(-side // multiple) * multiple for side in (height, width)]
        raise InputError(
            f"image size {height}x{width}: height and width must be multiples of {multiple}, the "
            f"encoder's output stride; resize or pad to {up[0]}x{up[1]}"
        )
