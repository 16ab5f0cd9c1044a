"""The batch that a diverging run leaves."""

import numpy as np

from trashseg_jax import build, train
from trashseg_jax.run.divergence import save_batch


def test_all_of_a_training_batch_is_saved(tiny_config, prepared, tmp_path):
    """Its crops too, without which the step cannot be repeated."""
    config = tiny_config()
    weights = build.build_image_weights(config, prepared)
    batch = next(train.train_batches(config, prepared, weights, start_step=1))
    save_batch(tmp_path / "batch.npz", batch)
    with np.load(tmp_path / "batch.npz") as saved:
        assert set(saved.files) == batch.keys() >= {"image", "label", "id", "crop"}
        for key, value in batch.items():
            np.testing.assert_array_equal(saved[key], value)
