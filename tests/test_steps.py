import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trashseg_jax import losses, steps
from trashseg_jax.data import augment
from trashseg_jax.devices import sharding
from trashseg_jax.errors import InputError

# Each image is of one brightness and one class, with noise: it can be learned.
LABEL = np.broadcast_to(np.arange(8, dtype=np.uint8)[:, None, None], (8, 32, 32))
NOISE = np.random.default_rng(0).integers(0, 30, (8, 32, 32, 3), np.uint8)
BATCH = {"image": LABEL[..., None] * np.uint8(30) + NOISE, "label": LABEL}
NORMALIZE = augment.make_normalize("imagenet")
TX = optax.sgd(0.1)
KEY = jax.random.key(7)


def mesh_of(devices):
    return jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))


def loss_fn(logits, labels):
    """Cross-entropy; not a number for a batch in which the label 200 is ignored."""
    loss = losses.cross_entropy(
        logits,
        labels,
        alpha=jnp.ones(11),
        label_smoothing=0.0,
        bootstrap=0.0,
        hard_share=1.0,
        reduction="mean",
        ignore_label=255,
    )
    return jnp.where(jnp.any(labels == 200), jnp.nan, loss)


NOTHING = dict.fromkeys((*augment.AUGMENTATIONS, *augment.WARPS), 0)
AUGMENT = augment.make_augment(
    **{**NOTHING, "flip": True, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2}
)


def make_train_step(
    model, *, ema_decay=0.5, stop_at_nan=True, skipped_before=0, accumulate=1, augment=AUGMENT
):
    return steps.make_train_step(
        model,
        TX,
        loss_fn,
        augment=augment,
        normalize=NORMALIZE,
        ema_decay=ema_decay,
        stop_at_nan=stop_at_nan,
        skipped_before=skipped_before,
        accumulate=accumulate,
        key=KEY,
    )


def make_eval_step(model):
    return steps.make_eval_step(model, loss_fn, normalize=NORMALIZE, num_classes=11, probs=False)


@pytest.fixture(scope="module")
def train_step(tiny_model):
    return make_train_step(tiny_model)


@cache
def initial_state(model, ema):
    init = jax.jit(partial(steps.init_state, model=model, tx=TX, ema=ema))
    return jax.device_get(init(jax.random.key(0)))


def new_state(model, mesh, *, ema=True):
    return jax.device_put(initial_state(model, ema), sharding.replicated(mesh))


def run(model, train_step, devices, count=2):
    mesh = mesh_of(devices)
    state, scalars = new_state(model, mesh), {}
    for _ in range(count):
        state, scalars = train_step(state, sharding.shard_batch(BATCH, mesh))
    return jax.device_get(state), jax.device_get(scalars)


def assert_close(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


def test_four_devices_equal_one(tiny_model, train_step):
    """One update, BatchNorm statistics included: the rows of a batch differ in brightness."""
    one, one_scalars = run(tiny_model, train_step, 1, count=1)
    four, four_scalars = run(tiny_model, train_step, 4, count=1)
    assert_close(four_scalars, one_scalars, rtol=1e-4)
    assert_close(four, one, rtol=1e-3, atol=2e-5)


def test_step_is_deterministic_and_counts(tiny_model, train_step):
    first, scalars = run(tiny_model, train_step, 1)
    again, _ = run(tiny_model, train_step, 1)
    assert_close(first, again, rtol=0)
    assert first.step == 2
    assert np.isfinite(scalars["loss"])
    assert scalars["grad_norm"] > 0


def test_loss_falls_on_one_batch(tiny_model, train_step):
    _, early = run(tiny_model, train_step, 1, count=1)
    _, late = run(tiny_model, train_step, 1, count=15)
    assert late["loss"] < 0.8 * early["loss"]


def test_accumulated_gradient_is_that_of_the_whole_batch():
    """Without BatchNorm; the statistics, here a count, are handed from part to part."""
    rng = np.random.default_rng(0)
    batch = {"x": jnp.asarray(rng.normal(size=(6, 3))), "y": jnp.asarray(rng.normal(size=6))}
    state = steps.TrainState(0, 0, jnp.ones(3), jnp.zeros(()), None, {})

    def compute_loss(params, count, part, key):
        del key
        return ((part["x"] @ params - part["y"]) ** 2).mean(), count + 1

    grad_fn = jax.value_and_grad(compute_loss, has_aux=True)
    (loss, _), grads = steps.accumulate_gradient(grad_fn, state, batch, KEY, parts=1)
    for parts in (2, 3, 6):
        actual = steps.accumulate_gradient(grad_fn, state, batch, KEY, parts=parts)
        assert_close(actual, ((loss, np.float32(parts)), grads), rtol=1e-5)


@pytest.mark.parametrize("devices", [1, 2])
def test_accumulated_step_equals_the_whole_where_the_parts_are_alike(tiny_model, devices):
    """Each part then has the moments of the whole; only their averages move more than once."""
    mesh = mesh_of(devices)
    batch = {key: np.repeat(rows[:4], 2, axis=0) for key, rows in BATCH.items()}
    whole, parts = (
        make_train_step(tiny_model, augment=lambda _, batch: batch, accumulate=count)(
            new_state(tiny_model, mesh), sharding.shard_batch(batch, mesh)
        )
        for count in (1, 2)
    )
    assert_close(parts[1], whole[1], rtol=1e-4)
    assert_close(parts[0].params, whole[0].params, rtol=1e-3, atol=2e-5)


def test_recomputed_blocks_change_no_result(tiny_model, train_step):
    """Nor the names of parameters; and the program does compute them again."""
    remat = tiny_model.clone(encoder=tiny_model.encoder.clone(remat=True))
    step = make_train_step(remat)
    mesh = mesh_of(1)
    expected, _ = run(tiny_model, train_step, 1, count=1)
    state, _ = step(new_state(tiny_model, mesh), sharding.shard_batch(BATCH, mesh))
    assert_close(jax.device_get(state), expected, rtol=1e-3, atol=2e-5)
    assert jax.tree.structure(initial_state(remat, True)) == jax.tree.structure(expected)
    assert "remat" in str(step.trace(state, BATCH).jaxpr)


BAD_BATCH = {**BATCH, "label": np.full_like(LABEL, 200)}


@pytest.mark.parametrize("stop_at_nan", [True, False])
def test_update_that_is_not_finite_changes_nothing_but_the_counts(tiny_model, stop_at_nan):
    """Then, by the policy, the state stays as it is for good, or the next update counts again."""
    train_step, mesh = make_train_step(tiny_model, stop_at_nan=stop_at_nan), mesh_of(1)
    one = jax.device_get(train_step(new_state(tiny_model, mesh), BATCH)[0])
    state, scalars = train_step(jax.device_put(one, sharding.replicated(mesh)), BAD_BATCH)
    after = jax.device_get(state)
    assert not scalars["finite"]
    assert (after.step, after.skipped) == (1 if stop_at_nan else 2, 1)
    assert_close(dataclasses.replace(after, step=one.step, skipped=one.skipped), one, rtol=0)

    state, scalars = train_step(state, BATCH)
    assert np.isfinite(scalars["loss"])
    assert (state.step, state.skipped) == ((1, 2) if stop_at_nan else (3, 1))
    moved = np.any(jax.tree.leaves(state.params)[0] != jax.tree.leaves(one.params)[0])
    assert moved != stop_at_nan


def test_updates_that_earlier_sessions_left_out_freeze_nothing(tiny_model):
    """The step counts on, the schedule's count is that of the updates made; a new one freezes."""
    train_step, mesh = make_train_step(tiny_model, skipped_before=3), mesh_of(1)
    old = dataclasses.replace(new_state(tiny_model, mesh), step=jnp.array(5), skipped=jnp.array(3))
    state, scalars = train_step(old, BATCH)
    assert (int(state.step), int(state.skipped), int(scalars["made"])) == (6, 3, 2)
    state, scalars = train_step(state, BAD_BATCH)
    assert (int(state.step), int(state.skipped), int(scalars["made"])) == (6, 4, 3)
    state, _ = train_step(state, BATCH)
    assert (int(state.step), int(state.skipped)) == (6, 5)


def test_average_follows_the_documented_decay(tiny_model, train_step):
    """After one step the decay is min(0.5, 1 / 10): a tenth of the start is left."""
    start = jax.device_get(new_state(tiny_model, mesh_of(1)))
    state, _ = run(tiny_model, train_step, 1, count=1)
    expected = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, start.params, state.params)
    assert_close(state.ema["params"], expected, rtol=1e-4, atol=1e-6)
    assert state.eval_variables() is state.ema


def test_without_average_the_trained_weights_are_evaluated(tiny_model):
    state = new_state(tiny_model, mesh_of(1), ema=False)
    assert state.ema == {}
    assert state.eval_variables()["params"] is state.params


def test_eval_step_counts_valid_rows_only(tiny_model):
    eval_step = make_eval_step(tiny_model)
    state = new_state(tiny_model, mesh_of(1))
    mask = np.arange(8) < 5
    label = np.where(np.arange(32) < 10, 255, BATCH["label"]).astype(np.uint8)
    batch = {"image": BATCH["image"], "label": label, "mask": mask}
    outputs = eval_step(state.eval_variables(), batch)
    predictions, confusion = outputs["prediction"], outputs["confusion"]
    assert not np.any(confusion[5:])
    expected = np.zeros((5, 11, 11), int)
    for i, row, column in np.argwhere(label[:5] != 255):
        expected[i, label[i, row, column], predictions[i, row, column]] += 1
    np.testing.assert_array_equal(confusion[:5], expected)


def test_eval_step_gives_the_loss_of_each_row(tiny_model):
    state = new_state(tiny_model, mesh_of(1))
    variables = state.eval_variables()
    outputs = make_eval_step(tiny_model)(variables, {**BATCH, "mask": np.ones(8, bool)})
    logits = tiny_model.apply(variables, NORMALIZE(jnp.asarray(BATCH["image"])), train=False)
    log_p = np.asarray(jax.nn.log_softmax(logits))
    expected = -np.take_along_axis(log_p, LABEL[..., None].astype(int), -1).mean((1, 2, 3))
    np.testing.assert_allclose(outputs["loss"], expected, rtol=1e-4)


def test_evaluation_of_a_row_does_not_depend_on_its_batch(tiny_model):
    eval_step = make_eval_step(tiny_model)
    variables = new_state(tiny_model, mesh_of(1)).eval_variables()
    batch = {**BATCH, "mask": np.ones(8, bool)}
    whole = eval_step(variables, batch)["confusion"]
    part = eval_step(variables, {k: np.roll(v, 3, 0) for k, v in batch.items()})["confusion"]
    np.testing.assert_array_equal(np.roll(part, -3, 0), whole)


def test_probabilities_are_given_only_when_asked_for_and_are_the_predictions(tiny_model):
    """On four devices, whose rows come back in order."""
    make = partial(steps.make_eval_step, tiny_model, loss_fn, normalize=NORMALIZE, num_classes=11)
    mesh = mesh_of(4)
    variables = new_state(tiny_model, mesh).eval_variables()
    batch = sharding.shard_batch({**BATCH, "mask": np.ones(8, bool)}, mesh)
    outputs = make(probs=True)(variables, batch)
    probs = sharding.local_rows(outputs["probs"])
    assert probs.shape == (8, 32, 32, 11)
    np.testing.assert_array_equal(probs, outputs["probs"])
    np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(probs.argmax(-1), outputs["prediction"])
    assert "probs" not in jax.eval_shape(make(probs=False), variables, batch)
    sure = make(probs=True, confidence=True)(variables, batch)["confidence"]
    np.testing.assert_allclose(np.asarray(sure) / 255, probs.max(-1), atol=0.51 / 255)
    assert "confidence" not in outputs


@pytest.mark.parametrize(("size", "hint"), [(6, "4 or 8"), (3, "use 4"), (0, "use 4")])
def test_batches_that_devices_cannot_divide_are_refused(size, hint):
    with pytest.raises(InputError, match=hint):
        sharding.check_batch_size("config.train.batch_size", size, sharding.make_mesh())
    sharding.check_batch_size("config.train.batch_size", 8, sharding.make_mesh())


def test_batch_size_must_be_a_multiple_of_devices_and_parts():
    check = partial(sharding.check_batch_size, "config.train.batch_size", 24, mesh_of(4))
    check(parts=3)
    with pytest.raises(InputError, match=r"multiple of the 4 devices x 4 parts.*use 16 or 32"):
        check(parts=4)
