from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trashseg_jax import build, losses, settings
from trashseg_jax.configs import default, dilated, focal, focal_balanced, ranges
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
    changes = {"train.epochs": 3.0, "optimizer.warmup_steps": 4}
    config = resolved(list(changes), dataset="demo", **changes)
    assert build.num_steps(config, num_images=100) == 38  # 300 images in batches of 8


@pytest.mark.parametrize(("epochs", "warmup_steps"), [(1.0, 7), (0.5, 9)])
def test_warmup_must_end_before_the_epochs_do(epochs, warmup_steps):
    """100 images in batches of 16: 7 or 4 steps."""
    changes = {"train.epochs": epochs, "optimizer.warmup_steps": warmup_steps}
    config = resolved(overrides=list(changes), **changes)
    with pytest.raises(InputError, match=rf"^config\.optimizer\.warmup_steps={warmup_steps}: must"):
        build.num_steps(config, num_images=100)
    config.optimizer.warmup_steps = 3
    assert build.num_steps(config, num_images=100) == np.ceil(epochs * 100 / 16)


def test_held_encoder_must_be_released_before_the_epochs_end():
    changes = {"train.epochs": 1.0, "optimizer.warmup_steps": 0, "optimizer.hold_encoder_steps": 7}
    config = resolved(overrides=list(changes), **changes)
    with pytest.raises(InputError, match=r"^config\.optimizer\.hold_encoder_steps=7: must be less"):
        build.num_steps(config, num_images=100)  # in batches of 16
    config.optimizer.hold_encoder_steps = 6
    assert build.num_steps(config, num_images=100) == 7


NAMED = [key for key, rule in ranges.RANGES.items() if rule is ranges.NAMED and key != "recipe"]


@pytest.mark.parametrize("key", NAMED)
def test_unknown_names_are_refused_before_the_data_are_read(key):
    """Every key that configs/ranges.py leaves to build.py, a recipe apart."""
    build.check_options(resolved())
    with pytest.raises(InputError, match=rf"^config\.{key}='nonsense': must be one of \w+"):
        build.check_options(resolved(**{key: "nonsense"}))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model.stem_pool": "none"}, r"config\.model\.output_stride=32: must be one of 8, 16"),
        ({"model.multi_grid": (1, 2)}, r"config\.model\.multi_grid=\(1, 2\)"),
        ({"data.class_map": "no.json"}, "class map 'no.json' is neither"),
        ({"loss.alpha_values": (1.0, 2.0)}, r"config\.loss\.alpha_values=\(1.0, 2.0\): has 2"),
    ],
)
def test_options_at_odds_are_refused_before_the_data_are_read(changes, line):
    with pytest.raises(InputError, match=line):
        build.check_options(resolved(**changes))


@pytest.mark.parametrize("dataset", default.DATASETS)
def test_dilated_config_replaces_the_pooling(dataset):
    encoder = build.build_model(dilated.get_config(dataset), num_classes=11).encoder
    assert (encoder.stem_pool, encoder.output_stride) == ("atrous", 16)


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


@pytest.mark.parametrize(
    ("values", "expected"),
    [((2.0, 0.0, 5), [2, 0, 5]), ("Cell=20", [1, 1, 20]), (" cell = 2e1 ,CAN=0", [1, 0, 20])],
)
def test_class_weights_of_your_own_are_taken_as_they_are(values, expected, recwarn):
    alpha = build.build_alpha(resolved(**{"loss.alpha_values": values}), DATA)
    assert alpha.tolist() == expected
    assert not recwarn  # a 0 of your own is no surprise


def test_alpha_counts_what_the_config_says():
    changes = {"loss.alpha": "inverse_frequency", "loss.alpha_counts": "annotations"}
    alpha = build.build_alpha(resolved(**changes), DATA)
    np.testing.assert_allclose(alpha, [13 / 12, 13 / 24, 13 / 3])  # the background counts 4


def test_class_that_never_occurs_is_warned_of_by_name():
    data = prepared(PIXELS * [1, 1, 0], ANNOTATIONS * [1, 1, 0])
    with pytest.warns(
        UserWarning, match=r"class Cell never occurs in .*: its weight \(alpha\) is 0"
    ):
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


def test_priors_are_the_shares_of_the_pixels_as_drawn():
    """Of 100 pixels an image; class_balanced draws the last, of a cell, twice as often."""
    uniform, drawn = np.ones(4), np.array([1.0, 1, 1, 2])
    priors = build.build_priors(resolved(), DATA, uniform)
    np.testing.assert_allclose(priors, [0.725, 0.225, 0.05])
    priors = build.build_priors(resolved(), DATA, drawn)
    np.testing.assert_allclose(priors, [360 / 500, 100 / 500, 40 / 500])


def test_priors_count_images_as_the_reduction_does():
    """A large image and a small one: each a half where the loss is the mean over its pixels."""
    data = prepared(np.array([[90, 0, 0], [0, 10, 0]]), ANNOTATIONS[:2])
    expected = {"mean": [0.5, 0.5, 0], "alpha": [0.5, 0.5, 0], "reference": [0.9, 0.1, 0]}
    for reduction, shares in expected.items():
        priors = build.build_priors(resolved(**{"loss.reduction": reduction}), data, np.ones(2))
        np.testing.assert_allclose(priors, shares)


def test_absent_class_is_warned_of_where_logits_are_adjusted():
    data = prepared(PIXELS * [1, 1, 0], ANNOTATIONS * [1, 1, 0])
    with pytest.warns(UserWarning, match="class Cell never occurs in .*: its logit is not adj"):
        build.build_priors(resolved(**{"loss.logit_adjustment": 1.0}), data, np.ones(4))


def test_adjustment_is_of_the_pixel_term_alone():
    config = resolved(**{"loss.logit_adjustment": 0.5, "loss.region": "dice"})
    priors = np.array([0.9, 0.1, 0.0])
    actual = build.build_loss(config, np.ones(3), priors)(LOGITS, LABELS)
    shifted = LOGITS + 0.5 * jnp.log(jnp.array([0.9, 0.1, 1.0]))  # the absent class stays
    pixel = optax.softmax_cross_entropy_with_integer_labels(shifted, LABELS).mean((1, 2))
    expected = pixel + losses.dice_loss(LOGITS, LABELS, ignore_label=255)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="needs the priors"):
        build.build_loss(config, np.ones(3))


def test_hard_share_and_bootstrap_reach_the_loss():
    changes = {"loss.hard_share": 0.25, "loss.bootstrap": 0.3}
    actual = build.build_loss(resolved(**changes), np.ones(3))(LOGITS, LABELS)
    targets = 0.7 * jax.nn.one_hot(LABELS, 3) + 0.3 * jax.nn.softmax(LOGITS)
    pixel = np.asarray(optax.softmax_cross_entropy(LOGITS, targets)).reshape(2, 16)
    np.testing.assert_allclose(actual, np.sort(pixel)[:, -4:].mean(1), rtol=1e-5)


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
    balanced = resolved(**{"data.sampling.name": "class_balanced"})
    uniform = build.build_index(resolved(), np.ones(50), number=0)
    drawn = build.build_index(balanced, np.ones(50), number=0)
    assert len({uniform(p) for p in range(50)}) == 50
    assert len({drawn(p) for p in range(50)}) < 45  # 32 are expected
