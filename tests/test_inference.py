"""From photographs of any size to classes: laws of fitting, tiles, views and blocks."""

from functools import partial
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trashseg_jax import inference
from trashseg_jax.data import augment, scaling
from trashseg_jax.data.host_tensorflow import tf
from trashseg_jax.errors import InputError

NORMALIZE = augment.make_normalize("unit")
SIZES = ((45, 77), (64, 64), (130, 51), (7, 200), (20, 20), (1, 3))


class Colours(nn.Module):
    """The class is the strongest of the colours red, green and blue."""

    def __call__(self, image, *, train):
        del train
        return image * 50


def photos(sizes=SIZES, seed=0):
    """Smooth random pictures."""
    rng = np.random.default_rng(seed)
    for height, width in sizes:
        coarse = rng.uniform(0, 255, (height // 8 + 2, width // 8 + 2, 3))
        yield np.asarray(jax.image.resize(coarse, (height, width, 3), "linear")).astype(np.uint8)


def segmenter(model=None, variables=None, **options):
    defaults = {"num_classes": 3, "image_size": 64, "scale": "fit", "tile_scale": 1.0, "tta": ()}
    return inference.Segmenter(
        model or Colours(),
        variables or {},
        normalize=NORMALIZE,
        **{**defaults, "batch_size": 4, **options},
    )


@pytest.fixture(scope="module")
def network(tiny_model):
    variables = tiny_model.lazy_init(
        jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32), train=False
    )
    return tiny_model, variables


def plain_logits(network, image, side):
    """The photograph's logits at its own size, by jax.image.resize alone."""
    model, variables = network
    small = scaling.fit_photo(image, side)
    padded = jnp.asarray(scaling.pad_photo(small, side))
    logits = model.apply(variables, NORMALIZE(padded)[None], train=False)[0]
    inner = logits[: small.shape[0], : small.shape[1]]
    shape = (*image.shape[:2], logits.shape[-1])
    return np.asarray(jax.image.resize(inner, shape, "linear", antialias=False))


def assert_decided(found, scores, probs):
    """The classes are the highest scores but where two are alike, with their probabilities."""
    chosen = np.take_along_axis(scores, found.classes[..., None].astype(int), -1)[..., 0]
    assert np.all(chosen >= scores.max(-1) - 1e-4)
    np.testing.assert_allclose(found.confidence, probs.max(-1), atol=1e-3)
    np.testing.assert_allclose(found.probs, probs, atol=1e-3)


def test_fit_is_the_model_on_the_scaled_photograph_and_its_logits_scaled_back(network):
    found = list(segmenter(*network, num_classes=11, keep_probs=True).segment(photos()))
    for one, image in zip(found, photos(), strict=True):
        logits = plain_logits(network, image, 64)
        assert_decided(one, logits, np.asarray(jax.nn.softmax(logits)))


def test_views_are_averaged_as_probabilities(network):
    """Mirrored, and at the multiples of the output stride of 32 next to 96 x (0.75, 1.25)."""
    options = {"num_classes": 11, "image_size": 96, "tta": ("flip", "scales"), "keep_probs": True}
    sizes = SIZES[:3]
    for one, image in zip(
        segmenter(*network, **options).segment(photos(sizes)), photos(sizes), strict=True
    ):
        views = []
        for side in (96, 64, 128):
            logits = plain_logits(network, image, side)
            mirrored = plain_logits(network, image[:, ::-1], side)[:, ::-1]
            views += [jax.nn.softmax(logits), jax.nn.softmax(mirrored)]
        probs = np.mean(views, 0)
        assert_decided(one, probs, probs)


def test_blocks_are_seamless(network, monkeypatch):
    """A photograph of many blocks against one of a single block."""
    image = next(photos(((150, 210),)))
    whole = next(segmenter(*network, num_classes=11).segment(iter([image])))
    monkeypatch.setattr(inference, "BLOCK", 64)
    parts = next(segmenter(*network, num_classes=11).segment(iter([image])))
    np.testing.assert_array_equal(parts.classes, whole.classes)
    np.testing.assert_array_equal(parts.confidence, whole.confidence)


@pytest.mark.parametrize("scale", ["fit", "tile"])
def test_mirrored_views_of_a_model_that_knows_no_place_change_nothing(scale):
    plain = segmenter(scale=scale).segment(photos())
    flipped = segmenter(scale=scale, tta=("flip",)).segment(photos())
    for a, b in zip(plain, flipped, strict=True):
        np.testing.assert_array_equal(a.classes, b.classes)
        np.testing.assert_allclose(a.confidence, b.confidence, atol=1e-3)


def test_tiles_keep_every_pixel_of_a_model_of_colours():
    """Below, at, and above the window's size, upright and lying."""
    found = segmenter(scale="tile", image_size=32, keep_probs=True).segment(photos())
    for one, image in zip(found, photos(), strict=True):
        probs = np.asarray(jax.nn.softmax(image.astype(np.float32) / 255 * 50))
        assert_decided(one, probs, probs)


def test_tiles_blend_the_windows_of_a_network_by_their_weights(network):
    """By brute force over the whole photograph."""
    image = next(photos(((75, 110),)))
    model, variables = network
    total, weight = np.zeros((75, 110, 11)), np.zeros((75, 110, 1))
    bell = np.sin(np.pi * (np.arange(64) + 0.5) / 64) ** 2
    for top in (0, 11):  # two windows down, two across
        for left in (0, 46):
            part = np.s_[top : top + 64, left : left + 64]
            logits = model.apply(variables, NORMALIZE(jnp.asarray(image[part]))[None], train=False)
            weights = np.outer(bell, bell)[..., None]
            total[part] += weights * np.asarray(jax.nn.softmax(logits[0]))
            weight[part] += weights
    found = segmenter(*network, num_classes=11, scale="tile", keep_probs=True)
    probs = total / weight
    assert_decided(next(found.segment(iter([image]))), probs, probs)


@pytest.mark.parametrize("factor", [0.3, 0.75, 1.7])
def test_tiles_at_another_scale_are_those_of_the_scaled_photograph_scaled_back(network, factor):
    """Windows of the photograph that Pillow scales; probabilities back by jax.image.resize."""
    for image in photos(((75, 110), (1, 3), (130, 51))):
        size = scaling.scaled_size(image.shape[:2], factor)
        small = scaling.scale_lines(image, size, top=0, bottom=size[0])
        options = {"num_classes": 11, "scale": "tile", "keep_probs": True}
        probs = next(segmenter(*network, **options).segment(iter([small]))).probs
        shape = (*image.shape[:2], 11)
        scaled = jax.image.resize(probs.astype(np.float32), shape, "linear", antialias=False)
        found = next(segmenter(*network, tile_scale=factor, **options).segment(iter([image])))
        np.testing.assert_allclose(found.probs, scaled, atol=5e-3)  # a grey level rounds otherwise
        np.testing.assert_allclose(found.confidence, found.probs.max(-1), atol=1e-3)


@given(
    *(st.tuples(st.integers(1, 40), st.integers(1, 12)) for _ in range(2)),
    st.lists(st.integers(1, 9), min_size=1),
    st.integers(1, 7),
)
def test_probabilities_that_come_in_lines_are_scaled_as_the_whole(old, new, cuts, lines):
    """In any strips, to larger and smaller sizes: by np.interp, one axis after the other."""
    probs = np.random.default_rng(0).random((*old, 2)).astype(np.float32)
    places = [at for at in np.cumsum(cuts).tolist() if at < old[0]]
    whole = np.full((*new, 2), np.nan, np.float32)
    with mock.patch.object(inference, "LINES", lines):
        parts = iter(np.split(probs, places))
        for top, part in inference.scale_probs(parts, old=old, new=new):
            assert np.isnan(whole[top : top + len(part)]).all()  # none comes twice
            whole[top : top + len(part)] = part
    expected = probs
    for axis in (0, 1):
        centres = (np.arange(new[axis]) + 0.5) * (old[axis] / new[axis]) - 0.5
        line = partial(np.interp, centres, np.arange(old[axis]))
        expected = np.apply_along_axis(line, axis, expected)
    np.testing.assert_allclose(whole, expected, atol=1e-5)


def test_a_scale_of_tiles_is_refused_where_there_are_none():
    with pytest.raises(InputError, match=r"tile_scale=0\.5: only scale='tile' reads it"):
        segmenter(tile_scale=0.5)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 56, 57, 100, 1000])
def test_weights_of_windows_sum_to_one_everywhere(length):
    starts, weights = inference.tile_axis(length, 32)
    total = np.zeros(max(length, 32))
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + 32] += weight
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    assert (starts[0], starts[-1]) == (0, max(length - 32, 0))
    assert max(np.diff(starts), default=0) <= 24.5  # a quarter of 32 is shared


def test_results_do_not_depend_on_the_photographs_beside(network):
    together = list(segmenter(*network, num_classes=11).segment(photos()))
    for image, expected in zip(photos(), together, strict=True):
        alone = next(segmenter(*network, num_classes=11).segment(iter([image])))
        np.testing.assert_array_equal(alone.classes, expected.classes)


def test_one_program_serves_photographs_of_all_sizes():
    before = inference.resize_block._cache_size()
    list(segmenter(batch_size=1, image_size=16).segment(photos([(n, 2 * n) for n in (9, 11, 14)])))
    # One a device and block's side, which is 32 for all three.
    assert inference.resize_block._cache_size() - before <= len(jax.devices())


def test_unknown_view_is_refused():
    with pytest.raises(InputError, match=r"tta='mirror'.*flip, scales"):
        segmenter(tta=("mirror",))


# On the host.


@given(
    *(st.tuples(st.integers(1, 40), st.integers(1, 20)) for _ in range(2)),
    st.tuples(st.integers(0, 39), st.integers(1, 40)),
    st.integers(1, 50),
)
def test_lines_of_a_scaled_photograph_are_those_that_pillow_makes_of_the_whole(
    old, new, part, strip
):
    """To the last bit all of them, as one resize of floats; those of a part within rounding."""
    image = np.random.default_rng(0).integers(0, 256, (*old, 3)).astype(np.uint8)
    planes = [Image.fromarray(image[..., i].astype(np.float32)) for i in range(3)]
    scaled = [np.asarray(p.resize(new[::-1], Image.Resampling.BILINEAR)) for p in planes]
    expected = np.stack(scaled, -1)
    top = min(part[0], new[0] - 1)
    bottom = min(top + part[1], new[0])
    with mock.patch.object(scaling, "STRIP", strip):
        whole = scaling.scale_lines(image, new, top=0, bottom=new[0])
        lines = scaling.scale_lines(image, new, top=top, bottom=bottom)
    np.testing.assert_array_equal(whole, np.clip(np.rint(expected), 0, 255))
    assert lines.shape == (bottom - top, new[1], 3)
    assert np.abs(lines - expected[top:bottom]).max() <= 0.502


@pytest.mark.parametrize("side", [32, 150])
def test_photographs_are_scaled_as_tensorflow_scales_them(side):
    """Within rounding: tf.image.resize with antialiasing, which the evaluation's pipeline uses."""
    for image in photos():
        size = scaling.fitted_size(image.shape[:2], side)
        expected = tf.image.resize(image, size, "bilinear", antialias=True).numpy()
        assert np.abs(scaling.fit_photo(image, side) - expected).max() <= 0.51


@pytest.mark.parametrize("size", [(5, 9), (45, 77), (100, 60)])
def test_labels_are_scaled_as_tensorflow_scales_them(size):
    label = np.random.default_rng(0).integers(0, 11, (45, 77)).astype(np.uint8)
    expected = tf.image.resize(label[..., None], size, "nearest").numpy()[..., 0]
    np.testing.assert_array_equal(scaling.scale_label(label, size), expected)
