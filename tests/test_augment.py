import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trashseg_jax.data import augment, warp
from trashseg_jax.data import augment_color as color
from trashseg_jax.data.host_tensorflow import tf
from trashseg_jax.errors import InputError

RNG = np.random.default_rng(0)
IMAGE = jnp.asarray(RNG.integers(0, 256, (64, 4, 5, 3)), jnp.uint8)
BATCH = {"image": IMAGE, "label": IMAGE[..., 0]}
OFF = dict.fromkeys((*augment.AUGMENTATIONS, *augment.WARPS), 0)


def apply(seed=0, **options):
    return jax.jit(augment.make_augment(**{**OFF, **options}))(jax.random.key(seed), BATCH)


def test_nothing_asked_for_changes_nothing():
    for key, value in apply().items():
        np.testing.assert_array_equal(value, BATCH[key])


def test_flip_mirrors_image_and_label_together_in_about_half_of_the_images():
    actual = apply(flip=True)
    np.testing.assert_array_equal(actual["image"][..., 0], actual["label"])
    flipped = np.all(actual["label"] == BATCH["label"][:, :, ::-1], axis=(1, 2))
    kept = np.all(actual["label"] == BATCH["label"], axis=(1, 2))
    assert np.all(flipped ^ kept)
    assert 16 <= flipped.sum() <= 48  # 4 standard deviations of Binomial(64, 1/2)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_jitter_changes_colours_but_no_label_and_depends_on_the_key(name):
    first, again, other = apply(**{name: 0.4}), apply(**{name: 0.4}), apply(1, **{name: 0.4})
    np.testing.assert_array_equal(first["label"], BATCH["label"])
    np.testing.assert_array_equal(first["image"], again["image"])
    assert np.any(first["image"] != other["image"])
    assert first["image"].dtype == jnp.uint8


def test_factors_reach_both_ends_of_their_range():
    """Of 64 uniform draws each end's fifth stays empty once in 10^6."""
    batch = {**BATCH, "image": jnp.full_like(IMAGE, 100)}
    change = augment.make_augment(**{**OFF, "brightness": 0.5})
    grey = np.asarray(change(jax.random.key(0), batch)["image"])
    assert 50 <= grey.min() < 70
    assert 130 < grey.max() <= 150


def test_adjustments_do_what_their_names_say():
    image = jnp.full((1, 2, 2, 3), 100.0).at[0, 0, 0].set(jnp.array([200.0, 50.0, 20.0]))
    two, zero = jnp.full((1, 1, 1, 1), 2.0), jnp.zeros((1, 1, 1, 1))
    np.testing.assert_allclose(color.adjust_brightness(image, two, None)[0, 1, 1], 200)
    np.testing.assert_allclose(color.adjust_brightness(image, two, None)[0, 0, 0, 0], 255)
    flat = color.adjust_contrast(image, zero, None)
    np.testing.assert_allclose(flat, color.luma(image).mean(), rtol=1e-6)
    grey = color.adjust_saturation(image, zero, None)[0, 0, 0]
    np.testing.assert_allclose(grey, colorsys.rgb_to_yiq(200, 50, 20)[0], rtol=2e-2)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize(("height", "width"), [(4, 8), (8, 5), (8, 8)])
def test_letterboxed_content_is_jittered_as_if_it_were_the_image(name, height, width):
    """Whatever part of it is ignored; the padding stays black, wherever a flip puts it."""
    content = jnp.asarray(RNG.integers(0, 256, (64, height, width, 3)), jnp.uint8)
    label = content[..., 0].at[:, 0].set(255)
    pad = [(0, 0), (0, 8 - height), (0, 8 - width)]
    fitted = {
        "image": jnp.pad(content, [*pad, (0, 0)]),
        "label": jnp.pad(label, pad, constant_values=255),
        "size": jnp.tile(jnp.array([height, width], jnp.int32), (64, 1)),
    }
    change, key = augment.make_augment(**{**OFF, name: 0.5, "flip": True}), jax.random.key(0)
    actual = change(key, fitted)
    assert actual.keys() == fitted.keys()
    alone = change(key, {"image": content, "label": label})
    flipped = np.any(actual["label"][:, 1, :width] != label[:, 1], axis=1)
    assert flipped.any()
    assert not flipped.all()
    for i in range(64):
        left = 8 - width if flipped[i] else 0
        expected = np.zeros((8, 8, 3))
        expected[:height, left : left + width] = alone["image"][i]
        np.testing.assert_allclose(actual["image"][i], expected, atol=1)  # a rounding apart
        np.testing.assert_array_equal(actual["image"][i, height:], 0)
        np.testing.assert_array_equal(actual["image"][i, :, left + width :], 0)
        np.testing.assert_array_equal(actual["image"][i, :, :left], 0)


def test_normalize_is_the_published_formula():
    actual = augment.make_normalize("imagenet")(IMAGE)[0, 0, 0]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(actual, (np.asarray(IMAGE[0, 0, 0]) / 255 - mean) / std, rtol=1e-4)
    np.testing.assert_allclose(augment.make_normalize("unit")(IMAGE), IMAGE / 255, rtol=1e-6)


def test_unknown_normalization_is_refused():
    with pytest.raises(InputError, match="imagenet, inception, unit"):
        augment.make_normalize("zscore")


def test_scaled_crops_are_what_tensorflow_makes_of_them():
    size = 32
    crops = [(1, 1), (1, 32), (32, 32), (31, 2), *RNG.integers(1, 33, (60, 2))]
    image = RNG.integers(0, 256, (64, size, size, 3), np.uint8)
    batch = {"image": image, "label": image[..., 0], "crop": np.array(crops, np.int32)}
    actual = jax.jit(warp.scale_crops)(batch)
    assert actual.keys() == {"image", "label"}
    for i, (height, width) in enumerate(crops):
        crop = image[i, :height, :width]
        expected = tf.image.resize(crop, (size, size), "bilinear", antialias=True)
        # Half a grey level is the rounding; the rest is float32.
        np.testing.assert_allclose(actual["image"][i], expected, atol=0.501)
        nearest = tf.image.resize(crop[..., :1], (size, size), "nearest")
        np.testing.assert_array_equal(actual["label"][i], nearest[..., 0])


def test_a_new_map_of_values_moves_as_the_label_does():
    """So that a key of the batch, a weight of each pixel say, needs no change here."""
    crop = jnp.asarray(RNG.integers(1, 5, (64, 2)), jnp.int32)
    square = {"image": IMAGE[:, :4, :4], "label": IMAGE[:, :4, :4, 0], "crop": crop}
    batch = {**square, "weight": square["label"] / 2, "name": jnp.arange(64)}
    change = augment.make_augment(**{**OFF, "flip": True})
    actual = change(jax.random.key(0), batch)
    np.testing.assert_array_equal(actual["weight"], actual["label"] / 2)
    np.testing.assert_array_equal(actual["name"], batch["name"])


def test_crops_are_scaled_before_anything_else():
    batch = {**BATCH, "image": IMAGE[:, :4, :4], "label": IMAGE[:, :4, :4, 0]}
    crop = jnp.tile(jnp.array([2, 3], jnp.int32), (64, 1))
    options = {"flip": True, "brightness": 0.3, "contrast": 0.3, "saturation": 0.3}
    change, key = augment.make_augment(**{**OFF, **options}), jax.random.key(0)
    actual = change(key, {**batch, "crop": crop})
    expected = change(key, warp.scale_crops({**batch, "crop": crop}))
    for name in ("image", "label"):
        np.testing.assert_array_equal(actual[name], expected[name])
