"""Crops and the warp: its homographies, its pixels, and that all of an image moves alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from trashseg_jax.data import augment, warp

RNG = np.random.default_rng(0)
SIZE = 24
IMAGE = RNG.integers(0, 256, (8, SIZE, SIZE, 3), np.uint8)
BATCH = {"image": jnp.asarray(IMAGE), "label": jnp.asarray(IMAGE[..., 0] % 11)}
OFF = dict.fromkeys((*augment.AUGMENTATIONS, *augment.WARPS), 0)
AMOUNTS = {"rotation": 40.0, "scale": (0.5, 2.0), "perspective": 0.6}
# Bends as well as turns; the same for all images.
FRAME = np.array([[0.9, 0.25, -2.0], [-0.2, 1.1, 3.0], [0.004, -0.003, 1.0]])


move = jax.jit(warp.warp)


def frames(matrix, count=8):
    return jnp.tile(jnp.asarray(matrix, jnp.float32), (count, 1, 1))


def about_the_middle(matrix):
    move = np.array([[1, 0, SIZE / 2], [0, 1, SIZE / 2], [0, 0, 1]])
    return move @ matrix @ np.linalg.inv(move)


def smooth(size=SIZE):
    """Something whose blends differ from their neighbours by little."""
    noise = RNG.uniform(0, 255, (8, size, size, 3))
    return scipy.ndimage.gaussian_filter(noise, (0, 3, 3, 0)).astype(np.uint8)


def test_identity_changes_nothing():
    actual = move(BATCH, frames(np.eye(3)))
    np.testing.assert_array_equal(actual["image"], IMAGE)
    np.testing.assert_array_equal(actual["label"], BATCH["label"])
    assert actual["content"].all()


def test_right_angle_is_rot90():
    turned = about_the_middle(np.asarray(warp.rotation(jnp.deg2rad(90.0))))
    actual = move(BATCH, frames(turned))
    np.testing.assert_array_equal(actual["image"], np.rot90(IMAGE, axes=(1, 2)))
    np.testing.assert_array_equal(actual["label"], np.rot90(BATCH["label"], axes=(1, 2)))


def test_pixels_are_those_of_a_spline_of_order_one_and_labels_the_nearest():
    """Of scipy.ndimage, by the formula of a homography, in float64."""
    actual = move(BATCH, frames(FRAME))
    row, column = np.mgrid[:SIZE, :SIZE] + 0.5
    x, y, w = np.einsum("ij,jrc->irc", np.linalg.inv(FRAME), [column, row, np.ones_like(row)])
    x, y = x / w, y / w
    inside = (x > 0) & (y > 0) & (x < SIZE) & (y < SIZE)
    assert 0.3 < inside.mean() < 0.95
    np.testing.assert_array_equal(actual["content"], np.tile(inside, (8, 1, 1)))
    for i in range(8):
        for channel in range(3):
            expected = scipy.ndimage.map_coordinates(
                IMAGE[i, ..., channel].astype(float), [y - 0.5, x - 0.5], order=1, mode="nearest"
            )
            expected = np.where(inside, expected, 0)
            np.testing.assert_allclose(actual["image"][i, ..., channel], expected, atol=0.51)
        nearest = BATCH["label"][i][
            np.clip(y, 0, SIZE - 1).astype(int), np.clip(x, 0, SIZE - 1).astype(int)
        ]
        np.testing.assert_array_equal(actual["label"][i], np.where(inside, nearest, 255))


def test_pixels_are_those_of_pillows_perspective():
    image = smooth()
    actual = np.asarray(move({**BATCH, "image": jnp.asarray(image)}, frames(FRAME))["image"])
    back = np.linalg.inv(FRAME)
    data = (back / back[2, 2]).ravel()[:8]
    expected = Image.fromarray(image[0]).transform(
        (SIZE, SIZE), Image.Transform.PERSPECTIVE, tuple(data), Image.Resampling.BILINEAR
    )
    np.testing.assert_allclose(actual[0], expected, atol=1)


def test_a_square_goes_to_the_corners_it_is_sent_to():
    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
    corners = np.array([(0.1, 0.2), (0.9, 0.05), (0.8, 1.0), (0.0, 0.7)])
    matrix = np.asarray(warp.square_to_quad(jnp.asarray(corners, jnp.float32)))
    x, y, w = matrix @ np.vstack([square.T, np.ones(4)])
    np.testing.assert_allclose(np.stack([x / w, y / w], 1), corners, atol=1e-6)


@pytest.mark.parametrize("shape", ["whole", "crop", "size"])
def test_image_label_and_other_maps_stay_aligned(shape):
    """A label painted as the image is the label still, wherever blends don't mix two classes."""
    label = np.zeros((8, SIZE, SIZE), np.uint8)
    label[:, 5:15, 4:16] = 200
    batch = {"image": jnp.asarray(np.repeat(label[..., None], 3, -1)), "label": jnp.asarray(label)}
    batch["weight"] = batch["label"] / 2
    if shape != "whole":
        batch[shape] = jnp.tile(jnp.array([18, 20], jnp.int32), (8, 1))
    change = augment.make_augment(**{**OFF, **AMOUNTS, "flip": True, "turn": True})
    actual = jax.tree.map(np.asarray, jax.jit(change)(jax.random.key(0), batch))
    assert actual.keys() == batch.keys() - {"crop"}
    seen = actual["label"] != 255
    assert 0.1 < seen.mean() < 0.99
    image = actual["image"][..., 0]
    np.testing.assert_array_equal(image[~seen], 0)
    np.testing.assert_array_equal(actual["weight"][seen], actual["label"][seen] / 2)
    # Bilinearly at least half of a pixel's share in either direction is the nearest's.
    pure = seen & ((image == 0) | (image == 200))
    assert pure.sum() > 0.8 * seen.sum()
    np.testing.assert_array_equal(image[pure], actual["label"][pure])


def test_crops_are_scaled_as_without_a_warp():
    """By the same gather: a warp that does nothing leaves scale_crops."""
    crop = jnp.asarray(RNG.integers(2, SIZE + 1, (8, 2)), jnp.int32)
    actual = move({**BATCH, "crop": crop}, frames(np.eye(3)))
    expected = jax.jit(warp.scale_crops)({**BATCH, "crop": crop})
    np.testing.assert_allclose(actual["image"], expected["image"].astype(float), atol=1)
    # Where the middle of a pixel falls between two, either is the nearest.
    assert np.mean(actual["label"] == expected["label"]) > 0.99


def test_padding_of_a_fitted_image_counts_as_outside():
    size = jnp.tile(jnp.array([10, 20], jnp.int32), (8, 1))
    content = jnp.zeros((SIZE, SIZE), bool).at[:10, :20].set(True)
    image = jnp.where(content[None, ..., None], 100, jnp.array([7, 7, 7])).astype(
        jnp.uint8
    )  # 7 must not show
    batch = {"image": jnp.tile(image, (8, 1, 1, 1)), "label": BATCH["label"], "size": size}
    actual = move(batch, frames(FRAME))
    np.testing.assert_array_equal(actual["image"][..., 0], np.where(actual["content"], 100, 0))
    assert 0 < actual["content"].sum() < 8 * 200


@pytest.mark.parametrize("name", warp.WARPS)
def test_amounts_are_reached_and_not_exceeded(name):
    """Of 2000 draws each end's 5 % stays empty once in 10^44; corners move independently."""
    keys = jax.random.split(jax.random.key(0), 2000)
    extent = jnp.array([30.0, 60.0])
    draw = jax.jit(jax.vmap(lambda key: warp.WARPS[name](key, extent, amount=AMOUNTS[name])))
    drawn = np.asarray(draw(keys))
    corners = np.array([(-30, -15, 1), (30, -15, 1), (30, 15, 1), (-30, 15, 1)])
    moved = np.einsum("nij,cj->nci", drawn, corners)
    moved = moved[..., :2] / moved[..., 2:]
    if name == "rotation":
        measured = np.rad2deg(np.arctan2(drawn[:, 0, 1], drawn[:, 0, 0]))
        low, high = -40, 40
    elif name == "scale":
        measured, (low, high) = drawn[:, 0, 0], AMOUNTS["scale"]
        inside = np.all(np.abs(moved) <= [30.001, 15.001], axis=(1, 2))
        covers = np.all(np.abs(moved) >= [29.999, 14.999], axis=(1, 2))
        assert np.all(np.where(measured < 1, inside, covers))
    else:
        measured = (1 - np.abs(moved) / np.abs(corners[:, :2])).ravel()
        low, high = 0, 0.6
    span = high - low
    assert low - 1e-4 <= measured.min() < low + 0.05 * span
    assert high - 0.05 * span < measured.max() <= high + 1e-4


def test_draws_depend_on_the_key_alone_and_differ_between_images():
    change = jax.jit(augment.make_augment(**{**OFF, **AMOUNTS}))
    same = {key: jnp.tile(value[:1], (8, *[1] * (value.ndim - 1))) for key, value in BATCH.items()}
    first, again, other = (change(jax.random.key(seed), same)["image"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    assert len(np.unique(np.asarray(first).reshape(8, -1), axis=0)) == 8


def test_turn_is_each_right_angle_about_equally_often():
    count = 256
    batch = {
        "image": jnp.tile(BATCH["image"][:1, :8, :8], (count, 1, 1, 1)),
        "label": jnp.tile(BATCH["label"][:1, :8, :8], (count, 1, 1)),
    }
    actual = jax.jit(augment.make_augment(**{**OFF, "turn": True}))(jax.random.key(0), batch)
    for values in ("image", "label"):
        turns = [np.rot90(batch[values][0], i) for i in range(4)]
        matches = [[np.array_equal(a, t) for t in turns] for a in np.asarray(actual[values])]
        times = np.sum(matches, 0)
        assert times.sum() == count
        assert np.all(np.abs(times - count / 4) < 5 * np.sqrt(count * 3 / 16))  # 5 deviations


def test_cutout_blanks_a_square_of_image_and_label_and_no_more_than_its_share():
    image = jnp.full((256, 32, 32, 3), 9, jnp.uint8)
    batch = {"image": image, "label": jnp.zeros((256, 32, 32), jnp.uint8)}
    actual = augment.make_augment(**{**OFF, "cutout": 0.25})(jax.random.key(0), batch)
    hole = np.asarray(actual["label"]) == 255
    np.testing.assert_array_equal(actual["image"][..., 0], np.where(hole, 0, 9))
    rows, columns = hole.any(2), hole.any(1)
    np.testing.assert_array_equal(hole, rows[:, :, None] & columns[:, None, :])
    assert np.max(hole.sum((1, 2))) <= 17**2  # 16**2 is a quarter; a pixel more by its place
    assert np.max(hole.sum((1, 2))) > 14**2
    assert np.mean(hole) < 0.125  # the mean share; less what lies beyond the edge


def test_other_augmentations_leave_what_a_warp_and_a_cutout_show_black():
    colors = {"brightness": 0.5, "contrast": 0.5, "hue": 0.5, "clahe": 4.0, "blur": 2.0, "jpeg": 10}
    options = {**OFF, **AMOUNTS, **colors, "cutout": 0.3}
    actual = jax.jit(augment.make_augment(**options))(jax.random.key(0), BATCH)
    ignored = np.asarray(actual["label"]) == 255
    assert 0.1 < ignored.mean() < 0.9
    np.testing.assert_array_equal(np.asarray(actual["image"])[ignored], 0)
