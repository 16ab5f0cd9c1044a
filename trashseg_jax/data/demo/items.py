"""What the demo's scenes are made of: the ten classes' objects, clutter, and grounds.

An `Item` has outlines in a frame of its own (u to the right, v downwards, the origin in the
middle, about one unit long), and `paint(u, v, below)`: its colours over what lies `below`.
"""

import colorsys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Array = np.ndarray
Rng = np.random.Generator


class Item(NamedTuple):
    """A kind of thing, in its own frame."""

    outlines: list[Array]  # each n 2
    paint: Callable[[Array, Array, Array], Array]  # u [h w], v [h w], below [h w 3] -> [h w 3]


# Outlines: points [n, 2].


def xy(x: Array | Sequence[float], y: Array | Sequence[float]) -> Array:
    return np.stack([x, y], 1)


def revolve(heights: Sequence[float], halves: Sequence[float]) -> Array:
    """The silhouette of a turned body: half widths at the given v, from top to bottom."""
    right = xy(halves, heights)
    return np.concatenate([right, right[::-1] * (-1, 1)])


def barrel(top: float, bottom: float, tilt: float) -> Array:
    """A tapered cylinder, seen from above by `tilt`: half widths, and arcs at both ends."""
    angle = np.linspace(0, np.pi, 13)
    cos, arc = np.cos(angle), 1 - np.sin(angle)
    lower = xy(bottom * cos, 0.5 - bottom * tilt * arc)
    upper = xy(-top * cos, top * tilt * arc - 0.5)
    return np.concatenate([lower, upper])


def blob(rng: Rng, points: int, rough: float, height: float) -> Array:
    angle = np.arange(points) * 2 * np.pi / points
    radius = 0.5 - 0.5 * rough * rng.random(points)
    return xy(radius * np.cos(angle), height * radius * np.sin(angle))


def smooth(polygon: Array, times: int = 2) -> Array:
    """Rounds the corners (Chaikin 1974)."""
    for _ in range(times):
        following = np.roll(polygon, -1, 0)
        pair = [0.75 * polygon + 0.25 * following, 0.25 * polygon + 0.75 * following]
        polygon = np.stack(pair, 1).reshape(-1, 2)
    return polygon


def jagged(rng: Rng, polygon: Array, depth: float, pieces: int) -> Array:
    """Breaks each side into `pieces` and shifts all points by up to `depth`."""
    share = np.arange(pieces)[:, None] / pieces
    side = (np.roll(polygon, -1, 0) - polygon)[:, None]
    points = (polygon[:, None] + share * side).reshape(-1, 2)
    return points + rng.uniform(-depth, depth, points.shape)


# Colour, texture and light.


def colour(rng: Rng, saturation: tuple, value: tuple, hue: tuple = (0.0, 1.0)) -> Array:
    rgb = colorsys.hsv_to_rgb(rng.uniform(*hue), rng.uniform(*saturation), rng.uniform(*value))
    return np.array(rgb, np.float32)


def lerp(a: Array, b: Array | float, share: Array | float) -> Array:
    return a + (b - a) * np.asarray(share, np.float32)[..., None]


def noise(rng: Rng, u: Array, v: Array, cells: int) -> Array:
    """Smooth random values in [-1, 1], `cells` bumps to the unit."""
    grid = 2 * rng.random((64, 64), np.float32) - 1
    x, y = u * np.float32(cells), v * np.float32(cells)
    i, j = np.floor(x), np.floor(y)
    x, y = x - i, y - j
    x, y = x * x * (3 - 2 * x), y * y * (3 - 2 * y)
    i, j = i.astype(np.int32), j.astype(np.int32)

    def along_x(j):
        left, right = (grid.take((j & 63) * 64 + (k & 63)) for k in (i, i + 1))
        return left + (right - left) * x

    upper, lower = along_x(j), along_x(j + 1)
    return upper + (lower - upper) * y


def creases(rng: Rng, u: Array, v: Array, cells: int) -> Array:
    """Thin lines in [0, 1], where a noise changes its sign."""
    return np.maximum(1 - 5 * np.abs(noise(rng, u, v, cells)), 0)


def bump(x: Array, width: float) -> Array:
    return np.exp(-((x / width) ** 2))


def roundness(x: Array) -> Array:
    """The shade of a cylinder across its width, x in [-1, 1], lit from the left."""
    return 0.45 + 0.55 * np.clip(0.85 * dome(x) - 0.45 * x, 0, 1)


def dome(x: Array) -> Array:
    return np.sqrt(np.clip(1 - x * x, 0, 1))


# The ten classes. Hues overlap on purpose: shape, texture and shading tell them apart.


def general_trash(rng: Rng) -> Item:
    """A crumpled lump of facets."""
    outline = jagged(rng, blob(rng, 9, 0.4, rng.uniform(0.65, 1)), 0.03, 3)
    centres = rng.uniform(-0.5, 0.5, (18, 2, 1, 1)).astype(np.float32)
    palette = np.stack([colour(rng, (0.05, 0.6), (0.1, 0.6)) for _ in range(3)])
    facets = palette[rng.integers(3, size=18)] * rng.uniform(0.45, 1.3, (18, 1))
    tilt = rng.normal(0, 1.6, (2, 18))

    def paint(u, v, below):
        du, dv = u - centres[:, 0], v - centres[:, 1]
        facet = np.argmin(du * du + dv * dv, 0)
        du, dv = u - centres[facet, 0, 0, 0], v - centres[facet, 1, 0, 0]
        shade = 0.95 + tilt[0, facet] * du + tilt[1, facet] * dv + 0.12 * noise(rng, u, v, 20)
        return facets[facet] * shade[..., None]

    return Item([outline], paint)


def paper(rng: Rng) -> Item:
    """A folded sheet with lines of print, often torn."""
    height = rng.uniform(0.3, 0.48)
    sheet = xy([-0.5, 0.5, 0.5, -0.5], [-height, -height, height, height])
    sheet = jagged(rng, sheet, 0.07, 1)
    torn = jagged(rng, sheet, 0.025, 6) if rng.random() < 0.4 else sheet
    base, dark = colour(rng, (0.0, 0.28), (0.7, 1.0)), rng.uniform(0.3, 0.55)
    lines, slant, fold = rng.uniform(7, 11), rng.uniform(-1, 1), rng.uniform(-0.2, 0.2)

    def paint(u, v, below):
        row = np.floor(v * lines)
        ink = (v * lines - row < 0.5) & (noise(rng, u, row, 9) > -0.35)
        ink &= (np.abs(u) < 0.4) & (np.abs(v) < 0.84 * height)
        shade = np.where(u + slant * v > fold, 1.0, 0.84) + 0.04 * noise(rng, u, v, 4)
        return lerp(base, dark * base, ink) * shade[..., None]

    return Item([torn], paint)


def paper_pack(rng: Rng) -> Item:
    """A milk carton or a paper cup."""
    base, ink = colour(rng, (0.0, 0.2), (0.75, 0.97)), colour(rng, (0.4, 0.9), (0.3, 0.9))
    if rng.random() < 0.4:
        return vessel(rng, rng.uniform(0.32, 0.4), base, ink, band=0.13, gloss=0.0)
    edge, eaves, ridge = rng.uniform(0.04, 0.12), rng.uniform(-0.25, -0.12), -0.4
    x = [-0.3, -0.3, -0.2, -0.2, 0.2, 0.2, 0.3, 0.3, edge]
    y = [0.47, eaves, ridge, -0.5, -0.5, ridge, eaves, 0.44, 0.5]

    def paint(u, v, below):
        printed = (v > 0.22 + 0.04 * np.sin(12 * u)) | (np.hypot(u + 0.12, v - 0.03) < 0.08)
        printed |= (v < eaves) & (v > ridge)
        side = u > edge - 0.2 * np.maximum(eaves - v, 0)
        shade = np.where(v < ridge, 0.85, np.where(side, 0.6, 1.0))
        shade -= 0.3 * bump(v - ridge, 0.012) + 0.2 * bump(v - eaves, 0.012)
        return lerp(base, ink, printed) * shade[..., None]

    return Item([xy(x, y)], paint)


def vessel(rng: Rng, top: float, base: Array, ink: Array, *, band: float, gloss: float) -> Item:
    """An open cup or tub: a tapered wall with a printed band or glossy ribs, rim and inside."""
    bottom, tilt = top * rng.uniform(0.62, 0.78), rng.uniform(0.25, 0.45)

    def paint(u, v, below):
        x = u / (top + (bottom - top) * (v + 0.5))
        shade = 0.2 + 0.8 * roundness(x) + gloss * (np.sin(14 * x) + 2.5 * bump(x + 0.5, 0.1))
        wall = lerp(base, ink, np.abs(v - 0.08 * dome(x) - 0.05) < band) * shade[..., None]
        mouth = np.hypot(u / top, (v + 0.5) / (top * tilt) - 1)
        return lerp(lerp(wall, base, mouth < 1), base * (0.4 + 0.3 * x[..., None]), mouth < 0.87)

    return Item([barrel(top, bottom, tilt)], paint)


def metal(rng: Rng) -> Item:
    """A can: sharp streaks of light along it, ribs at the ends, a lid with a tab."""
    half, tilt, printed = rng.uniform(0.25, 0.33), rng.uniform(0.25, 0.45), rng.uniform(0, 0.9)
    steel, ink = colour(rng, (0.0, 0.12), (0.6, 0.85)), colour(rng, (0.1, 0.9), (0.3, 0.9))
    streaks = rng.uniform(-0.9, 0.9, 2)

    def paint(u, v, below):
        x = u / half
        along = v - half * tilt * dome(x) + 0.02
        middle = np.abs(along) < 0.3
        shade = 0.25 + 0.5 * roundness(x) + 0.18 * np.sin(90 * along) * ~middle
        shine = 0.5 * bump(x - streaks[0], 0.1) + 0.5 * bump(x - streaks[1], 0.06)
        wall = lerp(steel, ink, printed * middle) * shade[..., None] + shine[..., None]
        y = (v + 0.5) / (half * tilt) - 1
        lid = np.hypot(x, y)
        plate = 0.75 + 0.25 * np.sin(14 * lid) + 0.2 * x - 0.5 * (lid < 0.25)
        return lerp(wall, steel * plate[..., None], lid < 1)

    return Item([barrel(half, half, tilt)], paint)


def glass(rng: Rng) -> Item:
    """A long-necked bottle that one sees through, with bright rims; some are broken at the neck."""
    half, neck = rng.uniform(0.13, 0.19), rng.uniform(0.045, 0.06)
    shoulder = rng.uniform(-0.15, 0.05)
    heights = [-0.5, -0.45, -0.44, shoulder - 0.15, shoulder - 0.05, shoulder + 0.05, 0.47, 0.5]
    halves = [neck + 0.015, neck + 0.015, neck, neck, 0.75 * half, half, half, 0.9 * half]
    tint = colour(rng, (0.1, 0.75), (0.5, 0.95), hue=(0.05, 0.55))
    outlines = [revolve(heights, halves)]
    if rng.random() < 0.25:
        cut = shoulder - 0.22
        upper = revolve([*heights[:3], cut - 0.03], halves[:4])
        outlines = [upper, revolve([cut + 0.03, *heights[3:]], halves[2:])]

    def paint(u, v, below):
        x = u / np.interp(v, heights, halves)
        rim = np.abs(x)
        through = (0.85 * below + 0.08) * tint + 0.04
        shine = 0.6 * bump(rim - 0.97, 0.1) + 0.75 * bump(x + 0.4, 0.1) * (v > shoulder)
        shine += 0.3 * (v < -0.45) + 0.4 * bump(v - 0.47, 0.02)
        dark = 1 - 0.55 * bump(rim - 0.72, 0.14)
        return through * dark[..., None] + shine[..., None] * (0.4 + 0.6 * tint)

    return Item(outlines, paint)


def plastic(rng: Rng) -> Item:
    """A ribbed bottle with cap and label, half clear; or a tub."""
    base, wrap = colour(rng, (0.0, 0.6), (0.55, 0.98)), colour(rng, (0.2, 0.9), (0.4, 0.95))
    if rng.random() < 0.3:
        return vessel(rng, 0.48, base, wrap, band=0.0, gloss=0.13)
    half, neck = rng.uniform(0.16, 0.22), rng.uniform(0.07, 0.085)
    heights = [-0.5, -0.4, -0.39, -0.34, -0.18, 0.46, 0.5]
    halves = [neck, neck, 0.85 * neck, 0.85 * neck, half, half, 0.85 * half]
    cap, clear = colour(rng, (0.5, 1.0), (0.4, 0.95)), rng.uniform(0.1, 0.5)
    ribs = rng.uniform(50, 75)

    def paint(u, v, below):
        x = u / np.interp(v, heights, halves)
        light = roundness(x)[..., None]
        shade = 0.3 + 0.7 * roundness(x) + 0.2 * np.sin(ribs * v) * (v > -0.2)
        rgb = lerp(base, below, clear) * shade[..., None] + 0.5 * bump(x + 0.45, 0.12)[..., None]
        rgb = lerp(rgb, wrap * light, np.abs(v + 0.06) < 0.09)
        return lerp(rgb, cap * light * (0.85 + 0.2 * np.sin(120 * u))[..., None], v < -0.4)

    return Item([revolve(heights, halves)], paint)


def styrofoam(rng: Rng) -> Item:
    """A pale block of beads with a chipped edge, three faces visible."""
    depth, height = rng.uniform(0.1, 0.2), rng.uniform(0.25, 0.38)
    right, top = 0.5 - depth, depth - height
    x = [-0.5, depth - 0.5, 0.5, 0.5, right, -0.5]
    block = xy(x, [top, -height, -height, -top, height, height])
    base, beads = colour(rng, (0.0, 0.12), (0.8, 0.97)), rng.uniform(55, 80)

    def paint(u, v, below):
        face = np.where(v < top, 1.0, 0.86)
        face = np.where((u > right) & (u - right > top - v), 0.68, face)
        u = u + 0.03 * noise(rng, u, v, 9)
        turns = (0, np.pi / 3, -np.pi / 3)  # three waves make domes in a hexagonal lattice
        waves = [np.cos(beads * (u * np.cos(turn) + v * np.sin(turn))) for turn in turns]
        return base * (face + 0.055 * np.sum(waves, 0))[..., None]

    return Item([jagged(rng, block, 0.012, 4)], paint)


def plastic_bag(rng: Rng) -> Item:
    """A bulging bag whose folds run to the knot; most have two handles, polygons of their own."""
    body = revolve([-0.33, -0.25, -0.1, 0.15, 0.38, 0.5], [0.06, 0.14, 0.33, 0.42, 0.38, 0.2])
    handle = smooth(xy([0.04, 0.16, 0.27, 0.28, 0.06], [-0.27, -0.47, -0.5, -0.4, -0.22]))
    handles = [handle, handle * (-1, 1)] if rng.random() < 0.75 else []
    base, inside = colour(rng, (0.0, 0.55), (0.2, 0.97)), colour(rng, (0.2, 0.7), (0.2, 0.8))
    clear = rng.uniform(0.05, 0.4)

    def paint(u, v, below):
        around = 4 * np.arctan2(u, v + 0.4) + 0.8 * noise(rng, u, v, 4)
        outward = np.hypot(u, v + 0.4)
        folds = noise(rng, around, outward, 2)
        shade = 0.85 + 0.35 * folds - 0.5 * u - 0.6 * np.clip(np.hypot(u, v - 0.1) - 0.25, 0, 1)
        shine = 0.55 * creases(rng, around, outward, 2) * (folds > -0.2)
        shine += 0.6 * creases(rng, u, v, 8) * np.clip(folds, 0, 1)
        contents = lerp(below, inside, noise(rng, u, v, 4) > 0)
        return lerp(base, contents, clear) * shade[..., None] + shine[..., None]

    return Item([smooth(jagged(rng, body, 0.045, 1)), *handles], paint)


def battery(rng: Rng) -> Item:
    """A small cylinder of two tones with a nub."""
    half, share = rng.uniform(0.17, 0.22), rng.uniform(-0.2, 0.0)
    band = colour(rng, (0.5, 0.85), (0.7, 0.95), hue=(0.04, 0.14))
    body = colour(rng, (0.0, 0.8), (0.08, 0.35))

    def paint(u, v, below):
        x = u / half
        rgb = lerp(lerp(body, band, v < share), 0.75, (v < -0.43) | (v > 0.45))
        return rgb * (0.3 + 0.8 * roundness(x))[..., None] + 0.5 * bump(x + 0.4, 0.15)[..., None]

    return Item([revolve([-0.5, -0.43, -0.43, 0.5], [0.07, 0.07, half, half])], paint)


def clothing(rng: Rng) -> Item:
    """A T-shirt or a sock: woven stripes."""
    halves = [0.01, 0.09, 0.23, 0.5, 0.38, 0.24, 0.22]
    shirt = revolve([-0.34, -0.42, -0.4, -0.12, 0.02, -0.12, 0.45], halves)
    x = [0.02, 0.27, 0.25, 0.22, 0.05, -0.3, -0.42, -0.38, -0.1, 0.0]
    sock = smooth(xy(x, [-0.5, -0.5, 0.05, 0.35, 0.5, 0.5, 0.4, 0.25, 0.15, 0.0]), 1)
    outline = jagged(rng, shirt if rng.random() < 0.65 else sock, 0.015, 1)
    first, second = colour(rng, (0.1, 0.8), (0.2, 0.85)), colour(rng, (0.0, 0.7), (0.2, 0.95))
    stripes = rng.uniform(30, 50)

    def paint(u, v, below):
        stripe = np.sin(stripes * (v + 0.03 * noise(rng, u, v, 4))) > 0
        weave = 0.12 * np.sin(150 * u) * np.sin(150 * v)
        shade = 0.9 + weave + 0.25 * noise(rng, u, v, 5)
        return lerp(first, second, stripe) * shade[..., None]

    return Item([outline], paint)


PAINTERS = {
    "General trash": general_trash,
    "Paper": paper,
    "Paper pack": paper_pack,
    "Metal": metal,
    "Glass": glass,
    "Plastic": plastic,
    "Styrofoam": styrofoam,
    "Plastic bag": plastic_bag,
    "Battery": battery,
    "Clothing": clothing,
}


# The background.


def leaf(rng: Rng) -> Item:
    half, base = rng.uniform(0.15, 0.25), colour(rng, (0.4, 0.8), (0.25, 0.6), hue=(0.05, 0.35))

    def paint(u, v, below):
        veins = 0.3 * bump(u, 0.02) + 0.12 * np.sin(60 * (v + np.abs(u)))
        return base * (0.9 + veins)[..., None]

    return Item([smooth(revolve([-0.5, -0.1, 0.15, 0.5], [0.01, half, half, 0.01]))], paint)


def stone(rng: Rng) -> Item:
    base = colour(rng, (0.0, 0.15), (0.3, 0.65))

    def paint(u, v, below):
        return base * (0.9 - 1.2 * u - 0.8 * v + 0.15 * noise(rng, u, v, 24))[..., None]

    return Item([smooth(blob(rng, 9, 0.3, 0.75) / 2)], paint)


def stain(rng: Rng) -> Item:
    dark = np.float32(rng.uniform(0.55, 0.85))
    return Item([smooth(blob(rng, 14, 0.5, 0.7), 3)], lambda u, v, below: below * dark)


def line(rng: Rng) -> Item:
    """A bent crack, twig or painted line."""
    half, bend = rng.uniform(0.01, 0.04), rng.uniform(-0.2, 0.2)
    ink = colour(rng, (0.0, 0.5), (0.1, 0.9))
    x, y = np.array([-1.5, 0, 1.5]), np.array([0, bend, 0])
    stroke = np.concatenate([xy(x, y - half), xy(x[::-1], y + half)])
    return Item([stroke], lambda u, v, below: lerp(below, ink, 0.6))


CLUTTER = (leaf, stone, stain, line)


def ground(rng: Rng, size: int, scale: int) -> Array:
    """One of five grounds, turned by any angle, as a canvas [h, w, 3] of `scale` times `size`."""
    y, x = (np.mgrid[:size, :size].astype(np.float32) + 0.5) / size
    angle = np.float32(rng.uniform(-np.pi, np.pi))
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    image = (concrete, planks, grass, tiles, belt)[rng.integers(5)](rng, u, v)
    image = image * (1 + 0.15 * noise(rng, u, v, 3))[..., None]
    return image.astype(np.float32).repeat(scale, 0).repeat(scale, 1)


def concrete(rng: Rng, u: Array, v: Array) -> Array:
    cracks = creases(rng, u, v, 2) ** 4
    shade = 1 + 0.12 * noise(rng, u, v, 9) + 0.1 * noise(rng, u, v, 50) - 0.35 * cracks
    return colour(rng, (0.0, 0.2), (0.35, 0.7)) * shade[..., None]


def planks(rng: Rng, u: Array, v: Array) -> Array:
    row = v * rng.uniform(4, 7)
    grain = 0.2 * noise(rng, u * 0.1, v, 40) + 0.12 * noise(rng, u * 0, np.floor(row), 1)
    shade = 0.95 + grain - 0.5 * bump(row - np.round(row), 0.05)
    return colour(rng, (0.25, 0.6), (0.4, 0.7), hue=(0.04, 0.12)) * shade[..., None]


def grass(rng: Rng, u: Array, v: Array) -> Array:
    blades = [noise(rng, u + lean * v, v * 0.15, 60) for lean in (-0.4, 0.0, 0.4)]
    shade = 0.75 + 0.5 * np.max(blades, 0) + 0.2 * noise(rng, u, v, 6)
    return colour(rng, (0.2, 0.6), (0.3, 0.55), hue=(0.12, 0.32)) * shade[..., None]


def tiles(rng: Rng, u: Array, v: Array) -> Array:
    across = rng.uniform(2.5, 5)
    x, y = u * across, v * across
    joint = np.maximum(bump(x - np.round(x), 0.03), bump(y - np.round(y), 0.03))
    shade = 1 + 0.12 * noise(rng, np.floor(x), np.floor(y), 1) - 0.4 * joint
    return colour(rng, (0.0, 0.3), (0.45, 0.8)) * (shade + 0.05 * noise(rng, u, v, 40))[..., None]


def belt(rng: Rng, u: Array, v: Array) -> Array:
    ridges = 0.12 * np.sin(rng.uniform(55, 100) * v)
    shade = 1 + ridges + 0.12 * noise(rng, u, v, 40) + 0.15 * noise(rng, u, v * 0.1, 12)
    return colour(rng, (0.0, 0.3), (0.15, 0.4)) * shade[..., None]
