import json

import pytest

from configs import default
from trashseg_jax.errors import InputError
from trashseg_jax.run.identity import check_identity, identify

MAP = {
    "classes": ["Background", "Metal", "Glass"],
    "categories": {"Can": "Metal", "Jar": "Glass", "Lid": "ignore"},
}


def write_map(folder, content, name="map.json"):
    path = folder / name
    path.write_text(json.dumps(content))
    return str(path)


@pytest.fixture
def config(tmp_path):
    config = default.get_config("coco")
    config.data.class_map = write_map(tmp_path, MAP)
    return config


def write_run(folder, config, *, old=False):
    """A run's config.json; an old one has no identity."""
    content = {**config.to_dict(), "derived": {"alpha": dict.fromkeys(MAP["classes"], 1.0)}}
    if not old:
        content["identity"] = identify(config)
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("model.encoder", "resnet50", "model.encoder was 'resnet34', is 'resnet50'"),
        ("model.output_stride", 16, "model.output_stride was 32, is 16"),
        ("model.stem_pool", "atrous", "model.stem_pool was 'max', is 'atrous'"),
        ("model.layer4", "reference_dilated", "model.layer4 was 'standard'"),
        ("model.multi_grid", (1, 2, 4), "model.multi_grid was [1, 1, 1], is [1, 2, 4]"),
        ("model.decoder_features", (9, 9, 9, 9, 9), "model.decoder_features was [256"),
        ("data.normalize", "unit", "data.normalize was 'imagenet', is 'unit'"),
    ],
)
def test_what_gives_arrays_their_meaning_is_compared(config, tmp_path, key, value, named, old):
    write_run(tmp_path, config, old=old)
    check_identity(config, tmp_path)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(InputError) as error:
        check_identity(config, tmp_path)
    assert named in str(error.value)
    assert f"--config=run:{tmp_path}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.dtype", "float32"),
        ("model.pretrained", "weights.safetensors"),
        ("model.pretrained_prefix", "backbone."),
        ("train.remat", True),
        ("train.drop_path", 0.2),
        ("train.dropout", 0.2),
        ("train.hold_statistics", True),
        ("train.image_scales", (0.5, 1.0)),
        ("optimizer.encoder_rate", 0.1),
        ("data.image_size", 96),
        ("eval.split", "train"),
        ("optimizer.learning_rate", 1.0),
    ],
)
def test_what_changes_no_meaning_is_free(config, tmp_path, key, value, old):
    write_run(tmp_path, config, old=old)
    config.update_from_flattened_dict({key: value})
    check_identity(config, tmp_path)


CHANGED_MAPS = [
    ({"classes": ["Background", "Glass", "Metal"]}, "class 1 was 'Metal', is 'Glass'"),
    ({"classes": [*MAP["classes"], "Paper"]}, "class 3 was 'absent', is 'Paper'"),
    ({"categories": {**MAP["categories"], "Can": "Glass"}}, "'can' was 'Metal', is 'Glass'"),
    ({"categories": {**MAP["categories"], "Lid": "Metal"}}, "'lid' was 'ignore', is 'Metal'"),
    ({"categories": {**MAP["categories"], "Cap": "Metal"}}, "'cap' was 'absent', is 'Metal'"),
]


@pytest.mark.parametrize(("change", "named"), CHANGED_MAPS)
def test_another_map_under_the_same_path_is_refused(config, tmp_path, change, named):
    write_run(tmp_path, config)
    write_map(tmp_path, MAP | change)
    with pytest.raises(InputError) as error:
        check_identity(config, tmp_path)
    assert named in str(error.value)
    assert "the class map as it was" in str(error.value)


@pytest.mark.parametrize("old", [False, True])
def test_the_same_map_under_another_path_is_accepted(config, tmp_path, old):
    """Also in another order and spelling of its categories, which mean nothing."""
    write_run(tmp_path, config, old=old)
    categories = {name.upper() + " ": MAP["categories"][name] for name in ("Lid", "Jar", "Can")}
    moved = write_map(tmp_path, MAP | {"categories": categories}, "moved.json")
    config.data.class_map = moved
    check_identity(config, tmp_path)


@pytest.mark.parametrize(("change", "named"), CHANGED_MAPS)
def test_map_of_an_old_run_is_read_from_where_it_was(config, tmp_path, change, named):
    write_run(tmp_path, config, old=True)
    config.data.class_map = write_map(tmp_path, MAP | change, "other.json")
    with pytest.raises(InputError) as error:
        check_identity(config, tmp_path)
    assert named in str(error.value)


def test_map_of_an_old_run_that_is_gone_cannot_be_compared(config, tmp_path):
    write_run(tmp_path, config, old=True)
    (tmp_path / "map.json").unlink()
    config.data.class_map = write_map(tmp_path, MAP, "other.json")
    with pytest.raises(InputError, match=r"class_map was .*map\.json.*cannot be compared"):
        check_identity(config, tmp_path)


def test_classes_of_an_old_run_are_those_it_trained(config, tmp_path):
    """Its map has been edited since; `derived` names the classes in their order."""
    write_run(tmp_path, config, old=True)
    write_map(tmp_path, MAP | {"classes": ["Background", "Glass", "Metal"]})
    with pytest.raises(InputError, match="class 1 was 'Metal', is 'Glass'"):
        check_identity(config, tmp_path)
