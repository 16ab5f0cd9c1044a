"""A small rendered data set: trash scenes as JPEG and COCO json, laid out like Recycle Trash.

A scene is a ground, clutter that belongs to it (leaves, stains), and objects, in shadow and light.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from trashseg_jax import folders
from trashseg_jax.data.demo import items
from trashseg_jax.data.demo.items import Array, Item, Rng
from trashseg_jax.data.taxonomy import CLASSES
from trashseg_jax.errors import InputError

FORMAT = 1  # raise it when the pictures change, so that older renderings are replaced
STAMP = "demo.json"  # holds what a set was rendered with
OBJECTS_PER_IMAGE = 5
# Annotations of classes 1..10 in Recycle Trash (AI Stage), all 26,240 over 3,272 images.
ANNOTATIONS = (2782, 9311, 659, 562, 610, 3090, 1343, 7643, 63, 177)
# Without a class in a split its IoU would be undefined; a single Battery would decide it alone.
MINIMUM = tuple(2 if name == "Battery" else 1 for name in CLASSES[1:])
SPAN = {"General trash": (0.25, 0.42), "Plastic bag": (0.34, 0.56), "Battery": (0.16, 0.25)}
USUAL_SPAN = (0.27, 0.5)  # the length of an object, as a share of the image's side
SUPERSAMPLE = 2  # pixels of the canvas to one of the image, along each axis


# The data set.


def render_demo(folder: Path, *, seed: int, num_train: int, num_val: int, size: int) -> None:
    """Renders the set into `folder`, unless it lies there already with the same arguments.

    Writes `train.json`, `val.json`, `batch_01/` (train), `batch_02/` (val) and `demo.json` (the
    arguments). The folder gets its name when all of it is written. The same arguments give the same
    bytes; a picture depends on seed, split, its place in the split and its classes alone.
    """
    arguments = {"seed": seed, "num_train": num_train, "num_val": num_val, "size": size}
    if is_rendered(folder, **arguments):
        return
    stamp = folder / STAMP
    if folder.exists() and not stamp.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: holds files that are no demo set; name another folder")
    train, val = (
        split_labels(np.random.default_rng((seed, split, 0)), num_images)
        for split, num_images in enumerate((num_train, num_val))
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".demo-", dir=folder.parent) as temporary:
        staging = Path(temporary) / folder.name
        _render_split(staging, "train", "batch_01", train, seed=(seed, 0), size=size)
        _render_split(staging, "val", "batch_02", val, seed=(seed, 1), size=size)
        (staging / STAMP).write_text(json.dumps({"format": FORMAT, **arguments}))
        folders.sync(staging)
        if folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)


def is_rendered(folder: Path, **arguments: int) -> bool:
    """Says whether the set of these arguments of `render_demo` lies in `folder`."""
    path = folder / STAMP
    return path.exists() and json.loads(path.read_text()) == {"format": FORMAT, **arguments}


def _render_split(
    folder: Path,
    split: str,
    batch: str,
    labels_of_images: list[list[int]],
    *,
    seed: tuple[int, int],
    size: int,
) -> None:
    (folder / batch).mkdir(parents=True)
    images, annotations = [], []
    for index, labels in enumerate(labels_of_images):
        scene = render_scene(np.random.default_rng((*seed, 1 + index)), labels, size)
        name = f"{batch}/{index:04d}.jpg"
        Image.fromarray(scene.image).save(folder / name, quality=92, subsampling=0)
        images.append({"id": index, "file_name": name, "height": size, "width": size})
        for thing in scene.things:
            annotations.append({"id": len(annotations), "image_id": index} | _annotation(thing))
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES) if i > 0]
    content = {"images": images, "categories": categories, "annotations": annotations}
    (folder / f"{split}.json").write_text(json.dumps(content, separators=(",", ":")))


def class_counts(total: int) -> list[int]:
    """Divides objects over classes 1..10 like `ANNOTATIONS`: largest remainder, then `MINIMUM`."""
    quota = np.array(ANNOTATIONS) * total / sum(ANNOTATIONS)
    counts = np.floor(quota).astype(int)
    counts[np.argsort(counts - quota, kind="stable")[: total - counts.sum()]] += 1
    counts = np.maximum(counts, MINIMUM)
    while counts.sum() > total:
        counts[np.argmax(counts)] -= 1  # what the rare classes were given
    return counts.tolist()


def split_labels(rng: Rng, num_images: int) -> list[list[int]]:
    """Draws each image's labels: 2 to 8, `OBJECTS_PER_IMAGE` on average, counts exact in total."""
    least = -(-sum(MINIMUM) // OBJECTS_PER_IMAGE)
    if num_images < least:
        raise InputError(
            f"a demo split of {num_images} images lacks classes; ask for {least} or more"
        )
    counts = class_counts(num_images * OBJECTS_PER_IMAGE)
    labels = rng.permutation(np.repeat(np.arange(1, len(CLASSES)), counts))
    lengths = np.full(num_images, OBJECTS_PER_IMAGE)
    more = rng.integers(-3, 4, num_images // 2)
    lengths[: 2 * len(more)] += np.stack([more, -more], 1).ravel()
    return [part.tolist() for part in np.split(labels, np.cumsum(lengths)[:-1])]


# A scene.


class Thing(NamedTuple):
    """An item that lies in a scene; lengths in image pixels."""

    label: int
    item: Item
    centre: Array
    angle: float
    span: float
    polygons: list[Array]  # each n 2, within the image
    box: tuple[int, int, int, int]  # x0 y0 x1 y1, around the polygons
    cover: Array  # h w, of the canvas within `box`: the share of each pixel that is covered

    @property
    def area(self) -> float:
        return float(self.cover.sum()) / SUPERSAMPLE**2


class Scene(NamedTuple):
    image: Array  # h w 3, uint8
    ids: Array  # h w: which of `things` one sees, -1 for background
    things: list[Thing]  # the largest first, as drawn: small ones stay visible


def render_scene(rng: Rng, labels: Sequence[int], size: int) -> Scene:
    """Renders one object of each of the given classes into an image."""
    canvas = items.ground(rng, size, SUPERSAMPLE)
    for _ in range(rng.integers(2, 7)):
        clutter = items.CLUTTER[rng.integers(len(items.CLUTTER))](rng)
        centre, span = rng.uniform(0.1, 0.9, 2) * size, rng.uniform(0.08, 0.3) * size
        _draw(canvas, _lay(rng, 0, clutter, centre, span, size))
    things: list[Thing] = []
    for label in labels:
        things.append(_place(rng, label, things, size))
    things.sort(key=lambda thing: -thing.area)
    shift, strength = rng.normal(0, 0.025, 2) * size, rng.uniform(0.3, 0.6)
    ids, light = np.full((size, size), -1), np.ones((size, size), np.float32)
    for index, thing in enumerate(things):
        _draw(canvas, thing)
        light *= 1 - strength * _shadow(thing, shift, size)
        x0, y0, x1, y1 = thing.box
        cover, lit = _shrink(thing.cover), light[y0:y1, x0:x1]
        lit += (1 - lit) * cover  # a thing lies above the shadows cast so far, its own included
        ids[y0:y1, x0:x1][cover >= 0.5] = index
    return Scene(_expose(rng, _shrink(canvas) * light[..., None]), ids, things)


def _place(rng: Rng, label: int, others: list[Thing], size: int) -> Thing:
    """Lays an object where there is room, with an area unlike any other's.

    Readers paint large objects first and count pixels in their own way: nearly equal areas could
    come in another order than ours.
    """
    item = items.PAINTERS[CLASSES[label]](rng)
    low, high = SPAN.get(CLASSES[label], USUAL_SPAN)
    margin = 0.06  # of the logarithm; shrinks, so that the loop ends
    while True:
        centres = rng.uniform(0.1, 0.9, (6, 2)) * size
        room = [min((math.dist(c, o.centre) for o in others), default=0) for c in centres]
        span = rng.uniform(low, high) * size
        thing = _lay(rng, label, item, centres[np.argmax(room)], span, size)
        if all(abs(np.log(thing.area / other.area)) > margin for other in others):
            return thing
        margin *= 0.9


def _lay(rng: Rng, label: int, item: Item, centre: Array, span: float, size: int) -> Thing:
    angle = rng.uniform(-np.pi, np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    clipped = [_clip(outline @ turn * span + centre, size) for outline in item.outlines]
    polygons = [polygon.round(2) for polygon in clipped if len(polygon) >= 3]
    points = np.concatenate(polygons)
    (x0, y0), (x1, y1) = np.floor(points.min(0)), np.ceil(points.max(0))
    box = (int(x0), int(y0), int(x1), int(y1))
    return Thing(label, item, centre, angle, span, polygons, box, _cover(polygons, box))


def _clip(polygon: Array, size: int) -> Array:
    """Cuts off what lies outside the image, side by side (Sutherland & Hodgman 1974)."""
    if polygon.min() >= 0 and polygon.max() <= size:
        return polygon
    for axis, sign, limit in ((0, 1, 0), (0, -1, size), (1, 1, 0), (1, -1, size)):
        following = np.roll(polygon, -1, 0)
        here, there = sign * (polygon[:, axis] - limit), sign * (following[:, axis] - limit)
        crosses = (here >= 0) != (there >= 0)
        share = here / np.where(crosses, here - there, 1)
        crossing = polygon + share[:, None] * (following - polygon)
        polygon = np.stack([polygon, crossing], 1)[np.stack([here >= 0, crosses], 1)]
    return np.clip(polygon, 0, size)


def _cover(polygons: list[Array], box: tuple[int, int, int, int], fine: int = 4) -> Array:
    x0, y0, x1, y1 = box
    scale = SUPERSAMPLE * fine
    mask = Image.new("L", ((x1 - x0) * scale, (y1 - y0) * scale))
    for polygon in polygons:
        points = (polygon - (x0, y0)) * scale - 0.5  # Pillow counts from the pixel's middle
        ImageDraw.Draw(mask).polygon(points.ravel().tolist(), fill=255)
    return np.asarray(mask.reduce(fine), np.float32) / 255


def _draw(canvas: Array, thing: Thing) -> None:
    x0, y0, x1, y1 = (side * SUPERSAMPLE for side in thing.box)
    y, x = (np.mgrid[y0:y1, x0:x1].astype(np.float32) + 0.5) / SUPERSAMPLE
    cx, cy = thing.centre.tolist()
    x, y = (x - cx) / thing.span, (y - cy) / thing.span
    cos, sin = math.cos(thing.angle), math.sin(thing.angle)
    u, v = cos * x + sin * y, cos * y - sin * x
    below = canvas[y0:y1, x0:x1]
    below += (thing.item.paint(u, v, below) - below) * thing.cover[..., None]


def _shadow(thing: Thing, shift: Array, size: int) -> Array:
    """How much of the light, in [0, 1], a thing takes from each pixel of the image [h, w]."""
    x, y = (np.array(thing.box[:2]) + shift).astype(int).tolist()
    mask = Image.new("L", (size, size))
    mask.paste(Image.fromarray((_shrink(thing.cover) * 255).astype(np.uint8)), (x, y))
    return np.asarray(mask.filter(ImageFilter.BoxBlur(0.05 * thing.span)), np.float32) / 255


def _shrink(canvas: Array) -> Array:
    steps = range(SUPERSAMPLE)
    return np.mean([canvas[i::SUPERSAMPLE, j::SUPERSAMPLE] for i in steps for j in steps], 0)


def _expose(rng: Rng, image: Array) -> Array:
    """The camera: light that falls off to one side, gain, tint, gamma and sensor noise."""
    x = np.linspace(-0.5, 0.5, len(image), dtype=np.float32)
    slope, gain, tint = rng.normal(0, 0.2, 2), rng.uniform(0.85, 1.3), rng.normal(1, 0.05, 3)
    light = gain * (1 + slope[0] * x + slope[1] * x[:, None])
    image = np.clip(image * (light[..., None] * tint).astype(np.float32), 0, 1)
    image = image ** np.float32(rng.uniform(0.8, 1.25))
    grain = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0.005, 0.025))
    return (np.clip(image + grain, 0, 1) * 255).astype(np.uint8)


def _annotation(thing: Thing) -> dict:
    points = np.concatenate(thing.polygons)
    bbox = np.concatenate([points.min(0), np.ptp(points, 0)])
    return {
        "category_id": thing.label,
        "segmentation": [polygon.ravel().tolist() for polygon in thing.polygons],
        "area": round(thing.area, 2),
        "bbox": bbox.round(2).tolist(),
        "iscrowd": 0,
    }
