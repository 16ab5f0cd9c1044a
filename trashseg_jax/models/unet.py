"""U-Net (Ronneberger et al. 2015) on any encoder, as segmentation_models_pytorch builds it."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from trashseg_jax.errors import InputError
from trashseg_jax.models.blocks import conv, run_block
from trashseg_jax.models.convolution import conv_general_dilated
from trashseg_jax.models.encoders import ENCODERS, Encoder
from trashseg_jax.models.normalization import BatchNorm
from trashseg_jax.models.upsampling import UpConv
from trashseg_jax.settings import choose

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
# The options of `config.train` that a network has, as they are of one that isn't trained. They add
# no variable and change no prediction.
UNTRAINED = {"remat": False, "drop_path": 0.0, "dropout": 0.0, "hold_statistics": False}


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
        norm = partial(BatchNorm, train=train, dtype=self.dtype)
        conv3 = partial(conv, self.features, (3, 3), padding=1, dtype=self.dtype)
        if skip is not None and skip.shape[1:3] == x.shape[1:3]:
            x = conv3(name="conv1")(jnp.concatenate([x, skip], axis=-1))  # b H W c+s
        else:
            x = UpConv(self.features, self.dtype, name="conv1")(x, skip)
        x = nn.relu(norm(name="bn1")(x))
        x = conv3(name="conv2")(x)
        return nn.relu(norm(name="bn2")(x))


class UNet(nn.Module):
    """Encoder, five up-blocks, dropout of whole channels, 3x3 head.

    With `hold_statistics` the encoder's BatchNorm uses its running statistics in training too, and
    leaves them as they are. `dropout` (Tompson et al. 2015, as smp's FPN has it before its head),
    and the encoder's `drop_path`, happen where `apply` is given a "dropout" key.

    `image` is normalised; its height and width must be multiples of the encoder's output stride.
    The logits are float32 whatever `dtype` the convolutions compute in; parameters and statistics
    are float32.
    """

    encoder: Encoder
    num_classes: int
    decoder_features: tuple[int, ...]
    dtype: Any
    dropout: float
    hold_statistics: bool

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], *, train: bool) -> Float[Array, "b h w k"]:
        check_size(*image.shape[1:3], multiple=self.encoder.output_stride)
        moments = train and not self.hold_statistics  # of the batch, in the encoder
        _, *skips, x = self.encoder(image.astype(self.dtype), train=moments)
        for i, features in enumerate(self.decoder_features):
            skip = skips.pop() if skips else None
            block = UpBlock(features, self.dtype, name=f"up{i + 1}")
            x = run_block(block, x, skip, train=train, remat=self.encoder.remat)
        if self.dropout and self.has_rng("dropout"):
            x = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=False)(x)
        logits = nn.Conv(
            self.num_classes,
            (3, 3),
            padding=1,
            dtype=self.dtype,
            conv_general_dilated=conv_general_dilated,
            name="head",
        )(x)
        return logits.astype(jnp.float32)


def make_unet(
    *,
    num_classes: int,
    encoder: str,
    decoder_features: tuple[int, ...],
    dtype: str,
    dropout: float,
    hold_statistics: bool,
    **options: Any,
) -> UNet:
    """Returns the U-Net of the options of `config.model` and those named in UNTRAINED.

    Those not named here are the encoder's.
    Raises InputError for options that are unknown or exclude each other.
    """
    compute = choose("model.dtype", dtype, DTYPES)
    built = choose("model.encoder", encoder, ENCODERS)(dtype=compute, **options)
    built.check_options()  # now, not when the run has begun
    return UNet(built, num_classes, decoder_features, compute, dropout, hold_statistics)


def check_size(height: int, width: int, *, multiple: int) -> None:
    """Raises InputError, naming the next possible size, unless both are multiples of `multiple`."""
    if height % multiple or width % multiple:
        up = [-(-side // multiple) * multiple for side in (height, width)]
        raise InputError(
            f"image size {height}x{width}: height and width must be multiples of {multiple}, the "
            f"encoder's output stride; resize or pad to {up[0]}x{up[1]}"
        )
