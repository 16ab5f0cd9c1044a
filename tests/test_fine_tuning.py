"""Learning from weights: rates, a held encoder, held statistics, stochastic depth, dropout."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fixtures_models import assert_same, make_model
from flax import traverse_util

from trashseg_jax import build, evaluate, model_folder, optim, steps, train
from trashseg_jax.devices import sharding
from trashseg_jax.models import blocks, encoders, resnet

KEY = jax.random.key(3)
IMAGE = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
PARAMS = {"encoder": {"conv": jnp.full((2, 3), 0.5)}, "head": jnp.full((2, 3), -0.5)}
GRADS = {"encoder": {"conv": jnp.full((2, 3), 0.1)}, "head": jnp.full((2, 3), 0.3)}


# Rates.


def make_optimizer(name, *, weight_decay=0.1):
    schedule = optim.make_schedule("cosine", learning_rate=0.1, steps=50, warmup_steps=3)
    return optim.make_optimizer(name, schedule, weight_decay=weight_decay, clip_norm=0.2)


def updates_of(tx, count):
    """The updates of one gradient after the other, at the same params."""
    state, all_updates = tx.init(PARAMS), []
    for _ in range(count):
        updates, state = tx.update(GRADS, state, PARAMS)
        all_updates.append(updates)
    return all_updates


def encoder_only(factor):
    return lambda path, shape: factor if path[0] == "encoder" and shape == (2, 3) else None


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_rate_multiplies_the_encoders_updates_with_their_decay_and_no_others(name):
    tx = make_optimizer(name)
    slow = optim.scale_updates(tx, encoder_only(0.25), hold_steps=0)  # exact in binary
    for plain, scaled in zip(updates_of(tx, 4), updates_of(slow, 4), strict=True):
        np.testing.assert_array_equal(
            scaled["encoder"]["conv"], 0.25 * np.asarray(plain["encoder"]["conv"])
        )
        np.testing.assert_array_equal(scaled["head"], plain["head"])


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_held_encoder_stays_bit_for_bit_and_is_released_with_settled_moments(name):
    """From then on its updates are those of a run in which it was never held."""
    tx = make_optimizer(name)
    held = optim.scale_updates(tx, encoder_only(1.0), hold_steps=2)
    plain, held = updates_of(tx, 4), updates_of(held, 4)
    for updates in held[:2]:
        np.testing.assert_array_equal(updates["encoder"]["conv"], 0)
        assert np.all(updates["head"] != 0)
    assert_same(held[2:], plain[2:])


def test_rates_leave_the_optimizers_state_as_it_is():
    """So a run goes on with other rates, and is scored without knowing of them."""
    tx = make_optimizer("adamw")
    slow = optim.scale_updates(tx, encoder_only(0.1), hold_steps=2)
    assert jax.tree.structure(slow.init(PARAMS)) == jax.tree.structure(tx.init(PARAMS))


def config_of(tiny_config, **changes):
    config = tiny_config()
    config.update_from_flattened_dict(changes)
    return config


def tree_of(config):
    network = build.build_model(config, num_classes=11)
    shapes = model_folder.variable_shapes(network)["params"]
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.5), shapes)


def ratios(config, plain):
    """How much of the plain config's first update each leaf has, by its path."""
    params = tree_of(config)
    found = []
    for each in (config, plain):
        tx, _ = build.build_optimizer(each, steps=4)
        found.append(jax.jit(tx.update)(params, tx.init(params), params)[0])
    pairs = jax.tree.map(lambda a, b: float((a / b).mean()), *found)
    return {
        tuple(key.key for key in path): ratio
        for path, ratio in jax.tree_util.tree_leaves_with_path(pairs)
    }


EXPONENTS = {"layer4": 0, "layer3": 1, "layer2": 2, "layer1": 3, "conv1": 4, "bn1": 4}


def test_each_earlier_stage_has_its_rate_multiplied_once_more(tiny_config):
    changes = {"optimizer.encoder_rate": 0.5, "optimizer.stage_decay": 0.8}
    for path, ratio in ratios(config_of(tiny_config, **changes), tiny_config()).items():
        stage = path[1].split("_")[0]
        expected = 0.5 * 0.8 ** EXPONENTS[stage] if path[0] == "encoder" else 1
        assert ratio == pytest.approx(expected, rel=1e-4), path


@pytest.mark.parametrize("pretrained", ["", "weights.safetensors"])
def test_what_published_weights_leave_random_learns_as_the_decoder_does(tiny_config, pretrained):
    dilated = {"model.layer4": "reference_dilated", "model.pretrained": pretrained}
    slow = config_of(tiny_config, **dilated, **{"optimizer.encoder_rate": 0.5})
    found = ratios(slow, config_of(tiny_config, **dilated))
    assert found["encoder", "layer4_0", "conv1", "kernel"] == (1 if pretrained else 0.5)
    assert found["encoder", "layer4_0", "bn1", "scale"] == 0.5


@pytest.mark.parametrize("stem", [("max", 32), ("atrous", 16)])
def test_a_leafs_stage_gives_the_first_feature_that_depends_on_it(stem):
    """Counted from the last one: found by moving one leaf after the other."""
    pool, stride = stem
    encoder: Any = encoders.ENCODERS["tiny"](
        width=4,
        dtype=jnp.float32,
        output_stride=stride,
        stem_pool=pool,
        layer4="standard",
        multi_grid=(1,),
        remat=False,
        drop_path=0.0,
    )
    variables = dict(encoder.init(KEY, IMAGE[:1], train=False))

    features = jax.jit(partial(encoder.apply, train=False))
    before = features(variables, IMAGE[:1])
    leaves: dict[Any, Any] = traverse_util.flatten_dict(variables["params"])
    for path, leaf in leaves.items():
        moved = leaves | {path: leaf + 1}
        params = traverse_util.unflatten_dict(moved)
        after = features({**variables, "params": params}, IMAGE[:1])
        first = next(i for i in range(6) if np.any(after[i] != before[i]))
        assert 5 - encoder.stages_after(("params", *path)) == first, path


# Statistics.


def gradient(model, variables, *, key=KEY):
    """Gradients and statistics of a training step's forward pass."""

    def loss(params, key):
        given = {**variables, "params": params}
        logits, updated = model.apply(
            given, IMAGE, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        return jnp.square(logits).mean(), updated["batch_stats"]

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"], key)


@pytest.fixture(scope="module")
def variables():
    """Random ones, statistics too."""
    return jax.tree.map(jnp.asarray, make_model().variables)


def test_held_statistics_stay_and_scales_and_biases_learn(tiny_model, variables):
    (_, after), grads = gradient(tiny_model.clone(hold_statistics=True), variables)
    assert_same(after["encoder"], variables["batch_stats"]["encoder"])
    assert np.any(after["up1"]["bn1"]["mean"] != variables["batch_stats"]["up1"]["bn1"]["mean"])
    for leaf in ("scale", "bias"):
        assert np.any(grads["encoder"]["layer1_0"]["bn1"][leaf] != 0)


def test_encoder_with_held_statistics_gives_the_features_of_evaluation(tiny_model, variables):
    held = tiny_model.clone(hold_statistics=True)

    def features(train):
        _, state = held.apply(
            variables,
            IMAGE,
            train=train,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=lambda module, _: isinstance(module, resnet.ResNet),
        )
        return state["intermediates"]["encoder"]["__call__"]

    assert_same(features(True), features(False))


# Stochastic depth and dropout.


class Branch(nn.Module):
    rate: float

    @nn.compact
    def __call__(self, x):
        return blocks.drop_path(self, x, rate=self.rate)


def test_dropped_branches_keep_the_expectation_and_are_whole_examples():
    x = jnp.broadcast_to(jnp.arange(1.0, 7.0).reshape(1, 2, 1, 3), (4000, 2, 1, 3))
    y = np.asarray(Branch(0.3).apply({}, x, rngs={"dropout": KEY}))
    kept = (y != 0).all((1, 2, 3))
    assert np.all(kept | (y == 0).all((1, 2, 3)))
    np.testing.assert_allclose(y[kept], x[kept] / 0.7, rtol=1e-6)
    # Five deviations of a binomial share.
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.3 * 0.7 / 4000)
    np.testing.assert_allclose(y.mean(0), x[0], rtol=0.06)


@pytest.mark.parametrize(("rate", "rngs"), [(0.0, {"dropout": KEY}), (0.9, {})])
def test_without_a_rate_or_a_key_no_branch_is_dropped(rate, rngs):
    assert_same(Branch(rate).apply({}, IMAGE, rngs=rngs), IMAGE)


def test_rates_rise_linearly_to_the_last_block():
    np.testing.assert_allclose(blocks.depth_rates(0.2, 4), [0.05, 0.1, 0.15, 0.2])
    assert blocks.depth_rates(0.0, 3) == [0, 0, 0]


@pytest.mark.parametrize(("block", "features"), [(resnet.BasicBlock, 4), (resnet.Bottleneck, 1)])
def test_block_without_its_branch_is_its_shortcut(block, features):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 4)), jnp.float32)
    module = block(features, 1, (1, 1), jnp.float32, drop_path=1 - 1e-6)
    variables = module.init(KEY, x, train=False)
    y = module.apply(variables, x, train=False, rngs={"dropout": KEY})
    np.testing.assert_array_equal(y, nn.relu(x))
    assert np.any(module.apply(variables, x, train=False) != nn.relu(x))


def with_dropping(model, **changes):
    encoder = model.encoder.clone(drop_path=0.5, **changes)
    return model.clone(encoder=encoder, dropout=0.5)


def test_evaluation_is_that_of_a_network_without_either(tiny_model, variables):
    logits = [
        model.apply(variables, IMAGE, train=False)
        for model in (tiny_model, with_dropping(tiny_model))
    ]
    assert_same(*logits)


def test_dropout_takes_whole_channels_before_the_head(tiny_model, variables):
    model = tiny_model.clone(dropout=0.5)
    _, state = model.apply(
        variables,
        IMAGE,
        train=True,
        mutable=["batch_stats", "intermediates"],
        rngs={"dropout": KEY},
        capture_intermediates=lambda module, _: module.name in ("up5", "Dropout_0"),
    )
    before, after = (
        np.asarray(state["intermediates"][name]["__call__"][0]) for name in ("up5", "Dropout_0")
    )
    gone = (after == 0).all((1, 2))  # b c
    assert 0 < gone[before.any((1, 2))].mean() < 1
    np.testing.assert_array_equal(after, np.where(gone[:, None, None], 0, before / 0.5))


def test_recomputed_blocks_drop_the_same_branches(tiny_model, variables):
    plain, again = (
        gradient(with_dropping(tiny_model, remat=remat), variables) for remat in (False, True)
    )
    other, _ = gradient(with_dropping(tiny_model), variables, key=jax.random.key(4))
    np.testing.assert_allclose(again[0][0], plain[0][0], rtol=1e-5)
    assert abs(other[0] - plain[0][0]) > 1e-3 * plain[0][0]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), again[1], plain[1])


def test_each_part_of_a_batch_has_a_key_of_its_own():
    def compute_loss(params, count, part, key):
        del part
        return params * jax.random.uniform(key), count

    grad_fn = jax.value_and_grad(compute_loss, has_aux=True)
    state = steps.TrainState(0, 0, jnp.ones(()), jnp.zeros(()), (), {})
    _, actual = steps.accumulate_gradient(grad_fn, state, {"x": jnp.ones(4)}, KEY, parts=4)
    drawn = [float(jax.random.uniform(key)) for key in jax.random.split(KEY, 4)]
    assert len(set(drawn)) == 4
    assert float(actual) == pytest.approx(np.mean(drawn), rel=1e-6)


# The whole path.


@pytest.fixture(scope="module")
def everything(tiny_config, tmp_path_factory):
    """A function that returns the config of a run with all of it."""
    folder = tmp_path_factory.mktemp("start")
    model_folder.write(folder, make_model())

    def make():
        config = tiny_config()
        config.model.update({"init": str(folder), "multi_grid": (1,)})
        config.data.image_size = 64
        config.optimizer.update({"encoder_rate": 0.5, "stage_decay": 0.5, "hold_encoder_steps": 1})
        config.train.update({"hold_statistics": True, "drop_path": 0.3, "dropout": 0.3})
        config.train.update({"image_scales": (0.5, 1.0), "eval_every": 4})
        config.eval.resolution = "scaled"  # one program less
        return config

    return make


def final_state(config, workdir):
    model = build.build_model(config, num_classes=11)
    tx: optax.GradientTransformation = build.build_optimizer(config, steps=4)[0]
    return jax.device_get(evaluate.restore(config, workdir, model, tx, sharding.make_mesh()))


def test_interrupted_run_with_all_of_it_ends_with_the_same_state(everything, tmp_path, variables):
    """Bit for bit; stopped where the images grow. The encoder's statistics are the start's."""
    figures = train.train(everything(), tmp_path / "whole")
    shard_batch, left = sharding.shard_batch, [3]

    def stop(batch, mesh):
        left[0] -= "mask" not in batch
        if not left[0]:
            raise KeyboardInterrupt
        return shard_batch(batch, mesh)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "shard_batch", stop)
        with pytest.raises(KeyboardInterrupt):
            train.train(everything(), tmp_path / "stopped")
    assert train.train(everything(), tmp_path / "stopped") == figures
    whole, resumed = (final_state(everything(), tmp_path / n) for n in ("whole", "stopped"))
    assert_same(resumed, whole)
    assert whole.step == 4
    start = variables["batch_stats"]["encoder"]
    assert_same(whole.batch_stats["encoder"], start)
