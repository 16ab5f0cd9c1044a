"""Landmarks against NumPy in float64."""

import jax.numpy as jnp
import numpy as np
from scipy import spatial

from trashseg_jax.refine import nystrom


def points(seed, tiles=2, count=12):
    return np.random.default_rng(seed).normal(size=(tiles, 5, count)).astype(np.float32)


def test_inverse_is_that_of_the_kernel_between_the_chosen():
    candidates = points(0)
    within = np.ones((2, 12), bool)
    chosen, inverse = nystrom.pivoted_cholesky(jnp.asarray(candidates), jnp.asarray(within), rank=5)
    for landmarks, found in zip(np.asarray(chosen), inverse, strict=True):
        apart = spatial.distance.cdist(landmarks.T, landmarks.T, "sqeuclidean")
        np.testing.assert_allclose(found, np.linalg.inv(np.exp(-apart / 2)), atol=1e-4)


def test_candidates_that_add_nothing_or_are_not_within_are_not_chosen():
    candidates = points(1)
    candidates[:, :, 3:6] = candidates[:, :, :3]  # twice the same
    within = np.arange(12) < np.array([[6], [2]])
    chosen, inverse = nystrom.pivoted_cholesky(jnp.asarray(candidates), jnp.asarray(within), rank=5)
    used = np.asarray(chosen[:, 0] < nystrom.FAR)
    np.testing.assert_array_equal(used.sum(1), [3, 2])
    np.testing.assert_array_equal(np.asarray(inverse)[~used], 0)


def test_landmarks_move_to_the_mean_of_the_pixels_nearest_to_them():
    features, chosen = points(2), points(3, count=3)
    chosen[0, :, 2] = nystrom.FAR  # nothing is nearest to it: it stays
    within = np.ones((2, 12), bool)
    within[1, 4] = False
    moved = nystrom.move_to_means(*map(jnp.asarray, (chosen, features, within)))
    for tile in range(2):
        apart = spatial.distance.cdist(features[tile].T, chosen[tile].T)
        nearest = np.where(within[tile], apart.argmin(1), -1)
        for landmark in set(nearest[within[tile]]):
            mean = features[tile][:, nearest == landmark].mean(1)
            np.testing.assert_allclose(moved[tile, :, landmark], mean, rtol=1e-5)
    np.testing.assert_array_equal(moved[0, :, 2], nystrom.FAR)


def test_tiles_are_cut_row_by_row_and_put_together_again():
    image = np.arange(48).reshape(1, 6, 8).astype(np.float32)
    tiles = nystrom.to_tiles(jnp.asarray(image), 2)
    np.testing.assert_array_equal(tiles[5, 0], [18, 19, 26, 27])  # second row, second column
    np.testing.assert_array_equal(nystrom.from_tiles(tiles, 6, 8), image)


def test_sources_are_put_where_they_were_taken():
    tiles = jnp.arange(32.0).reshape(1, 2, 16) + 1
    sources = nystrom.sources_of(tiles, 2)
    np.testing.assert_array_equal(sources[0, 0], [1, 3, 9, 11])
    put = nystrom.at_sources(sources, 16)
    taken = np.isin(np.arange(16), [0, 2, 8, 10])
    np.testing.assert_array_equal(put, np.where(taken, tiles, 0))
