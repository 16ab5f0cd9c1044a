"""What a U-Net needs of an encoder, and the encoders there are."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from jaxtyping import Array, Float

from trashseg_jax.models import efficientnet_lite, resnet
from trashseg_jax.models.blocks import Features
from trashseg_jax.models.pretrained import LeafPath


@runtime_checkable
class Encoder(Protocol):
    """A Flax module that returns its input and features at rising strides.

    The last one's stride is `output_stride`; neighbours' differ by a factor of two or not at all.
    With `remat` its blocks, and the decoder's, are computed again in the backward pass. `train`
    says which statistics BatchNorm uses; residual branches are left out, up to the rate
    `drop_path`, where there is a "dropout" key (see blocks.drop_path), whatever `train` is.
    """

    output_stride: int
    remat: bool
    drop_path: float

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Features: ...

    def check_options(self) -> None:
        """Raises InputError for options that it lacks or that exclude each other."""
        ...

    def published_name(self, path: LeafPath) -> str:
        """Returns what published files call a leaf of its variables (see pretrained.LEAVES)."""
        ...

    def common_name(self, name: str) -> str:
        """Returns the published name of a weight that some libraries' files call otherwise."""
        ...

    def is_fresh(self, path: LeafPath, shape: tuple[int, ...]) -> bool:
        """Says whether published weights leave this leaf as it was initialised."""
        ...

    def stages_after(self, path: LeafPath) -> int:
        """Returns how many stages come after a leaf's: 0 in the last; each gives a feature."""
        ...


# What config.model.encoder may be. Each makes an Encoder of the options of `config.model` that are
# an encoder's: width, output_stride, stem_pool, layer4, multi_grid and dtype, and of those of
# `config.train` that are: remat and drop_path.
ENCODERS: dict[str, Callable[..., Encoder]] = {
    **resnet.FAMILY,
    **efficientnet_lite.FAMILY,
}
