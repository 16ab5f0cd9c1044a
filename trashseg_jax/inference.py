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
from trashseg_jax.data import augment, scaling
from trashseg_jax.devices.compiling import compiler_options
from trashseg_jax.errors import InputError
from trashseg_jax.refine.calibration import Calibration, calibrated
from trashseg_jax.settings import choose

SCALINGS = ("fit", "tile")  # what `eval.scale` may be
TTA = ("flip", "scales")  # what `eval.tta` may name
SCALES = (1.0, 0.75, 1.25)  # of "scales"; the first is the plain one
LINES = 32  # of probabilities that are scaled, or averaged, at a time
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


class Member(NamedTuple):
    """A network, what it is fed with, and what its logits are calibrated by, if they are."""

    model: nn.Module
    variables: Any
    normalize: Callable[[Array], Array]
    image_size: int
    calibration: Calibration | None


def member_of(model: Any) -> Member:
    """Returns what a segmenter takes of a `model_folder.Model`."""
    normalize = augment.make_normalize(model.normalize)
    return Member(model.network, model.variables, normalize, model.image_size, model.calibration)


class View(NamedTuple):
    """One way in which a network sees a photograph; the first of each member is the plain one."""

    side: int
    flip: bool
    member: int = 0


class Fitted(NamedTuple):
    """A photograph as its views see it: scaled, padded, and what of that is no padding."""

    size: Size
    images: tuple[UInt8[np.ndarray, "s s 3"], ...]
    valid: tuple[Size, ...]


Seen = Any  # Fitted, or, where the network is shown windows of it, the photograph u8[h,w,3]


class Segmenter:
    """Segments photographs with a model's `variables`, on the devices that these lie on.

    `scale` "fit" scales a photograph's longer side to `image_size`, and the logits back. "tile"
    shows the network overlapping windows of `image_size` of the photograph at `tile_scale` times
    its own scale. `tta`, names of TTA, averages the probabilities of several views. Variables on
    the host go to all devices of this process.

    With `others` it averages the probabilities of several models, each fed at its own size and each
    with the same weight; the first one's size is the segmenter's. A `calibration`, the others have
    theirs, is applied to the network's logits, before they are scaled or averaged.
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
        tile_scale: float,
        tta: tuple[str, ...],
        batch_size: int,
        keep_probs: bool = False,
        others: Sequence[Member] = (),
        calibration: Calibration | None = None,
    ):
        self.tiles = choose("scale", scale, {name: name == "tile" for name in SCALINGS})
        if tile_scale != 1 and not self.tiles:
            raise InputError(
                f"tile_scale={tile_scale}: only scale='tile' reads it, and this is {scale!r}; "
                "leave it at 1.0"
            )
        self.tile_scale = tile_scale
        members = (Member(model, variables, normalize, image_size, calibration), *others)
        self.views = tuple(
            view._replace(member=place)
            for place, one in enumerate(members)
            for view in make_views(one.model, image_size=one.image_size, tta=tta)
        )
        self.plain_views = tuple(View(m.image_size, False, i) for i, m in enumerate(members))
        self.image_size, self.num_classes, self.keep_probs = image_size, num_classes, keep_probs
        self._mesh = local_mesh(variables)
        self._variables = [
            jax.device_put(
                jax.tree.map(local_copy, one.variables), NamedSharding(self._mesh, PartitionSpec())
            )
            for one in members
        ]
        self.batch_size = -(-batch_size // self._mesh.size) * self._mesh.size
        self._apply = [make_apply(one.model, one.normalize, one.calibration) for one in members]

    def segment(self, images: Iterator[UInt8[np.ndarray, "_ _ 3"]]) -> Iterator[Segmented]:
        """Yields what each photograph shows, in their order."""
        yield from self.segment_seen(map_ahead(self.see, images))

    def see(self, image: UInt8[np.ndarray, "h w 3"]) -> Seen:
        """Returns what `segment_seen` needs of a photograph; any thread may."""
        return image if self.tiles else self.fit(image)

    def segment_seen(self, photos: Iterator[Seen]) -> Iterator[Segmented]:
        """Yields what each photograph shows, in their order."""
        if self.tiles:
            yield from map(self.segment_tiles, photos)
            return
        # The device works on a group while the one before is written.
        groups = batched(photos, self.batch_size)
        for group, logits in one_behind((group, self.view_logits(group)) for group in groups):
            yield from self.segment_fitted(group, logits)

    def fit(self, image: UInt8[np.ndarray, "h w 3"], *, plain: bool = False) -> Fitted:
        """Scales and pads a photograph for each view, or for the plain ones; any thread may."""
        views = self.plain_views if plain else self.views
        scaled = {
            side: scaling.fit_photo(image, side) for side in dict.fromkeys(v.side for v in views)
        }
        seen = [scaled[v.side][:, ::-1] if v.flip else scaled[v.side] for v in views]
        padded = [scaling.pad_photo(a, v.side) for a, v in zip(seen, views, strict=True)]
        return Fitted(image.shape[:2], tuple(padded), tuple(a.shape[:2] for a in seen))

    def view_logits(self, group: Sequence[Fitted], *, plain: bool = False) -> list[Array]:
        """Returns the logits of a group of up to `batch_size`, by view, still on the devices."""
        views = self.plain_views if plain else self.views
        columns = zip(views, zip(*(fitted.images for fitted in group), strict=True), strict=True)
        return [self.logits(np.stack(images), member=view.member) for view, images in columns]

    def logits(self, images: UInt8[np.ndarray, "n s s 3"], *, member: int = 0) -> Logits:
        """Returns the logits of up to `batch_size` images and, as many as are missing, of black."""
        return self._apply[member](self._variables[member], self.put(images, fill=0))

    def plain_logits(
        self, group: Sequence[Fitted], logits: Sequence[Array], *, plain: bool
    ) -> Logits:
        """Returns the logits of the photographs as they are scaled for the first model.

        `logits` are those of `view_logits`. Of several models it is the logarithm of their mean
        probabilities, of which a softmax makes these again.
        """
        if len(self.plain_views) == 1:
            return logits[0]
        views = self.plain_views if plain else self.views
        places = [views.index(view) for view in self.plain_views]
        valid = np.ones((len(places), self.batch_size, 2), np.int32)  # of a row of black: 1 pixel
        for row, fitted in enumerate(group):
            valid[:, row] = [fitted.valid[place] for place in places]
        return log_mean_probs([logits[place] for place in places], valid, side=self.image_size)

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
        for fitted, rows in zip(group, by_view, strict=False):  # behind the group: black
            valid = [np.array(size, np.int32) for size in fitted.valid]
            side = block_side(self.image_size, fitted.size)
            blocks = partial(resize_views, rows, valid, self.views, fitted.size, side=side)
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

    # Windows of the photograph at its own scale, or at a given part of it.

    def segment_tiles(self, image: UInt8[np.ndarray, "h w 3"]) -> Segmented:
        """Blends the probabilities of overlapping windows, one line of windows at a time.

        Lines lie along the shorter side, so that what is kept of them is small.
        """
        turned = image.shape[1] > image.shape[0]
        if turned:
            return Segmented(*(turn(a) for a in self._blend_lines(turn(image), turned=True)))
        return self._blend_lines(image, turned=False)

    def _blend_lines(self, image: UInt8[np.ndarray, "h w 3"], *, turned: bool) -> Segmented:
        whole = self._empty(image.shape[:2])
        seen = scaling.scaled_size(image.shape[:2], self.tile_scale)
        lines = [self._member_lines(image, seen, view, turned=turned) for view in self.plain_views]
        for top, probs in scale_probs(mean_lines(lines), old=seen, new=image.shape[:2]):
            write(whole, (top, 0), decide_host(probs, keep_probs=self.keep_probs))
        return whole

    def _member_lines(
        self, image: UInt8[np.ndarray, "h w 3"], seen: Size, plain: View, *, turned: bool
    ) -> Iterator[Float[np.ndarray, "_ w2 k"]]:
        """Yields a model's probabilities of the photograph scaled to `seen`, from the top on.

        The next ones overwrite the last.
        """
        (height, width), side = seen, plain.side
        tops, row_weights = tile_axis(height, side)
        lefts, column_weights = tile_axis(width, side)
        strip = np.zeros((side, max(side, width), self.num_classes), np.float32)
        for top, following, weights in zip(tops, [*tops[1:], height], row_weights, strict=True):
            lines = scaling.scale_lines(image, seen, top=top, bottom=min(top + side, height))
            windows = (lines[:, left : left + side] for left in lefts)
            probs = self._window_probs(windows, plain, turned=turned)
            for left, columns, window in zip(lefts, column_weights, probs, strict=True):
                strip[:, left : left + side] += window * np.outer(weights, columns)[..., None]
            done = following - top  # no later window reaches these lines
            yield strip[:done, :width]
            strip[: side - done] = strip[done:].copy()
            strip[side - done :] = 0

    def _window_probs(
        self, windows: Iterator[UInt8[np.ndarray, "_ _ 3"]], plain: View, *, turned: bool
    ) -> Iterator[Float[np.ndarray, "s s k"]]:
        """Yields each window's probabilities; a line that is `turned` has its windows turned back.

        The device works on a batch while the one before is blended.
        """
        upright = (scaling.pad_photo(turn(w) if turned else w, plain.side) for w in windows)
        groups = batched(upright, self.batch_size)
        given = ((len(g), self._mean_probs(np.stack(g), plain)) for g in groups)
        for count, probs in one_behind(given):
            yield from fetch_windows(count, probs, turned=turned)

    def _mean_probs(
        self, windows: UInt8[np.ndarray, "n s s 3"], plain: View
    ) -> Float[Array, "b s s k"]:
        views = [view for view in self.views if view.member == plain.member]
        if len(views) == 1:
            return jax.nn.softmax(self.logits(windows, member=plain.member))
        probs = [self._see_windows(windows, view, side=plain.side) for view in views]
        return sum(probs[1:], probs[0]) / len(probs)

    def _see_windows(
        self, windows: UInt8[np.ndarray, "n s s 3"], view: View, *, side: int
    ) -> Array:
        seen = windows[:, :, ::-1] if view.flip else windows
        seen = np.stack([scaling.fit_photo(window, view.side) for window in seen])
        return view_probs(self.logits(seen, member=view.member), side=side, flip=view.flip)


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


def mean_lines(
    models: Sequence[Iterator[Float[np.ndarray, "_ w k"]]],
) -> Iterator[Float[np.ndarray, "_ w k"]]:
    """Yields the mean of several models' lines, which come in pieces of different heights."""
    if len(models) == 1:
        yield from models[0]
        return
    held = [next(lines) for lines in models]
    while all(map(len, held)):
        count = min(LINES, *map(len, held))
        yield np.asarray(np.mean([lines[:count] for lines in held], 0, dtype=np.float32))
        held = [lines[count:] for lines in held]
        # Only of those that are used up: the next ones take the others' place.
        held = [
            lines if len(lines) else next(more, lines)
            for lines, more in zip(held, models, strict=True)
        ]


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
    views: Sequence[View],
    size: Size,
    corner: Size,
    *,
    side: int,
) -> Float[Array, "side side k"]:
    """Returns a block of the photograph's logits, of several views their mean probabilities.

    Of several models it is the mean of each one's mean, however many views each has.
    """
    where = np.array([size, corner], np.int32)
    blocks: dict[int, list[Array]] = {}
    for logits, inner, view in zip(rows, valid, views, strict=True):
        block = resize_block(logits, inner, where, side=side, flip=view.flip)
        blocks.setdefault(view.member, []).append(block)
    if len(views) == 1:
        return blocks[0][0]
    means = [mean_probs(of_one) for of_one in blocks.values()]
    return means[0] if len(means) == 1 else mean_models(means)


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
        _neighbours(corner[i] + jnp.arange(side), jnp, old=valid[i], new=size[i]) for i in (0, 1)
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


def _neighbours(places: Any, numpy: Any, *, old: Any, new: Any) -> tuple[Any, Any, Any]:
    """Returns the two old pixels around each new one's centre, and the second one's share."""
    centre = numpy.clip((places + 0.5) * (old / new) - 0.5, 0, old - 1)
    low = numpy.floor(centre).astype(numpy.int32)
    return low, numpy.minimum(low + 1, old - 1), (centre - low).astype(numpy.float32)


def scale_probs(
    blended: Iterator[Float[np.ndarray, "_ w k"]], *, old: Size, new: Size
) -> Iterator[tuple[int, Float[np.ndarray, "_ w2 k"]]]:
    """Yields where lines begin, and these: what comes in lines at a size, scaled to another.

    As `resize_block` does it. Of the lines before it keeps the last one alone.
    """
    if old == new:
        done = 0
        for lines in blended:
            yield done, lines
            done += len(lines)
        return
    low, high, share = _neighbours(np.arange(new[0]), np, old=old[0], new=new[0])
    columns = _neighbours(np.arange(new[1]), np, old=old[1], new=new[1])
    done = reached = 0
    kept: list[np.ndarray] = []
    for lines in blended:
        first = reached - len(kept)
        lines = np.concatenate([*kept, lines])
        reached = first + len(lines)
        ready = int(np.searchsorted(high, reached))  # the others' second lines are still to come
        for top in range(done, ready, LINES):
            at = np.s_[top : min(top + LINES, ready)]
            above, below = lines[low[at] - first], lines[high[at] - first]
            yield top, _between(above + (below - above) * share[at, None, None], *columns)
        done, kept = ready, [lines[-1:].copy()]


def _between(lines: np.ndarray, low: np.ndarray, high: np.ndarray, share: np.ndarray):
    left = lines[:, low]
    return left + (lines[:, high] - left) * share[:, None]


@jax.jit
def mean_probs(blocks: Sequence[Float[Array, "h w k"]]) -> Float[Array, "h w k"]:
    return sum(map(jax.nn.softmax, blocks[1:]), jax.nn.softmax(blocks[0])) / len(blocks)


@jax.jit
def mean_models(probs: Sequence[Float[Array, "h w k"]]) -> Float[Array, "h w k"]:
    return sum(probs[1:], probs[0]) / len(probs)


@partial(jax.jit, static_argnames="side")
def log_mean_probs(
    logits: Sequence[Float[Array, "b _ _ k"]], valid: Int32[Array, "m b 2"], *, side: int
) -> Float[Array, "b side side k"]:
    """Returns the logarithm of the models' mean probabilities, in squares of the first one's side.

    `valid` is what of each model's squares is no padding; the others' is scaled to the first one's.
    """
    where = jnp.stack([valid[0], jnp.zeros_like(valid[0])], 1)
    resize = jax.vmap(partial(resize_block, side=side, flip=False))
    resized = [logits[0], *(resize(logits[m], valid[m], where) for m in range(1, len(logits)))]
    logs = jnp.stack([jax.nn.log_softmax(one) for one in resized])
    return jax.nn.logsumexp(logs, 0) - jnp.log(len(logits))


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


def make_apply(
    model: nn.Module, normalize: Callable[[Array], Array], calibration: Calibration | None
) -> Callable[[Any, Array], Logits]:
    """Returns jitted `(variables, images) -> logits`, which are calibrated if they are to be."""

    def apply(variables: Any, images: Array) -> Logits:
        logits: Any = model.apply(variables, normalize(images), train=False)
        return calibrated(logits, calibration)

    return jax.jit(apply, compiler_options=compiler_options())


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
