"""What JPEG does to an image, on the device: all that loses something, and no file."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

SIDE = 8  # of a block
# Quantisation of luma and chroma at quality 50: ITU-T T.81, tables K.1 and K.2.
LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
CHROMA = np.full((SIDE, SIDE), 99)
CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]


def compress(image: Float[Array, "b h w 3"], quality: Float[Array, "b"]) -> Float[Array, "b h w 3"]:
    """Returns what is left of RGB in 0..255 at libjpeg's `quality` in 1..100.

    Chroma is stored for 2x2 pixels (4:2:0), as cameras and Pillow do by default.
    """
    height, width = image.shape[1:3]
    pad = [(0, 0), (0, -height % (2 * SIDE)), (0, -width % (2 * SIDE)), (0, 0)]
    luma, blue, red = _to_ycbcr(jnp.pad(image, pad, "edge"))
    luma = _quantize(luma, LUMA, quality)
    blue, red = (_double(_quantize(_halve(plane), CHROMA, quality)) for plane in (blue, red))
    return _to_rgb(luma, blue, red)[:, :height, :width]


def _to_ycbcr(image: Float[Array, "b h w 3"]) -> tuple[Array, Array, Array]:
    """Returns the planes of JFIF 1.02, whole numbers about 0."""
    red, green, blue = (image[..., i] for i in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    blue, red = (blue - luma) / 1.772, (red - luma) / 1.402
    return jnp.round(luma - 128), jnp.round(blue), jnp.round(red)


def _to_rgb(luma: Array, blue: Array, red: Array) -> Float[Array, "b h w 3"]:
    luma = luma + 128
    green = luma - (0.114 * 1.772 * blue + 0.299 * 1.402 * red) / 0.587
    return jnp.clip(jnp.stack([luma + 1.402 * red, green, luma + 1.772 * blue], -1), 0, 255)


def _halve(plane: Float[Array, "b h w"]) -> Float[Array, "b H W"]:
    batch, height, width = plane.shape
    return plane.reshape(batch, height // 2, 2, width // 2, 2).mean((2, 4))


def _double(plane: Float[Array, "b h w"]) -> Float[Array, "b H W"]:
    """Scales up bilinearly, as libjpeg's fancy upsampling does."""
    batch, height, width = plane.shape
    return jax.image.resize(plane, (batch, 2 * height, 2 * width), "linear")


def _quantize(
    plane: Float[Array, "b h w"], table: np.ndarray, quality: Float[Array, "b"]
) -> Float[Array, "b h w"]:
    """Rounds the cosine transform of each block to multiples of the scaled table."""
    batch, height, width = plane.shape
    blocks = plane.reshape(batch, height // SIDE, SIDE, width // SIDE, SIDE)
    blocks = blocks.transpose(0, 1, 3, 2, 4).reshape(batch, -1, SIDE * SIDE)
    steps = _scale_table(table.reshape(-1), quality)[:, None]  # b 1 64
    transform = _transform()
    rounded = jnp.round(_matmul(blocks, transform) / steps) * steps
    blocks = _matmul(rounded, transform.T)
    blocks = blocks.reshape(batch, height // SIDE, width // SIDE, SIDE, SIDE)
    plane = jnp.clip(jnp.round(blocks), -128, 127)
    return plane.transpose(0, 1, 3, 2, 4).reshape(batch, height, width)


def _scale_table(table: np.ndarray, quality: Float[Array, "b"]) -> Float[Array, "b 64"]:
    """Returns the table at `quality`, as libjpeg's jpeg_quality_scaling does."""
    percent = jnp.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, None]
    return jnp.clip(jnp.floor((table * percent + 50) / 100), 1, 255)


def _transform() -> np.ndarray:
    """Returns f32[64,64], a block's pixels to its orthonormal two-dimensional DCT-II."""
    place, wave = np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")
    cosine = np.sqrt(2 / SIDE) * np.cos((2 * place + 1) * wave * np.pi / (2 * SIDE))
    cosine[:, 0] /= np.sqrt(2)
    return np.kron(cosine, cosine).astype(np.float32)


def _matmul(a: Array, b: np.ndarray) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
