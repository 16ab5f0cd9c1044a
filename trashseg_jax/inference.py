"""From photographs of any size to classes, one way for evaluation and prediction.

Needs no TensorFlow.
"""

import collections
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Float16, Int32, UInt8

from trashseg_jax.ahead import batched, map_ahead, one_behind
from trashseg_jax.data import scaling
from trashseg_jax.devices.compiling import compiler_options
from trashseg_jax.settings import choose

SCALINGS = ("fit", "tile")  # what `eval.scale` may be
TTA = ("flip", "scales")  # what `eval.tta` may name
SCALES = (1.0, 0.75, 1.25)  # of "scales"; the first is the plain one
BLOCK = 256  # pixels of the output, about, that a device works on at a time; few behind its border
IN_FLIGHT = 4  # blocks that may wait for the device, or for being fetched
OVERLAP = 0.25  # share of a window's side that the next one covers too

Size = tuple[int, int]  # height, width
Logits = Float[Array, "b s s k"]


class Segmented(NamedTuple):
    """A photograph's pixels, at its own size."""

    classes: UInt8[np.ndarray, "h w"]
    confidence: Float16[np.ndarray, "h w"]  # the probability of the class
    probs: Float16[np.ndarray, "h w k"] | None


class View(NamedTuple):
    """One way in which the network sees a photograph; the first is the plain one."""

    side: int
    flip: bool


class Fitted(NamedTuple):
    """A photograph as its views see it: scaled, padded, and what of that is no padding."""

    size: Size
    images: tuple[UInt8[np.ndarray, "s s 3"], ...]
    valid: tuple[Size, ...]


class Segmenter:
    """Segments photographs with a model's `variables`, on the devices that these lie on.

    `scale` "fit" scales a photograph's longer side to `image_size`, and the logits back. "tile"
    shows the network overlapping windows of `image_size` at the photograph's own scale. `tta`,
    names of TTA, averages the probabilities of several views. Variables on the host go to all
    devices of this process.
    """

    def __init__(
        self,
        model: nn.Module,
        variables: Any,
        *,
        normalize: Callable[[Array], Array],
        num_classes: int,
        image_size: int,
        scale: str,
        tta: tuple[str, ...],
        batch_size: int,
        keep_probs: bool = False,
    ):
        self.tiles = choose("scale", scale, {name: name == "tile" for name in SCALINGS})
        self.views = make_views(model, image_size=image_size, tta=tta)
        self.image_size, self.num_classes, self.keep_probs = image_size, num_classes, keep_probs
        self._mesh = local_mesh(variables)
        self._variables = jax.device_put(
            jax.tree.map(local_copy, variables), NamedSharding(self._mesh, PartitionSpec())
        )
        self.batch_size = -(-batch_size // self._mesh.size) * self._mesh.size
        self._apply = jax.jit(
            lambda variables, images: model.apply(variables, normalize(images), train=False),
            compiler_options=compiler_options(),
        )

    def segment(self, images: Iterator[UInt8[np.ndarray, "_ _ 3"]]) -> Iterator[Segmented]:
        """Yields what each photograph shows, in their order."""
        if self.tiles:
            yield from map(self.segment_tiles, images)
            return
        # The device works on a group while the one before is written.
        groups = batched(map_ahead(self.fit, images), self.batch_size)
        for group, logits in one_behind((group, self.view_logits(group)) for group in groups):
            yield from self.segment_fitted(group, logits)

    def fit(self, image: UInt8[np.ndarray, "h w 3"]) -> Fitted:
        """Scales and pads a photograph for each view; any thread may."""
        scaled = {
            side: scaling.fit_photo(image, side)
            for side in dict.fromkeys(view.side for view in self.views)
        }
        seen = [scaled[side][:, ::-1] if flip else scaled[side] for side, flip in self.views]
        padded = [scaling.pad_photo(a, v.side) for a, v in zip(seen, self.views, strict=True)]
        return Fitted(image.shape[:2], tuple(padded), tuple(a.shape[:2] for a in seen))

    def view_logits(self, group: Sequence[Fitted]) -> list[Array]:
        """Returns the logits of a group of up to `batch_size`, by view, still on the devices."""
        columns = zip(*(fitted.images for fitted in group), strict=True)
        return [self.logits(np.stack(images)) for images in columns]

    def logits(self, images: UInt8[np.ndarray, "n s s 3"]) -> Logits:
        """Returns the logits of up to `batch_size` images and, as many as are missing, of black."""
        return self._apply(self._variables, self.put(images, fill=0))

    def put(self, rows: UInt8[np.ndarray, "n *_"], *, fill: int) -> UInt8[Array, "b *_"]:
        """Puts rows, and those that are missing, onto the devices as `logits` has them."""
        missing = self.batch_size - len(rows)
        rows = np.pad(rows, [(0, missing), *[(0, 0)] * (rows.ndim - 1)], constant_values=fill)
        return jax.device_put(rows, NamedSharding(self._mesh, PartitionSpec("data")))

    # Fitted photographs.

    def segment_fitted(
        self, group: Sequence[Fitted], logits: Sequence[Array]
    ) -> Iterator[Segmented]:
        """Yields what a group's photographs show, of their views' logits."""
        by_view = zip(*map(rows_of, logits), strict=True)
        flips = tuple(view.flip for view in self.views)
        for fitted, rows in zip(group, by_view, strict=False):  # behind the group: black
            valid = [np.array(size, np.int32) for size in fitted.valid]
            side = block_side(self.image_size, fitted.size)
            blocks = partial(resize_views, rows, valid, flips, fitted.size, side=side)
            yield self._join(fitted.size, side, blocks)

    def _join(self, size: Size, side: int, blocks: Callable[[Size], Array]) -> Segmented:
        """Computes a photograph block by block: the device never holds it as a whole."""
        whole, waiting = self._empty(size), collections.deque()
        corners = itertools.product(range(0, size[0], side), range(0, size[1], side))
        for corner in corners:
            waiting.append((corner, self._decide(blocks(corner))))
            if len(waiting) == IN_FLIGHT:
                write(whole, *waiting.popleft())
        for corner, block in waiting:
            write(whole, corner, block)
        return whole

    def _empty(self, size: Size) -> Segmented:
        probs = np.empty((*size, self.num_classes), np.float16) if self.keep_probs else None
        return Segmented(np.empty(size, np.uint8), np.empty(size, np.float16), probs)

    def _decide(self, scores: Array) -> tuple[Array | None, ...]:
        decide = decide_logits if len(self.views) == 1 else decide_probs
        return decide(scores, keep_probs=self.keep_probs)

    # Windows at the photograph's own scale.

    def segment_tiles(self, image: UInt8[np.ndarray, "h w 3"]) -> Segmented:
        """Blends the probabilities of overlapping windows, one line of windows at a time.

        Lines lie along the shorter side, so that what is kept of them is small.
        """
        turned = image.shape[1] > image.shape[0]
        if turned:
            return Segmented(*(turn(a) for a in self._blend_lines(turn(image), turned=True)))
        return self._blend_lines(image, turned=False)

    def _blend_lines(self, image: UInt8[np.ndarray, "h w 3"], *, turned: bool) -> Segmented:
        (height, width), side = image.shape[:2], self.image_size
        tops, row_weights = tile_axis(height, side)
        lefts, column_weights = tile_axis(width, side)
        whole = self._empty((height, width))
        strip = np.zeros((side, max(side, width), self.num_classes), np.float32)
        for top, following, weights in zip(tops, [*tops[1:], height], row_weights, strict=True):
            windows = (image[top : top + side, left : left + side] for left in lefts)
            probs = self._window_probs(windows, turned=turned)
            for left, columns, window in zip(lefts, column_weights, probs, strict=True):
                strip[:, left : left + side] += window * np.outer(weights, columns)[..., None]
            done = following - top  # no later window reaches these lines
            write(whole, (top, 0), decide_host(strip[:done, :width], keep_probs=self.keep_probs))
            strip[: side - done] = strip[done:].copy()
            strip[side - done :] = 0
        return whole

    def _window_probs(
        self, windows: Iterator[UInt8[np.ndarray, "_ _ 3"]], *, turned: bool
    ) -> Iterator[Float[np.ndarray, "s s k"]]:
        """Yields each window's probabilities; a line that is `turned` has its windows turned back.

        The device works on a batch while the one before is blended.
        """
        upright = (scaling.pad_photo(turn(w) if turned else w, self.image_size) for w in windows)
        groups = batched(upright, self.batch_size)
        for count, probs in one_behind((len(g), self._mean_probs(np.stack(g))) for g in groups):
            yield from fetch_windows(count, probs, turned=turned)

    def _mean_probs(self, windows: UInt8[np.ndarray, "n s s 3"]) -> Float[Array, "b s s k"]:
        if len(self.views) == 1:
            return jax.nn.softmax(self.logits(windows))
        probs = [self._see_windows(windows, view) for view in self.views]
        return sum(probs[1:], probs[0]) / len(probs)

    def _see_windows(self, windows: UInt8[np.ndarray, "n s s 3"], view: View) -> Array:
        seen = windows[:, :, ::-1] if view.flip else windows
        seen = np.stack([scaling.fit_photo(window, view.side) for window in seen])
        return view_probs(self.logits(seen), side=self.image_size, flip=view.flip)


# Views and windows.


def make_views(model: Any, *, image_size: int, tta: tuple[str, ...]) -> tuple[View, ...]:
    """Returns the views that `tta` names; scaled sides are multiples of the output stride."""
    for name in tta:
        choose("tta", name, dict.fromkeys(TTA))
    sides = [image_size]
    if "scales" in tta:
        stride = model.encoder.output_stride
        sides += [max(round(image_size * scale / stride), 1) * stride for scale in SCALES[1:]]
    flips = (False, True) if "flip" in tta else (False,)
    return tuple(View(side, flip) for side in dict.fromkeys(sides) for flip in flips)


def tile_axis(length: int, side: int) -> tuple[list[int], Float[np.ndarray, "n s"]]:
    """Returns where windows begin along one axis, and the weight of each of their pixels.

    At each place the weights of all windows sum to one; each falls off smoothly, as a sine squared.
    """
    if length <= side:
        return [0], np.ones((1, side), np.float32)
    step = side * (1 - OVERLAP)
    count = int(np.ceil((length - side) / step)) + 1
    starts = np.rint(np.linspace(0, length - side, count)).astype(int)
    bell = np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2
    total = np.zeros(length)
    for start in starts:
        total[start : start + side] += bell
    weights = np.stack([bell / total[start : start + side] for start in starts])
    return starts.tolist(), weights.astype(np.float32)


def block_side(image_size: int, size: Size) -> int:
    """Returns the side of the blocks of a photograph's output: few sides, so few programs."""
    side = min(image_size, BLOCK)
    while side < min(BLOCK, max(size)):
        side *= 2
    return side


# What the device does with logits. Programs apart, so that each rounds alike whoever asks.


def resize_views(
    rows: Sequence[Float[Array, "_ _ k"]],
    valid: Sequence[Int32[np.ndarray, "2"]],
    flips: Sequence[bool],
    size: Size,
    corner: Size,
    *,
    side: int,
) -> Float[Array, "side side k"]:
    """Returns a block of the photograph's logits, of several views their mean probabilities."""
    where = np.array([size, corner], np.int32)
    blocks = [
        resize_block(logits, inner, where, side=side, flip=flip)
        for logits, inner, flip in zip(rows, valid, flips, strict=True)
    ]
    return blocks[0] if len(blocks) == 1 else mean_probs(blocks)


@partial(jax.jit, static_argnames=("side", "flip"))
def resize_block(
    logits: Float[Array, "s s k"],
    valid: Int32[Array, "2"],
    where: Int32[Array, "2 2"],
    *,
    side: int,
    flip: bool,
) -> Float[Array, "side side k"]:
    """Returns the part at `where[1]` of the logits that are scaled to the size `where[0]`.

    Bilinear, centres of pixels half a pixel in, the border repeated, no antialiasing: as
    mmsegmentation does it (`align_corners=False`). Sizes are arguments: one program serves all.
    Behind the photograph's border it repeats the last pixel.
    """
    size, corner = where
    rows, columns = (
        _neighbours(corner[i] + jnp.arange(side), old=valid[i], new=size[i]) for i in (0, 1)
    )
    if flip:
        low, high, share = columns
        columns = valid[1] - 1 - low, valid[1] - 1 - high, share
    low, high, share = rows
    above = logits[low]
    lines = above + (logits[high] - above) * share[:, None, None]  # side s k
    low, high, share = columns
    left = lines[:, low]
    return left + (lines[:, high] - left) * share[:, None]


def _neighbours(places: Array, *, old: Array, new: Array) -> tuple[Array, Array, Array]:
    """Returns the two old pixels around each new one's centre, and the second one's share."""
    centre = jnp.clip((places + 0.5) * (old / new) - 0.5, 0, old - 1)
    low = jnp.floor(centre).astype(jnp.int32)
    return low, jnp.minimum(low + 1, old - 1), centre - low


@jax.jit
def mean_probs(blocks: Sequence[Float[Array, "h w k"]]) -> Float[Array, "h w k"]:
    return sum(map(jax.nn.softmax, blocks[1:]), jax.nn.softmax(blocks[0])) / len(blocks)


@partial(jax.jit, static_argnames=("side", "flip"))
def view_probs(logits: Logits, *, side: int, flip: bool) -> Float[Array, "b side side k"]:
    """Returns a window's probabilities at its own size, of a view's logits."""
    logits = logits[:, :, ::-1] if flip else logits
    shape = (len(logits), side, side, logits.shape[-1])
    return jax.nn.softmax(jax.image.resize(logits, shape, "bilinear", antialias=False))


@partial(jax.jit, static_argnames="keep_probs")
def decide_logits(logits: Float[Array, "h w k"], *, keep_probs: bool) -> tuple[Array | None, ...]:
    """Returns classes, the probability of each, and all probabilities if they are asked for."""
    best = jnp.max(logits, -1)
    total = jnp.sum(jnp.exp(logits - best[..., None]), -1)
    confidence = (1 / total).astype(jnp.float16)
    probs = jax.nn.softmax(logits).astype(jnp.float16) if keep_probs else None
    return jnp.argmax(logits, -1).astype(jnp.uint8), confidence, probs


@partial(jax.jit, static_argnames="keep_probs")
def decide_probs(probs: Float[Array, "h w k"], *, keep_probs: bool) -> tuple[Array | None, ...]:
    """Returns the same of probabilities."""
    return _decide_probs(probs, jnp, keep_probs=keep_probs)


def decide_host(
    probs: Float[np.ndarray, "h w k"], *, keep_probs: bool
) -> tuple[np.ndarray | None, ...]:
    return _decide_probs(probs, np, keep_probs=keep_probs)


def _decide_probs(probs: Any, numpy: Any, *, keep_probs: bool) -> tuple[Any, ...]:
    classes = numpy.argmax(probs, -1).astype(numpy.uint8)
    confidence = numpy.max(probs, -1).astype(numpy.float16)
    return classes, confidence, probs.astype(numpy.float16) if keep_probs else None


# Arrays, devices and threads.


def write(whole: Segmented, corner: Size, block: Sequence[Array | np.ndarray | None]) -> None:
    """Copies a block's part of the photograph to where it belongs."""
    top, left = corner
    for target, source in zip(whole, block, strict=True):
        if target is not None and source is not None:
            part = target[top : top + source.shape[0], left : left + source.shape[1]]
            part[...] = np.asarray(source)[: part.shape[0], : part.shape[1]]


def turn(pixels: Any) -> Any:
    """Swaps height and width."""
    return None if pixels is None else pixels.swapaxes(0, 1)


def fetch_windows(
    count: int, probs: Float[Array, "b s s k"], *, turned: bool
) -> Iterator[Float[np.ndarray, "s s k"]]:
    for window in np.asarray(probs)[:count]:
        yield turn(window) if turned else window


def local_mesh(variables: Any) -> Mesh:
    """Returns this process's devices on which `variables` lie; all, if these are on the host."""
    first = next(iter(jax.tree.leaves(variables)), None)
    on_devices = isinstance(first, jax.Array)
    found = first.sharding.addressable_devices if on_devices else jax.local_devices()
    devices = sorted(found, key=lambda device: device.id)
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def local_copy(array: Any) -> Any:
    """Returns an array of this process alone, of one that all processes hold."""
    return array.addressable_data(0) if isinstance(array, jax.Array) else array


def rows_of(logits: Logits) -> Iterator[Float[Array, "s s k"]]:
    """Yields the rows, in their order, each on the device that it lies on."""
    shards = sorted(logits.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    for shard in shards:
        for row in range(len(shard.data)):
            yield _take(shard.data, row)


@jax.jit
def _take(rows: Logits, row: Any) -> Float[Array, "s s k"]:
    return jax.lax.dynamic_index_in_dim(rows, row, keepdims=False)
