import pytest

from configs import default, dilated
from trashseg_jax import build
from trashseg_jax.errors import InputError


def resolved(overrides=(), dataset="aistage", **changes):
    config = default.get_config(dataset)
    config.update_from_flattened_dict(changes)
    build.resolve_config(config, overridden=overrides)
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
    known = {key for key, _ in build.flatten(config)}
    for recipe in config.recipes.values():
        assert {key for key, _ in build.flatten(recipe)} <= known


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
        ("model.stem_pool", lambda c: build.build_model(c, num_classes=3)),
        ("model.layer4", lambda c: build.build_model(c, num_classes=3)),
        ("loss.name", build.build_loss),
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
