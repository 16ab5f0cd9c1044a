"""A training that begins with a whole network."""

import numpy as np
import pytest
from fixtures_models import assert_same, make_model

from trashseg_jax import build, model_folder, train
from trashseg_jax.data.taxonomy import CLASSES
from trashseg_jax.devices import sharding
from trashseg_jax.errors import InputError
from trashseg_jax.run.checkpoint import Checkpoints


@pytest.fixture
def begin(tiny_config, tmp_path):
    """Starts a run from a folder, or goes on with it; returns its state."""

    def run(config):
        model = build.build_model(config, num_classes=11)
        tx, _ = build.build_optimizer(config, steps=4)
        mesh = sharding.make_mesh()
        with Checkpoints(tmp_path / "checkpoints", keep=1, writable=True) as checkpoints:
            published = train.load_published(config, tmp_path, mesh)
            state = train.restore_or_begin(config, checkpoints, model, tx, mesh, published)
            checkpoints.save(state, miou=None)
            return state

    return run


@pytest.fixture
def save(tmp_path):
    def write(model):
        folder = tmp_path / "start"
        folder.mkdir()
        model_folder.write(folder, model)
        return str(folder)

    return write


def starting_from(config, folder):
    config.model.init = folder
    config.model.multi_grid = (1,)
    return config


def test_a_run_begins_with_the_whole_network_and_later_does_without(
    tiny_config, begin, save, tmp_path, capsys
):
    start = make_model()
    config = starting_from(tiny_config(), save(start))
    state = begin(config)
    for variables in ({"params": state.params, "batch_stats": state.batch_stats}, state.ema):
        assert_same(variables, start.variables)
    assert "the whole network begins with its weights" in capsys.readouterr().out
    config.model.init = str(tmp_path / "gone")
    assert_same(begin(config).params, start.variables["params"])


def test_a_head_for_other_classes_is_drawn_anew_and_said(tiny_config, begin, save, capsys):
    start = make_model(classes=("Background", *CLASSES[:0:-1]))  # as many, in another order
    config = starting_from(tiny_config(), save(start))
    params = begin(config).params
    assert "but for its head, which is drawn anew: its classes are Background, Clothing" in (
        capsys.readouterr().out
    )
    plain = starting_from(tiny_config(), "")
    fresh = train.new_state(
        plain,
        build.build_model(plain, num_classes=11),
        build.build_optimizer(plain, steps=4)[0],
        sharding.make_mesh(),
    ).params
    np.testing.assert_array_equal(params["head"]["kernel"], fresh["head"]["kernel"])
    kept = {name: tree for name, tree in params.items() if name != "head"}
    assert_same(kept, {name: start.variables["params"][name] for name in kept})


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model.width": 8}, "is another network than this config's; pass --config.model.width=4"),
        ({"data.normalize": "unit"}, "pass --config.data.normalize=imagenet"),
        ({"model.init": "runs/none"}, "runs/none is not a model"),
    ],
)
def test_a_beginning_that_does_not_fit_is_refused_before_anything_is_made(
    tiny_config, save, tmp_path, changes, line
):
    config = starting_from(tiny_config(), save(make_model()))
    config.data.cache_dir = str(tmp_path / "cache")
    config.update_from_flattened_dict(changes)
    with pytest.raises(InputError, match=line):
        train.train(config, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["start"]
