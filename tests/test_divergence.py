import jax.numpy as jnp
import numpy as np
import pytest

from trashseg_jax import build, train
from trashseg_jax.errors import RunError
from trashseg_jax.run import divergence
from trashseg_jax.run.divergence import FiniteWatch, check_skipped, save_batch


def scalars(finite, skipped=0):
    loss = 1.0 if finite else float("nan")
    numbers = {"finite": finite, "loss": loss, "grad_norm": 1.0, "skipped": skipped}
    return {name: jnp.asarray(number) for name, number in numbers.items()}


def watch(path, outcomes, *, stops, total):
    """Feeds the steps' outcomes, finite or not, to a watch."""
    watching = FiniteWatch(path, np.ndarray.tolist, stops=stops, total=total)
    for step, finite in enumerate(outcomes, start=1):
        watching.add(step, {"id": np.array([step])}, scalars(finite, skipped=step))
    watching.flush()


@pytest.mark.parametrize(("total", "patience"), [(10_000, 100), (9, 5), (2, 1), (1, 1)])
def test_run_that_only_skips_is_ended_after_a_hundred_updates_or_half_of_them(
    tmp_path, total, patience
):
    watch(tmp_path, [False] * (patience - 1), stops=False, total=total)
    watch(tmp_path, ([False] * (patience - 1) + [True]) * 3, stops=False, total=total)
    message = rf"^step {patience + 1}: loss nan.* last {patience} updates .*learning_rate.*nan_pol"
    with pytest.raises(RunError, match=message) as error:
        watch(tmp_path, [True] + [False] * patience, stops=False, total=total)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_run_that_stops_keeps_the_first_such_batch(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(divergence, "save_batch", lambda path, batch: saved.append(batch["id"]))
    with pytest.raises(RunError, match=r"^step 2: loss nan"):
        watch(tmp_path, [True, False, False], stops=True, total=100)
    assert saved == [[2]]


def test_run_with_most_updates_left_out_is_no_success():
    check_skipped(50, steps=100)
    with pytest.raises(RunError, match=r"^step 100: 51 of 100 updates.*learning_rate"):
        check_skipped(51, steps=100)


def test_all_of_a_training_batch_is_saved(tiny_config, prepared, tmp_path):
    """Its crops too, without which the step cannot be repeated."""
    config = tiny_config()
    weights = build.build_image_weights(config, prepared)
    sets = build.build_training_sets(config, prepared)
    batch = next(train.train_batches(config, sets, weights, None, start_step=1))
    save_batch(tmp_path / "batch.npz", batch)
    with np.load(tmp_path / "batch.npz") as saved:
        assert set(saved.files) == batch.keys() >= {"image", "label", "id", "crop"}
        for key, value in batch.items():
            np.testing.assert_array_equal(saved[key], value)
