import json

import pytest

from trashseg_jax import settings
from trashseg_jax.configs import default, run
from trashseg_jax.errors import InputError


@pytest.mark.parametrize("dataset", default.DATASETS)
def test_keys_younger_than_a_run_have_their_defaults(tmp_path, dataset):
    """And its own values stay, also where its recipe or the default says else by now."""
    written = default.get_config(dataset).to_dict()
    del written["nan_policy"], written["crf"]["timeout"], written["train"]["ema_decay"]
    written["recipe"] = "reference"
    written["train"]["steps"] = 77
    (tmp_path / "config.json").write_text(json.dumps({**written, "derived": {"alpha": {}}}))
    config, defaults = run.get_config(str(tmp_path)), default.get_config(dataset)
    assert config.nan_policy == defaults.nan_policy
    assert config.crf.timeout == defaults.crf.timeout
    assert config.train.ema_decay == defaults.train.ema_decay
    assert config.train.steps == 77
    settings.resolve_config(config, overridden=[])
    assert config.train.steps == 77
    assert config.recipes.to_dict() == {"reference": {}}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.epochs", float("inf")),
        ("optimizer.learning_rate", float("nan")),
        ("loss.gamma", float("-inf")),
        ("seed", -1),
        ("seed", 2**32),
        ("train.log_every", 0),
    ],
)
def test_unusable_numbers_are_refused_by_key(key, value):
    config = default.get_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(InputError, match=rf"^config\.{key}={value}: must be"):
        settings.check_numbers(config)


@pytest.mark.parametrize("dataset", default.DATASETS)
def test_defaults_are_usable_numbers(dataset):
    settings.check_numbers(default.get_config(dataset))
