import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trashseg_jax import optim, steps
from trashseg_jax.checkpoint import Checkpoints
from trashseg_jax.errors import InputError

PARAMS = {"conv": {"kernel": jnp.ones((3, 2))}}


def state_at(step, *, width=2, name="adamw"):
    params = {"conv": {"kernel": jnp.full((3, width), float(step))}}
    schedule = optim.make_schedule("cosine", learning_rate=0.1, steps=9, warmup_steps=2)
    tx = optim.make_optimizer(name, schedule, weight_decay=0.1, clip_norm=1.0)
    ema = {"params": jax.tree.map(jnp.copy, params), "batch_stats": {}}
    return steps.TrainState(jnp.array(step), params, {}, tx.init(params), ema)


def save(folder, mious, *, keep=2):
    with Checkpoints(folder, keep=keep) as checkpoints:
        for step, miou in mious.items():
            checkpoints.save(state_at(step), miou=miou)


def test_restored_state_equals_the_saved_one(tmp_path):
    save(tmp_path, {3: 0.5})
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        restored = checkpoints.restore(3, state_at(0))
    assert jax.tree.structure(restored) == jax.tree.structure(state_at(3))
    jax.tree.map(np.testing.assert_array_equal, restored, state_at(3))


def test_latest_and_best_are_kept(tmp_path):
    save(tmp_path, {1: 0.1, 2: 0.9, 3: None, 4: 0.3, 5: 0.2, 6: None})
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert (checkpoints.latest_step, checkpoints.best_step) == (6, 2)
        assert checkpoints.restore(2, state_at(0)).step == 2
    kept = {int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()}
    assert kept == {2, 5, 6}


def test_nothing_saved_means_no_step(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest_step is None
        assert checkpoints.best_step is None


def test_saving_a_step_again_keeps_the_first(tmp_path):
    save(tmp_path, {1: 0.5})
    save(tmp_path, {1: 0.7})
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.latest_step == 1


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"width": 5}, r"ema/params/conv/kernel is float32\[3, 2\] .* float32\[3, 5\]"),
        ({"name": "adam"}, r"opt_state/"),
    ],
)
def test_another_model_or_optimizer_is_refused_by_name(tmp_path, other, named):
    save(tmp_path, {1: 0.5})
    with (
        Checkpoints(tmp_path, keep=2) as checkpoints,
        pytest.raises(InputError, match=named) as error,
    ):
        checkpoints.restore(1, state_at(0, **other))
    assert "\n" not in str(error.value)
