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
    ("flags", "expected"),
    [
        ({"train.steps": 30}, 3),  # a tenth of a run that 200 steps of warm-up would outlast
        ({"train.steps": 30, "train.epochs": 0.0}, 3),
        ({"train.steps": 2}, 0),
        ({"train.steps": 201}, 200),
        ({"train.steps": 30, "optimizer.warmup_steps": 40}, 40),  # is refused later on
    ],
)
def test_flag_for_steps_shortens_a_warmup_that_would_not_end(flags, expected):
    config = default.get_config("aistage")
    config.update_from_flattened_dict(flags)
    settings.resolve_config(config, overridden=flags)
    assert config.optimizer.warmup_steps == expected


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"data": 3}', "[" * 100_000])
def test_file_that_is_no_config_of_a_run_is_refused_by_name(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=rf"{tmp_path}/config\.json: is not"):
        run.get_config(str(tmp_path))


def test_run_is_found_below_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(default.get_config().to_dict()))
    assert run.get_config("~").data.name == "demo"
