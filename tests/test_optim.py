import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trashseg_jax import optim
from trashseg_jax.errors import InputError

PARAMS = {"conv": {"kernel": jnp.full((2, 3), 0.5)}, "bn": {"scale": jnp.full(3, 2.0)}}
GRADS = {"conv": {"kernel": jnp.full((2, 3), 0.1)}, "bn": {"scale": jnp.full(3, -0.3)}}


def schedule(name, warmup_steps=0):
    return optim.make_schedule(name, learning_rate=0.4, steps=110, warmup_steps=warmup_steps)


def update(name, *, weight_decay=0.0, clip_norm=0.0, steps=1):
    tx = optim.make_optimizer(
        name, optax.constant_schedule(0.1), weight_decay=weight_decay, clip_norm=clip_norm
    )
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(steps):
        updates, state = tx.update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize(
    ("name", "half", "end"),
    [("constant", 0.4, 0.4), ("cosine", 0.2, 0.0), ("polynomial", 0.4 * 0.5**0.9, 0.0)],
)
def test_schedules_after_the_warmup(name, half, end):
    actual = [schedule(name, 10)(step) for step in (10, 60, 110)]
    np.testing.assert_allclose(actual, [0.4, half, end], atol=1e-7)


def test_warmup_is_linear_and_starts_above_zero():
    actual = [schedule("cosine", 10)(step) for step in range(11)]
    np.testing.assert_allclose(actual, 0.4 / 11 + np.arange(11) * (0.4 - 0.4 / 11) / 10, rtol=1e-5)


def test_adam_follows_torch_with_l2_in_the_gradient():
    """torch.optim.Adam's update written out, weight decay on every parameter."""
    param, mean, square = 0.5, 0.0, 0.0
    for t in (1, 2, 3):
        grad = 0.1 + 0.01 * param
        mean, square = 0.9 * mean + 0.1 * grad, 0.999 * square + 0.001 * grad**2
        param -= 0.1 * (mean / (1 - 0.9**t)) / ((square / (1 - 0.999**t)) ** 0.5 + 1e-8)
    actual = update("adam", weight_decay=0.01, steps=3)
    np.testing.assert_allclose(actual["conv"]["kernel"], param, rtol=3e-5)


def test_adam_decays_scales_too_but_adamw_spares_them():
    for name, decays in (("adam", True), ("adamw", False)):
        plain, decayed = (update(name, weight_decay=w, steps=2) for w in (0.0, 0.1))
        assert np.allclose(plain["bn"]["scale"], decayed["bn"]["scale"], rtol=1e-6) != decays


def test_adamw_shrinks_kernels_by_rate_times_decay():
    plain, decayed = (update("adamw", weight_decay=w) for w in (0.0, 0.1))
    difference = plain["conv"]["kernel"] - decayed["conv"]["kernel"]
    np.testing.assert_allclose(difference, 0.1 * 0.1 * 0.5, rtol=1e-4)


def test_clipping_scales_the_gradient_to_the_norm():
    tx = optim.make_optimizer(
        "adam", optax.constant_schedule(0.1), weight_decay=0.0, clip_norm=0.01
    )
    _, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    moments = optax.tree_utils.tree_get(state, "mu")
    # After one step the first moment is 0.1 times the clipped gradient.
    np.testing.assert_allclose(optax.tree.norm(moments), 0.1 * 0.01, rtol=1e-5)


@pytest.mark.parametrize("make", [lambda: schedule("linear"), lambda: update("sgd")])
def test_unknown_names_are_refused_with_the_choices(make):
    with pytest.raises(InputError, match="must be one of"):
        make()
