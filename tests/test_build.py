from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trashseg_jax import build, losses, settings
from trashseg_jax.configs import default, dilated, focal, focal_balanced
from trashseg_jax.errors import InputError

# Four images, three classes: pixels and annotations.
PIXELS = np.array([[90, 10, 0], [50, 50, 0], [80, 20, 0], [70, 10, 20]])
ANNOTATIONS = np.array([[0, 2, 0], [0, 3, 0], [0, 1, 0], [0, 2, 1]])


def prepared(pixels, annotations):
    """Stands in for builder.Prepared, whose statistics these are."""
    return SimpleNamespace(
        classes=("Background", "Can", "Cell"), counts={"train": (pixels, annotations)}.__getitem__
    )


DATA = prepared(PIXELS, ANNOTATIONS)


def resolved(overrides=(), dataset="aistage", **changes):
    config = default.get_config(dataset)
    config.update_from_flattened_dict(changes)
    settings.resolve_config(config, overridden=overrides)
    return config


@pytest.mark.parametrize("dataset", default.DATASETS)
def test_modern_recipe_is_the_defaults(dataset):
    assert resolved(dataset=dataset).to_dict() == default.get_config(dataset).to_dict()


def test_reference_recipe_states_what_the_reference_did():
    config = resolved(recipe="reference")
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.learning_rate, optimizer.weight_decay) == ("adam", 1e-4, 1e-6)
    assert (optimizer.schedule, optimizer.warmup_steps, optimizer.clip_norm) == ("constant", 0, 0)
    train = config.train
    assert (train.epochs, train.steps, train.batch_size, train.ema_decay) == (20, 0, 8, 0)
    assert (config.data.image_size, config.data.normalize) == (512, "unit")
    assert config.data.augment.crop_area == (1.0, 1.0)
    assert not config.data.augment.flip


def test_flags_win_over_the_recipe():
    changes = {"recipe": "reference", "optimizer.learning_rate": 3e-4}
    config = resolved(overrides=list(changes), **changes)
    assert config.optimizer.learning_rate == 3e-4
    assert config.optimizer.weight_decay == 1e-6


def test_recipe_keys_are_config_keys():
    config = default.get_config()
    known = {key for key, _ in settings.flatten(config)}
    for recipe in config.recipes.values():
        assert {key for key, _ in settings.flatten(recipe)} <= known


@pytest.mark.parametrize("dataset", default.DATASETS)
@pytest.mark.parametrize("recipe", ["modern", "reference"])
def test_every_recipe_has_a_length_for_every_data_set(dataset, recipe):
    config = resolved(dataset=dataset, recipe=recipe)
    # 20 epochs in batches of 8 or 40 in batches of 16; the demo states its 1,000 steps.
    assert build.num_steps(config, num_images=400) == 1000


def test_flag_for_steps_replaces_epochs_and_the_reverse():
    config = resolved(["train.steps"], **{"train.steps": 30})
    assert build.num_steps(config, num_images=100) == 30
    config = resolved(["train.epochs"], dataset="demo", **{"train.epochs": 3.0})
    assert build.num_steps(config, num_images=100) == 38  # 300 images in batches of 8


@pytest.mark.parametrize(("steps", "epochs"), [(0, 0.0), (5, 1.0)])
def test_steps_and_epochs_exclude_each_other(steps, epochs):
    changes = {"train.steps": steps, "train.epochs": epochs}
    config = resolved(overrides=list(changes), **changes)
    with pytest.raises(InputError, match="exactly one"):
        build.num_steps(config, num_images=100)


@pytest.mark.parametrize("value", [(0.5,), (0.9, 0.1), (0.0, 1.0), ("a", 1.0), (0.1, 0.2, 0.3)])
def test_ranges_must_be_two_ascending_positive_numbers(value):
    config = resolved(**{"data.augment.crop_area": value})
    with pytest.raises(InputError, match=r"config\.data\.augment\.crop_area"):
        build.pair(config, "data.augment.crop_area")


@pytest.mark.parametrize(
    ("key", "make"),
    [
        ("model.encoder", lambda c: build.build_model(c, num_classes=3)),
        ("model.dtype", lambda c: build.build_model(c, num_classes=3)),
        ("loss.name", lambda c: build.build_loss(c, np.ones(3))),
        ("loss.reduction", lambda c: build.build_loss(c, np.ones(3))),
        ("loss.region", lambda c: build.build_loss(c, np.ones(3))),
        ("loss.alpha", lambda c: build.build_alpha(c, DATA)),
        ("loss.alpha_counts", lambda c: build.build_alpha(c, DATA)),
        ("data.sampling.name", lambda c: build.build_image_weights(c, DATA)),
        ("model.stem_pool", lambda c: build.build_model(c, num_classes=3)),
        ("model.layer4", lambda c: build.build_model(c, num_classes=3)),
        ("optimizer.name", lambda c: build.build_optimizer(c, steps=9)),
        ("optimizer.schedule", lambda c: build.build_optimizer(c, steps=9)),
        ("data.normalize", build.build_normalize),
    ],
)
def test_unknown_names_are_refused_with_their_key(key, make):
    with pytest.raises(InputError, match=f"{key}.*must be one of"):
        make(resolved(**{key: "nonsense"}))


@pytest.mark.parametrize("dataset", default.DATASETS)
def test_dilated_config_replaces_the_pooling(dataset):
    encoder = build.build_model(dilated.get_config(dataset), num_classes=11).encoder
    assert (encoder.stem_pool, encoder.output_stride) == ("atrous", 16)


def test_options_that_exclude_each_other_are_refused_before_the_run():
    with pytest.raises(InputError, match=r"model\.output_stride=32"):
        build.build_model(resolved(**{"model.stem_pool": "none"}), num_classes=11)


def test_real_data_need_a_folder():
    with pytest.raises(InputError, match=r"config\.data\.dir is empty"):
        build.build_data(resolved())


def build_balance(config):
    build.build_loss(config, build.build_alpha(config, DATA))
    build.build_image_weights(config, DATA)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("loss.gamma", -1.0),
        ("loss.label_smoothing", 1.0),
        ("loss.region_weight", -0.1),
        ("loss.tversky_alpha", -0.1),
        ("loss.alpha_beta", 1.0),
        ("loss.alpha_power", float("nan")),
        ("data.sampling.power", -0.5),
        ("data.sampling.threshold", -0.1),
    ],
)
def test_numbers_out_of_range_are_refused_with_their_key(key, value):
    config = resolved(**{key: value})
    with pytest.raises(InputError, match=rf"config\.{key}={value}: must be"):
        build_balance(config)


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("none", [1, 1, 1]),
        ("annotation_ratio", [1, 1, 8]),
        ("inverse_frequency", [0.75, 0.75, 3]),  # in 4, 4 and 1 of the images
        ("median_frequency", [0.225 / 0.725, 1, 0.225 / 0.2]),
        ("enet", [1 / np.log(1.745), 1 / np.log(1.245), 1 / np.log(1.07)]),
    ],
)
def test_alpha_comes_from_the_prepared_counts(scheme, expected):
    alpha = build.build_alpha(resolved(**{"loss.alpha": scheme}), DATA)
    np.testing.assert_allclose(alpha, expected)


def test_alpha_counts_what_the_config_says():
    changes = {"loss.alpha": "inverse_frequency", "loss.alpha_counts": "annotations"}
    alpha = build.build_alpha(resolved(**changes), DATA)
    np.testing.assert_allclose(alpha, [13 / 12, 13 / 24, 13 / 3])  # the background counts 4


def test_effective_number_refuses_pixels_with_the_reason():
    changes = {"loss.alpha": "effective_number", "loss.alpha_counts": "pixels"}
    with pytest.raises(InputError, match="all classes alike"):
        build.build_alpha(resolved(**changes), DATA)


def test_class_that_never_occurs_is_warned_of_by_name():
    data = prepared(PIXELS * [1, 1, 0], ANNOTATIONS * [1, 1, 0])
    with pytest.warns(UserWarning, match="class Cell never occurs in the training split: alpha 0"):
        alpha = build.build_alpha(resolved(**{"loss.alpha": "annotation_ratio"}), data)
    assert alpha.tolist() == [1, 1, 0]


RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(RNG.normal(size=(2, 4, 4, 3)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, 3, (2, 4, 4)), jnp.uint8)


@pytest.mark.parametrize(
    ("region", "term"),
    [
        ("dice", losses.dice_loss),
        ("lovasz", losses.lovasz_softmax),
        ("tversky", lambda *a, **k: losses.tversky_loss(*a, alpha=0.3, beta=0.7, **k)),
    ],
)
def test_loss_is_the_pixels_and_the_weighted_region_term(region, term):
    changes = {"loss.region": region, "loss.region_weight": 0.5}
    actual = build.build_loss(resolved(**changes), np.ones(3))(LOGITS, LABELS)
    pixel = optax.softmax_cross_entropy_with_integer_labels(LOGITS, LABELS).mean((1, 2))
    expected = pixel + 0.5 * term(LOGITS, LABELS, ignore_label=255)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_reference_recipe_makes_the_focal_loss_the_references():
    """Its 1e-8 bounds what a pixel can cost: -ln(1e-8)."""
    config = focal.get_config()
    config.recipe = "reference"
    settings.resolve_config(config, overridden=[])
    labels = jnp.zeros((1, 2, 2), jnp.uint8)
    logits = jnp.zeros((1, 2, 2, 3)).at[..., 0].set(-100.0)
    np.testing.assert_allclose(build.build_loss(config, np.ones(3))(logits, labels), 18.42068)


def test_focal_configs_say_what_the_reference_used():
    plain, balanced = focal.get_config("aistage").loss, focal_balanced.get_config("aistage").loss
    assert (plain.name, plain.gamma, plain.alpha) == ("focal", 2.0, "none")
    assert (balanced.name, balanced.gamma, balanced.alpha) == ("focal", 2.0, "annotation_ratio")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("uniform", [1, 1, 1, 1]),
        ("class_balanced", [1, 1, 1, 2]),  # 4 ^ 0.5
        ("repeat_factor", [1, 1, 1, 1.2]),  # sqrt(0.36 x 4)
    ],
)
def test_image_weights_come_from_the_prepared_counts(name, expected):
    config = resolved(**{"data.sampling.name": name, "data.sampling.threshold": 0.36})
    np.testing.assert_allclose(build.build_image_weights(config, DATA), expected)


def test_uniform_sampling_goes_in_epochs_and_the_others_draw():
    uniform = build.build_index(resolved(), np.ones(50))
    drawn = build.build_index(resolved(**{"data.sampling.name": "class_balanced"}), np.ones(50))
    assert len({uniform(p) for p in range(50)}) == 50
    assert len({drawn(p) for p in range(50)}) < 45  # 32 are expected
