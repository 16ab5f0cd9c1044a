"""Where an image's pixels come from: crops, and one warp for rotation, scale and perspective."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, UInt8

from trashseg_jax.data.taxonomy import IGNORE_LABEL
from trashseg_jax.devices.compiling import on_cpu

LOOPS = 4  # parts in which pixels are gathered, one after the other
Batch = dict[str, Array]  # see steps.Batch
Neighbours = tuple[Array, Array, Array]  # see _neighbours
# A homography of (x, y, 1) in pixels, pixel i from i to i + 1.
Matrix = Float[Array, "*n 3 3"]


def pixel_maps(batch: Batch) -> Batch:
    """Returns what holds a value for each pixel: image, label, and what a later key may add."""
    size = batch["label"].shape[:3]
    return {name: value for name, value in batch.items() if value.shape[:3] == size}


def mark_content(batch: Batch) -> Batch:
    """Adds `content` bool[b,s,s], False for the padding below and right of `size`.

    Its label tells padding from content no better than from what is ignored in the content.
    """
    if "size" not in batch:
        return dict(batch)
    height, width = batch["size"][:, 0, None, None], batch["size"][:, 1, None, None]
    row, column = jnp.indices(batch["label"].shape[1:])
    return {**batch, "content": (row < height) & (column < width)}


def where_any(asked: Array, change: Callable[[Array], Array], values: Array) -> Array:
    """Returns `change(values)`, or `values` where no image asks for it.

    On CPUs for the sake of what it stores, the values: of a single expression XLA for CPUs would
    compute each anew for everything that reads it. GPUs would wait for the answer.
    """
    if not on_cpu():
        return change(values)
    return jax.lax.cond(jnp.any(asked != 0), change, lambda values: values, values)


def blank(batch: Batch, seen: Bool[Array, "b h w"]) -> Batch:
    """Makes what is not `seen` black, and ignored: nobody could tell its class."""
    image = jnp.where(seen[..., None], batch["image"], 0)
    return {**batch, "image": image, "label": jnp.where(seen, batch["label"], IGNORE_LABEL)}


def scale_crops(batch: Batch) -> Batch:
    """Scales the upper left `crop` i32[b,2], height and width, of each row to fill the square.

    The image bilinearly, all else to the nearest pixel, as tf.image.resize does. Only ever up:
    smaller scales would need antialiasing.
    """
    batch = dict(batch)
    crop = batch.pop("crop")
    maps = pixel_maps(batch)
    image = maps.pop("image")
    size = image.shape[1]
    sources = jax.vmap(partial(_sources, size=size))
    rows, columns = sources(crop[:, 0]), sources(crop[:, 1])

    def scale_row(row):
        return jax.vmap(_scale_row)(image, maps, row, columns)

    # A loop's result is stored. Of a single expression XLA for CPUs would compute each pixel anew
    # for everything that reads it: flip, luma and each jitter.
    rows = jax.tree.map(jnp.transpose, rows)
    scaled = jax.lax.map(scale_row, rows, batch_size=-(-size // LOOPS))
    image, maps = jax.tree.map(lambda rows: rows.swapaxes(0, 1), scaled)
    return {**batch, **maps, "image": image}


def _sources(length: Int32[Array, ""], *, size: int) -> tuple[Neighbours, Int32[Array, "s"]]:
    """Returns, for each of `size` pixels, what it is made of when `length` are scaled to it.

    The two around its centre, and the nearest.
    """
    place = (jnp.arange(size) + 0.5) * (length / size)
    return _neighbours(place, length), nearest_pixels(length, size=size)


def nearest_pixels(length: int | Int32[Array, ""], *, size: int) -> Int32[Array, "s"]:
    """Returns, of `length` pixels scaled to `size`, those that the new ones' centres lie in."""
    return (2 * jnp.arange(size) + 1) * length // (2 * size)


def _scale_row(
    image: UInt8[Array, "s s 3"],
    maps: dict[str, Array],
    row: tuple[Neighbours, Array],
    columns: tuple[Neighbours, Array],
) -> tuple[UInt8[Array, "s 3"], dict[str, Array]]:
    (lines, nearest_row), (places, nearest_column) = row, columns
    scaled = _interpolate(image, lines, places)
    return scaled, {name: value[nearest_row, nearest_column] for name, value in maps.items()}


def _interpolate(
    image: UInt8[Array, "s s 3"], rows: Neighbours, columns: Neighbours
) -> UInt8[Array, "s 3"]:
    """Interpolates a row's pixels bilinearly.

    Each from its four corners: blending rows first costs CPUs twice as much.
    """
    (top, bottom, below), (left, right, beside) = rows, columns
    above, under = (
        _blend(image[line, left], image[line, right], beside[:, None]) for line in (top, bottom)
    )
    return jnp.round(_blend(above, under, below[..., None])).astype(jnp.uint8)


def _blend(a: Array, b: Array, share: Array) -> Float[Array, "..."]:
    a = a.astype(jnp.float32)
    return a + (b - a) * share


def warp(batch: Batch, frames: Float[Array, "b 3 3"]) -> Batch:
    """Moves each pixel of the square that is trained on as its image's homography says.

    The image bilinearly, all else to the nearest pixel. What comes from outside the image is black
    and ignored, and `content` False. Crops are scaled to fill the square by the same gather. Not
    antialiased, as OpenCV's warpPerspective is not.
    """
    batch = dict(batch)
    size = batch["label"].shape[1]
    extent = batch.get("crop", _shown(batch))
    back = adjugate(frames)
    if "crop" in batch:
        back = _compose(_scaling(batch.pop("crop") / size), back)
    maps = pixel_maps(batch)
    image = maps.pop("image")

    def warp_row(row):
        return jax.vmap(partial(_warp_row, row))(image, maps, back, extent)

    # In parts, for the reason given in scale_crops.
    rows = jax.lax.map(warp_row, jnp.arange(size), batch_size=-(-size // LOOPS))
    moved = jax.tree.map(lambda rows: rows.swapaxes(0, 1), rows)
    return blank({**batch, **moved}, moved["content"])  # in the loop it would cost CPUs the double


def _warp_row(
    row: Int32[Array, ""],
    image: UInt8[Array, "s s 3"],
    maps: dict[str, Array],
    back: Matrix,
    extent: Int32[Array, "2"],
) -> dict[str, Array]:
    """Returns a row of the result, and as `content` where it shows the image."""
    column = jnp.arange(image.shape[1]) + 0.5
    x, y, w = (line[0] * column + line[1] * (row + 0.5) + line[2] for line in back)
    x, y = x / w, y / w
    inside = (x >= 0) & (y >= 0) & (x < extent[1]) & (y < extent[0])
    x, y = jnp.where(inside, x, 0), jnp.where(inside, y, 0)  # may be infinite outside
    warped = _interpolate(image, _neighbours(y, extent[0]), _neighbours(x, extent[1]))
    nearest = y.astype(jnp.int32), x.astype(jnp.int32)
    moved = {name: value[nearest] for name, value in maps.items()}
    return {**moved, "image": warped, "content": inside}


def _neighbours(place: Array, length: Array) -> Neighbours:
    """Returns the pixels whose centres are before and behind, and the second's share."""
    centre = jnp.clip(place - 0.5, 0, length - 1)
    low = centre.astype(jnp.int32)
    return low, jnp.minimum(low + 1, length - 1), centre - low


def draw_frames(
    keys: dict[str, jax.Array], batch: Batch, amounts: dict[str, Any]
) -> Float[Array, "b 3 3"]:
    """Returns a homography for each image: those of WARPS that have a key, in turn."""
    extent = _shown(batch).astype(jnp.float32)
    frames = _translation(-extent / 2)  # all about the middle
    for name, draw in WARPS.items():
        if name in keys:
            image_keys = jax.random.split(keys[name], len(extent))
            drawn = jax.vmap(partial(draw, amount=amounts[name]))(image_keys, extent)
            frames = _compose(drawn, frames)
    return _compose(_translation(extent / 2), frames)


def _shown(batch: Batch) -> Int32[Array, "b 2"]:
    """Returns height and width of the image's part of the square, before a warp."""
    shape = batch["label"].shape
    whole = jnp.broadcast_to(jnp.array(shape[1:], jnp.int32), (shape[0], 2))
    return whole if "crop" in batch else batch.get("size", whole)


def draw_rotation(key: jax.Array, extent: Float[Array, "2"], *, amount: float) -> Matrix:
    """Turns by an angle uniform in [-amount, amount] degrees."""
    del extent
    return rotation(jnp.deg2rad(jax.random.uniform(key, minval=-amount, maxval=amount)))


def draw_scale(key: jax.Array, extent: Float[Array, "2"], *, amount: tuple[float, float]) -> Matrix:
    """Scales by a factor uniform in `amount`, and moves by as much as the two sizes differ.

    So a smaller image lies anywhere in the square, and of a larger one any part fills it, as after
    MMSegmentation's RandomResize and RandomCrop.
    """
    factor_key, place_key = jax.random.split(key)
    factor = jax.random.uniform(factor_key, minval=amount[0], maxval=amount[1])
    place = jax.random.uniform(place_key, (2,), minval=-0.5, maxval=0.5)
    shift = _translation(place * jnp.abs(1 - factor) * extent)
    return _compose(shift, _scaling(jnp.stack([factor, factor])))


def draw_perspective(key: jax.Array, extent: Float[Array, "2"], *, amount: float) -> Matrix:
    """Moves each corner inwards, along both sides by a share of their halves up to `amount`.

    As torchvision's RandomPerspective with this distortion_scale.
    """
    corners = jnp.array([(0, 0), (1, 0), (1, 1), (0, 1)], jnp.float32)
    moves = jax.random.uniform(key, (4, 2), maxval=amount / 2)
    moved = square_to_quad(corners + moves * (1 - 2 * corners))
    middle = jnp.array([0.5, 0.5])
    # From pixels about the middle to shares of the sides, and back.
    shares = _compose(_translation(middle), _scaling(1 / extent))
    return _compose(_compose(_scaling(extent), _translation(-middle)), _compose(moved, shares))


def rotation(angle: Float[Array, ""]) -> Matrix:
    """Turns counterclockwise about the origin, by radians, as seen with y downwards."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return _matrix([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])


def square_to_quad(corners: Float[Array, "4 2"]) -> Matrix:
    """Maps the unit square's corners, (0, 0), (1, 0), (1, 1), (0, 1), to these.

    Heckbert 1989, Fundamentals of Texture Mapping and Image Warping, section 2.2.3.
    """
    first, second, third, fourth = corners
    a, b = second - third, fourth - third
    excess = first - second + third - fourth
    area = _cross(a, b)
    g, h = _cross(excess, b) / area, _cross(a, excess) / area
    columns = second - first + g * second, fourth - first + h * fourth, first
    x, y = jnp.stack(columns, -1)
    return jnp.stack([x, y, jnp.stack([g, h, jnp.ones(())])])


def _cross(a: Float[Array, "2"], b: Float[Array, "2"]) -> Float[Array, ""]:
    return a[0] * b[1] - a[1] * b[0]


def adjugate(matrix: Matrix) -> Matrix:
    """Returns the inverse but for a factor, which homographies do not have."""
    a, b, c = jnp.moveaxis(matrix, -1, 0)
    return jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], -2)


def _translation(by: Float[Array, "*n 2"]) -> Matrix:
    return _matrix([[1, 0, by[..., 1]], [0, 1, by[..., 0]], [0, 0, 1]])


def _scaling(by: Float[Array, "*n 2"]) -> Matrix:
    return _matrix([[by[..., 1], 0, 0], [0, by[..., 0], 0], [0, 0, 1]])


def _matrix(rows: list[list[Any]]) -> Matrix:
    entries = jnp.broadcast_arrays(*[jnp.asarray(e, jnp.float32) for row in rows for e in row])
    return jnp.stack(entries, -1).reshape(*entries[0].shape, 3, 3)


def _compose(after: Matrix, before: Matrix) -> Matrix:
    # GPUs would multiply with 10 bits, half a pixel of 512.
    return jnp.matmul(after, before, precision=jax.lax.Precision.HIGHEST)


# The options of config.data.augment that say where a pixel goes, about the image's middle: drawn
# in this order and composed, so that all of them cost one gather.
WARPS: dict[str, Callable[..., Matrix]] = {
    "rotation": draw_rotation,
    "scale": draw_scale,
    "perspective": draw_perspective,
}
