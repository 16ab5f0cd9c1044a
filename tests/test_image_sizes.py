"""Training on smaller images first: the size of each step, and batches scaled down to it."""

import jax.numpy as jnp
import numpy as np
import pytest

from trashseg_jax.data import image_sizes, scaling


@pytest.mark.parametrize("total", [3, 9, 10, 11, 300])
@pytest.mark.parametrize("sizes", [(64,), (32, 64), (32, 64, 96)])
def test_sizes_rise_and_share_the_steps_evenly(total, sizes):
    taken = [image_sizes.size_at(step, total=total, sizes=sizes) for step in range(1, total + 1)]
    assert taken == sorted(taken)
    shares = [taken.count(size) for size in sizes]
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1


def test_run_shorter_than_its_sizes_takes_the_last_ones():
    taken = [image_sizes.size_at(step, total=2, sizes=(32, 64, 96)) for step in (1, 2)]
    assert taken[-1] == 96


@pytest.mark.parametrize("size", [64, 32])
def test_shrunk_images_are_pillows_and_labels_the_nearest(size):
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(256, size=(2, 96, 96, 3), dtype=np.uint8),
        "label": rng.integers(11, size=(2, 96, 96), dtype=np.uint8),
        "weight": rng.integers(200, size=(2, 96, 96), dtype=np.uint8),
        "crop": np.full((2, 2), 96, np.int32),
    }
    actual = image_sizes.shrink({k: jnp.asarray(v) for k, v in batch.items()}, size=size)
    assert actual.keys() == batch.keys()
    for key, rows in batch.items():
        one_by_one = {
            "image": lambda row: scaling.fit_photo(row, size),
            "crop": lambda row: row,
        }.get(key, lambda row: scaling.scale_label(row, (size, size)))
        expected = np.stack([one_by_one(row) for row in rows])
        assert actual[key].dtype == rows.dtype
        # Pillow's weights are rounded: where a value lies near a half, it may round elsewhere.
        difference = np.abs(actual[key].astype(float) - expected)
        assert difference.max() <= (1 if key == "image" else 0)
        assert difference.mean() < 0.01


def test_batch_of_the_steps_size_stays_as_it_is():
    batch = {"image": jnp.ones((1, 32, 32, 3), jnp.uint8), "label": jnp.ones((1, 32, 32))}
    assert image_sizes.shrink(batch, size=32) is batch
