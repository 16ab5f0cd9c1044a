"""Hue, grey, blur, CLAHE and JPEG against other libraries and brute force."""

import colorsys
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from trashseg_jax.data import augment, jpeg
from trashseg_jax.data import augment_color as color

RNG = np.random.default_rng(0)
OFF = dict.fromkeys((*augment.AUGMENTATIONS, *augment.WARPS), 0)
AMOUNTS = {"hue": 0.5, "grayscale": 0.5, "clahe": 8.0, "blur": 2.0, "jpeg": 10}


def photograph(height=40, width=48, count=1):
    """Smooth in the large, noisy in the small, as photographs are."""
    noise = RNG.normal(0, 1, (count, height, width, 3))
    large = scipy.ndimage.gaussian_filter(noise, (0, 6, 6, 0)) * 900
    small = scipy.ndimage.gaussian_filter(noise, (0, 1, 1, 0)) * 40
    return np.clip(128 + large + small, 0, 255).astype(np.uint8)


def full(value, count=1):
    return jnp.full((count, 1, 1, 1), value, jnp.float32)


def apply(image, seed=0, **options):
    batch = {"image": jnp.asarray(image), "label": jnp.zeros(image.shape[:3], jnp.uint8)}
    change = jax.jit(augment.make_augment(**{**OFF, **options}))
    return np.asarray(change(jax.random.key(seed), batch)["image"])


@pytest.mark.parametrize("turn", [-0.5, -0.1, 0.0, 0.3, 0.5])
def test_hue_is_turned_as_in_colorsys(turn):
    colors = RNG.integers(0, 256, (60, 3))
    colors[:6] = [(0, 0, 0), (255, 255, 255), (9, 9, 9), (255, 0, 0), (0, 255, 0), (7, 200, 200)]
    actual = color.adjust_hue(jnp.asarray(colors[None, None], jnp.float32), turn=full(turn))
    for result, rgb in zip(np.asarray(actual)[0, 0], colors, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(rgb / 255))
        expected = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
        np.testing.assert_allclose(result, np.array(expected) * 255, atol=0.01)


@pytest.mark.parametrize("sigma", [0.6, 1.0, 2.5])
def test_blur_is_scipys_gaussian_filter(sigma):
    """With zeros beyond the edge and divided by the same of ones: none darkens what is inside."""
    image, radius = photograph().astype(np.float32), 10
    blur = {"sigma": (0, sigma, sigma, 0), "mode": "constant", "radius": (0, radius, radius, 0)}
    actual = color.gaussian_blur(jnp.asarray(image), None, sigma=full(sigma), radius=radius)
    expected = scipy.ndimage.gaussian_filter(image, **blur)
    expected /= scipy.ndimage.gaussian_filter(np.ones_like(image), **blur)
    np.testing.assert_allclose(actual, expected, atol=0.01)


def test_blur_by_no_sigma_changes_nothing():
    image = jnp.asarray(photograph(), jnp.float32)
    np.testing.assert_array_equal(color.gaussian_blur(image, None, sigma=full(0), radius=3), image)


@pytest.mark.parametrize("name", ["clahe", "blur"])
def test_what_is_no_content_has_no_part_in_the_content(name):
    image = jnp.asarray(photograph(32, 32), jnp.float32)
    content = jnp.zeros((1, 32, 32, 1), bool).at[:, 3:20, :25].set(True)
    adjust = {
        "clahe": lambda image: color.equalize_tiles(image, content, limit=full(4)),
        "blur": lambda image: color.gaussian_blur(image, content, sigma=full(2), radius=6),
    }[name]
    adjust = jax.jit(adjust)
    shown = [adjust(jnp.where(content, image, beyond))[0, 3:20, :25] for beyond in (0, 255)]
    np.testing.assert_array_equal(*shown)


@pytest.mark.parametrize("quality", [10, 50, 75, 95])
@pytest.mark.parametrize("shape", [(48, 64), (40, 56)])
def test_jpeg_is_nearly_what_pillow_encodes_and_decodes(shape, quality):
    """libjpeg's transforms are of integers, so that a coefficient may be rounded differently."""
    image = photograph(*shape)
    file = io.BytesIO()
    Image.fromarray(image[0]).save(file, "jpeg", quality=quality, subsampling="4:2:0")
    expected = np.asarray(Image.open(file)).astype(float)
    given = jnp.asarray(image, jnp.float32), jnp.array([quality], jnp.float32)
    actual = jax.jit(jpeg.compress)(*given)[0]
    apart = np.abs(actual - expected)
    lost = np.abs(expected - image[0])
    assert apart.mean() < 1.2
    assert apart.mean() < 0.3 * lost.mean()


def equalize(level, limit):
    """CLAHE by brute force: a loop over tiles and one over pixels."""
    tiles, height, width = 8, *level.shape
    maps = np.zeros((tiles, tiles, 256))
    for i, j in np.ndindex(tiles, tiles):
        tile = level[i * height // 8 : (i + 1) * height // 8, j * width // 8 : (j + 1) * width // 8]
        counts = np.bincount(tile.ravel(), minlength=256)
        clipped = np.minimum(counts, limit * tile.size / 256)
        clipped = clipped + (tile.size - clipped.sum()) / 256
        maps[i, j] = np.cumsum(clipped) * 255 / tile.size
    result = np.zeros(level.shape)
    for y, x in np.ndindex(level.shape):
        v, u = ((y + 0.5) * 8 / height - 0.5, (x + 0.5) * 8 / width - 0.5)
        v, u = np.clip([v, u], 0, 7)
        for i, j in np.ndindex(8, 8):
            share = max(0, 1 - abs(v - i)) * max(0, 1 - abs(u - j))
            result[y, x] += share * maps[i, j, level[y, x]]
    return result


@pytest.mark.parametrize("limit", [0.0, 2.0, 40.0])
def test_clahe_of_grey_is_the_brute_force(limit):
    level = photograph(32, 40)[0, ..., 0]
    image = jnp.asarray(np.repeat(level[None, ..., None], 3, -1), jnp.float32)
    actual = jax.jit(color.equalize_tiles)(image, None, limit=full(limit))
    np.testing.assert_allclose(actual[0, ..., 1], equalize(level, limit), atol=0.02)
    if limit == 0:
        np.testing.assert_allclose(actual, image, atol=1)


@pytest.mark.parametrize("name", AMOUNTS)
def test_result_depends_on_the_key_alone_and_keeps_the_label(name):
    image = photograph(16, 16, count=8)
    first, again, other = (apply(image, seed, **{name: AMOUNTS[name]}) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    assert first.dtype == np.uint8


@pytest.mark.parametrize("name", ["grayscale", "clahe", "blur", "jpeg"])
def test_about_half_of_the_images_are_as_they_were(name):
    image = np.tile(photograph(16, 16), (64, 1, 1, 1))
    same = np.all(apply(image, **{name: AMOUNTS[name]}) == image, axis=(1, 2, 3))
    assert 16 <= same.sum() <= 48  # 4 standard deviations of Binomial(64, 1/2)


def test_grayscale_is_luma():
    image = photograph(16, 16, count=2)
    expected = np.repeat(image @ np.array([0.299, 0.587, 0.114])[:, None], 3, -1)
    np.testing.assert_allclose(apply(image, grayscale=1.0), expected, atol=0.51)
