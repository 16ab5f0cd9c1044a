"""Models scored on a config's data, and several models as one: by their means."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import fixtures_commands
import jax
import numpy as np
import pytest
from fixtures_models import assert_same, make_model
from PIL import Image

import trashseg_jax
from trashseg_jax import inference, model_folder, model_sources
from trashseg_jax.data import augment, taxonomy
from trashseg_jax.errors import InputError
from trashseg_jax.report import card, table

# What metrics.json says of the weights and not of the pixels.
OF_WEIGHTS = {"models", "skipped_updates"}


@pytest.fixture(scope="module")
def run_folder(tiny_config, tmp_path_factory):
    return fixtures_commands.train_two_steps(
        tiny_config(), tmp_path_factory.mktemp("runs") / "small"
    )


def write_model(folder, model):
    folder.mkdir(parents=True)
    model_folder.write(folder, model)
    return folder


@pytest.fixture(scope="module")
def exported(run_folder, tmp_path_factory):
    model = model_sources.load(run_folder, checkpoint="latest", calibration=True)
    return write_model(tmp_path_factory.mktemp("models") / "exported", model)


@pytest.fixture
def evaluate(monkeypatch):
    def call(*arguments):
        fixtures_commands.evaluate(monkeypatch, *arguments)

    return call


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def without(figures, keys=OF_WEIGHTS):
    return {key: value for key, value in figures.items() if key not in keys}


def data_flags(config, folder=None):
    """Another experiment's config on the run's data."""
    return [
        "--config=focal_balanced:aistage",
        f"--config.data.dir={folder or config.data.dir}",
        f"--config.data.cache_dir={config.data.cache_dir}",
        "--config.eval.batch_size=4",
    ]


def test_a_folder_scores_as_its_run(evaluate, run_folder, exported, capsys):
    evaluate(f"--model={run_folder}", f"--config=run:{run_folder}")
    of_run = metrics_of(run_folder / "evaluations/val-2")
    capsys.readouterr()
    evaluate(f"--model={exported}", f"--config=run:{run_folder}")
    of_folder = metrics_of(exported / "evaluations/val")
    assert without(of_folder) == without(of_run)
    digest = model_folder.read(exported).digest()
    (described,) = of_folder["models"]
    assert described == {"name": "exported", "step": 2, "image_size": 32, "digest": digest}
    printed = capsys.readouterr().out
    assert "aistage/val: 5 images, model exported, loss" in printed
    names = "metrics.json, samples.png, report.html"
    assert printed.splitlines()[-1] == f"{exported / 'evaluations/val'}: {names}"


def test_network_and_size_come_from_the_folder_and_no_training_data_are_needed(
    evaluate, tiny_config, run_folder, exported, tmp_path
):
    """The config is that of a ResNet-34 at 512; train.json and its images are not there."""
    config = tiny_config()
    data = tmp_path / "data"
    shutil.copytree(config.data.dir, data)
    (data / "train.json").unlink()
    flags = [*data_flags(config, data), "--config.loss.alpha=none", "--config.eval.tag=alone"]
    evaluate(f"--model={exported}", f"--workdir={tmp_path / 'out'}", *flags)
    figures = metrics_of(tmp_path / "out/evaluations/val-alone")
    assert figures["confusion"] == metrics_of(run_folder)["confusion"]
    assert figures["image_size"] == 32
    weighted = [flag for flag in flags if "loss.alpha" not in flag]
    with pytest.raises(InputError, match=r"has no split 'train' .*--config\.loss\.alpha=none"):
        evaluate(f"--model={exported}", *weighted)


def test_colours_are_the_folder_s(evaluate, run_folder, exported, tmp_path):
    model = model_folder.read(exported)
    palette = np.full_like(model.palette, 77)
    other = write_model(tmp_path / "grey", dataclasses.replace(model, palette=palette))
    evaluate(f"--model={other}", f"--config=run:{run_folder}")
    sheet = np.array(Image.open(other / "evaluations/val/samples.png"))
    assert (sheet == 77).all(-1).any()
    assert not (sheet == taxonomy.palette(11)[2]).all(-1).any()


REFUSALS = {
    "--model: belongs to --mode=evaluate": ["--mode=train"],
    "model.width is 4, not 8; leave out --config.model.width": ["--config.model.width=8"],
    "data.normalize is 'imagenet', not 'unit'": ["--config.data.normalize=unit"],
    "--config.model.init: says how a training begins": ["--config.model.init={model}"],
    "--config.eval.checkpoint: belongs to runs": ["--config.eval.checkpoint=best"],
    "config.data.image_size=48: must be a multiple": ["--config.data.image_size=48"],
    "{model}: appears twice": ["--model={model}/"],
    "--workdir is missing; name a folder": ["--model={run}"],
    "each of several models is fed at its own size": [
        *("--model={run}", "--workdir={out}", "--config.data.image_size=64")
    ],
    "config.eval.resolution='scaled': several models": [
        *("--model={run}", "--workdir={out}", "--config.eval.resolution=scaled")
    ],
    "its classes are not those of --model={model}, so their probabilities have no mean: class 1 is "
    "'General trash' there and 'Can' here": ["--model={other}", "--workdir={out}"],
    "its classes are not those of the data set 'aistage' (config.data.class_map={map}): class 1 is "
    "'Can' there and 'General trash' here; ": ["--config.data.class_map={map}"],
}


@pytest.fixture(scope="module")
def places(run_folder, exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    classes = ("Background", "Can", *taxonomy.CLASSES[2:])
    other = write_model(folder / "other", make_model(classes=classes))
    content = {"classes": classes, "categories": dict.fromkeys(taxonomy.CLASSES, "Can")}
    (folder / "map.json").write_text(json.dumps(content))
    shown = {"model": exported, "run": run_folder, "other": other, "out": folder / "out"}
    return {**shown, "map": folder / "map.json"}


@pytest.mark.parametrize("line", REFUSALS)
def test_what_contradicts_a_folder_is_one_line(evaluate, tiny_config, places, line):
    arguments = [argument.format(**places) for argument in REFUSALS[line]]
    with pytest.raises(InputError, match=re.escape(line.format(**places))) as raised:
        evaluate(f"--model={places['model']}", *data_flags(tiny_config()), *arguments)
    assert len(str(raised.value).splitlines()) == 1
    assert not places["out"].exists()


def test_what_is_missing_beside_a_model_is_one_line(evaluate, run_folder, exported, tmp_path):
    with pytest.raises(InputError, match="--config is missing; it says on which data"):
        evaluate(f"--model={exported}")
    with pytest.raises(InputError, match=r"none: holds no config\.json"):
        evaluate(f"--model={tmp_path / 'none'}")
    with pytest.raises(InputError, match="is a run, whose evaluations are kept in it"):
        evaluate(f"--model={run_folder}", f"--workdir={tmp_path}")


# Several models


def member(model):
    normalize = augment.make_normalize(model.normalize)
    return inference.Member(model.network, model.variables, normalize, model.image_size, None)


def segment(models, images, *, scale, tile_scale, tta):
    first, *others = map(member, models)
    segmenter = inference.Segmenter(
        first.model,
        first.variables,
        normalize=first.normalize,
        num_classes=11,
        image_size=first.image_size,
        scale=scale,
        tile_scale=tile_scale,
        tta=tta,
        batch_size=4,
        keep_probs=True,
        others=others,
    )
    return list(segmenter.segment(iter(images)))


@pytest.fixture(scope="module")
def two_models():
    """Of other weights, and fed at other sizes: of 32 the scaled views are the plain one."""
    return [
        dataclasses.replace(make_model(seed=seed), image_size=size)
        for seed, size in ((0, 32), (1, 96))
    ]


@pytest.mark.parametrize(
    ("scale", "tile_scale", "tta"),
    [
        ("fit", 1.0, ("scales",)),
        ("tile", 1.0, ()),
        ("tile", 1.0, ("flip",)),
        ("tile", 0.6, ()),
        ("tile", 1.5, ("scales",)),
    ],
)
def test_probabilities_are_the_mean_of_the_models_whatever_views_each_has(
    two_models, scale, tile_scale, tta
):
    shown = {"scale": scale, "tile_scale": tile_scale, "tta": tta}
    rng = np.random.default_rng(0)
    sizes = ((40, 56), (130, 50), (20, 20))
    images = [
        np.array(
            Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(size[::-1])
        )
        for size in sizes
    ]
    alone = [segment([model], images, **shown) for model in two_models]
    together = segment(two_models, images, **shown)
    for a, b, mean in zip(*alone, together, strict=True):
        expected = (a.probs.astype(float) + b.probs) / 2
        np.testing.assert_allclose(mean.probs, expected, atol=1e-3)  # float16
        chosen = np.take_along_axis(expected, mean.classes[..., None].astype(int), -1)[..., 0]
        assert np.all(chosen >= expected.max(-1) - 2e-3)
        np.testing.assert_allclose(mean.confidence, expected.max(-1), atol=2e-3)


def test_logits_of_several_models_are_the_logarithm_of_their_mean_probabilities():
    """The second model's square is twice as large, and half of it is photograph."""
    rng = np.random.default_rng(0)
    small, large = (rng.normal(size=(2, side, side, 3)).astype(np.float32) for side in (4, 8))
    valid = np.array([[[4, 2]] * 2, [[8, 4]] * 2], np.int32)
    found = inference.log_mean_probs([small, large], valid, side=4)
    resized = jax.image.resize(large[:, :, :4], (2, 4, 2, 3), "linear", antialias=False)
    mean = (jax.nn.softmax(small[:, :, :2]) + jax.nn.softmax(resized)) / 2
    np.testing.assert_allclose(jax.nn.softmax(found)[:, :, :2], mean, rtol=1e-5)
    np.testing.assert_allclose(np.exp(found).sum(-1), 1, rtol=1e-5)


def test_two_models_of_the_same_weights_score_as_one(evaluate, run_folder, exported, tmp_path):
    """A run beside the folder that was exported of it."""
    flags = [f"--config=run:{run_folder}", "--config.crf.enabled=True"]
    flags += ["--config.crf.workers=0", "--config.crf.iterations=1"]
    out = tmp_path / "out"
    evaluate(f"--model={exported}", f"--workdir={out}", *flags, "--config.eval.tag=one")
    one = metrics_of(out / "evaluations/val-one")
    given = [f"--model={exported}", f"--model={run_folder}", f"--workdir={out}"]
    evaluate(*given, *flags)
    two = metrics_of(out / "evaluations/val")
    assert [model["name"] for model in two["models"]] == ["exported", "small"]
    assert len({model["digest"] for model in two["models"]}) == 1
    assert two["step"] is None
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    # The softmax of equal logits may round two that are almost alike to the same number.
    difference = np.abs(np.subtract(two["confusion"], one["confusion"])).sum()
    assert difference <= 4
    refined = [np.array(figures["crf"]["confusion"]) for figures in (one, two)]
    assert np.abs(np.subtract(*refined)).sum() <= 4


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    coarse = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    for name, size in (("a.png", (56, 40)), ("b.png", (33, 80))):
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / name)
    return folder


def test_predict_takes_several_models_and_redoes_what_fewer_have_made(
    two_models, photos, tmp_path, monkeypatch, capsys
):
    names = [write_model(tmp_path / name, one) for name, one in zip("ab", two_models, strict=True)]
    out = tmp_path / "out"
    given = [f"--input={photos}", f"--output={out}", "--probs", "--batch_size=4"]
    probs = []
    for folders in (names[:1], names[1:], names):
        models = [f"--model={folder}" for folder in folders]
        assert fixtures_commands.predict_files(monkeypatch, *models, *given) == 0
        probs.append(np.load(out / "probs/a.npy").astype(float))
    np.testing.assert_allclose(probs[2], (probs[0] + probs[1]) / 2, atol=1e-3)
    digests = "\\+".join(model_folder.read(name).digest() for name in names)
    assert re.search(f"redone: model was .{{16}}, is {digests}", capsys.readouterr().out)
    assert fixtures_commands.predict_files(monkeypatch, *models, *given) == 0
    assert "2 of 2 are there already" in capsys.readouterr().out

    mask = np.array(Image.open(out / "masks/a.png"))
    found = trashseg_jax.Predictor(names)(photos / "a.png")
    assert (found.classes != mask).mean() < 0.01  # batches of one, which round otherwise
    np.testing.assert_allclose(found.probs, probs[2], atol=1e-3)


def test_predict_refuses_models_of_other_classes_and_one_twice(
    two_models, photos, tmp_path, monkeypatch
):
    first = write_model(tmp_path / "a", two_models[0])
    classes = ("Background", "Can", *taxonomy.CLASSES[2:])
    other = write_model(tmp_path / "b", make_model(classes=classes))
    for second, line in (
        (other, "class 1 is 'General trash' there and 'Can' here"),
        (first, "twice"),
    ):
        given = [f"--model={first}", f"--model={second}", f"--input={photos}"]
        with pytest.raises(InputError, match=line):
            fixtures_commands.predict_files(monkeypatch, *given, f"--output={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


def test_the_table_names_the_models_and_their_sizes():
    models = [{"name": "a", "image_size": 32}, {"name": "b", "image_size": 96}]
    figures = {"step": None, "models": models, "image_size": 32, "resolution": "original"}
    figures |= {"scale": "fit", "tta": ""}
    assert table.describe_weights(figures) == "the mean of a and b"
    assert table.describe_scoring(figures).endswith("scaled to 32 and 96")


# Soups


def soup(monkeypatch, *arguments):
    return fixtures_commands.export_folder(monkeypatch, *arguments)


def test_a_soup_has_the_mean_weights(two_models, run_folder, exported, tmp_path, monkeypatch):
    """By numpy, in float64; its card names what is in it, and no figures."""
    alike = [two_models[0], dataclasses.replace(two_models[1], image_size=32)]
    names = [write_model(tmp_path / name, one) for name, one in zip("ab", alike, strict=True)]
    flags = [f"--soup={name}" for name in names]
    soup(monkeypatch, *flags, f"--output={tmp_path / 'soup'}")
    found = model_folder.read(tmp_path / "soup")
    expected = jax.tree.map(
        lambda a, b: ((a.astype(float) + b) / 2).astype(np.float32), *(m.variables for m in alike)
    )
    assert_same(found.variables, expected)
    assert (found.figures, found.classes) == (None, two_models[0].classes)

    # Of a run and the folder made of it, whose mean they are themselves.
    flags = [f"--soup={run_folder}", f"--soup={exported}", "--config.eval.checkpoint=best"]
    soup(monkeypatch, *flags, f"--output={tmp_path / 'same'}")
    same = model_folder.read(tmp_path / "same")
    assert_same(same.variables, model_folder.read(exported).variables)
    assert [part["step"] for part in same.training["soup"]] == [2, 2]
    assert "- small after step 2" in (tmp_path / "same/README.md").read_text()
    assert "- a\n- b" in card.format_card(found, name="x", onnx=False)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"options": {"width": 8}}, "model.width is 4 there and 8 here"),
        ({"options": {"classes": tuple("abc")}}, "class 1 is 'General trash' there and 'b' here"),
        ({"image_size": 96}, "image_size is 64 there and 96 here"),
        ({"normalize": "unit"}, "data.normalize is 'imagenet' there and 'unit' here"),
    ],
)
def test_a_soup_of_other_networks_is_refused(changes, line):
    options = changes.pop("options", {})
    other = dataclasses.replace(make_model(**options), **changes)
    with pytest.raises(InputError, match=line) as raised:
        model_sources.average_weights({Path("a"): make_model(), Path("b"): other})
    assert str(raised.value).startswith("--soup=b: is another model than that of a: ")
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--soup={model}"], "is one model; name two or more"),
        (["--soup={model}", "--soup={model}/"], "appears twice"),
        (["--workdir={run}", "--workdir={run}"], "to average the weights of several runs pass"),
        (["--workdir={run}", "--soup={model}", "--soup={run}"], "one of these"),
        (["--workdir={run}", "--model={run}"], "--model: does not belong"),
        (["--soup={model}", "--soup={run}", "--encoder=resnet18"], "--encoder: does not belong"),
    ],
)
def test_command_lines_of_soups_that_make_no_sense_are_one_line(
    places, tmp_path, monkeypatch, arguments, line
):
    given = [argument.format(**places) for argument in arguments]
    with pytest.raises(InputError, match=re.escape(line)):
        soup(monkeypatch, *given, f"--output={tmp_path / 'x'}")
    assert not (tmp_path / "x").exists()
