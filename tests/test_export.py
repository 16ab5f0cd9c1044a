"""A run, or a state_dict trained in PyTorch, to a folder that is whole and scores the same."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_encoder
import yaml
from absl import flags
from fixtures_models import FIGURES, assert_same, make_model, run_card
from safetensors.numpy import save_file

import trashseg_jax
from trashseg_jax import build, evaluate, export, model_folder, model_sources, steps, train
from trashseg_jax.data import taxonomy
from trashseg_jax.errors import InputError
from trashseg_jax.models import smp_names
from trashseg_jax.report import card
from trashseg_jax.run.identity import identify

START = [sys.executable, str(Path(tiny_encoder.__file__).resolve()), "trashseg_jax.export"]


def call(*arguments, cwd="."):
    return subprocess.run(
        [*START, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def finished_run(tiny_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "small"
    return workdir, train.train(tiny_config(), workdir)


@pytest.fixture(scope="module")
def exported(tiny_config, finished_run):
    """The model of the run's latest checkpoint."""
    return model_sources.model_of_run(tiny_config(), finished_run[0])


def test_a_run_s_folder_scores_as_the_run_does(
    tiny_config, finished_run, exported, prepared, tmp_path
):
    """The confusion of the folder's network over the validation images, pixel for pixel."""
    model_folder.write(tmp_path, exported)
    model = model_folder.read(tmp_path)
    config, mesh = tiny_config(), train.sharding.make_mesh()
    loss_fn = build.build_loss(config, np.ones(len(model.classes)))
    score = evaluate.build_scorer(
        config, prepared, model.network, loss_fn, mesh, refine=False, resolution="original"
    )
    state = steps.TrainState(0, 0, **model.variables, opt_state=(), ema={})
    confusion = score(state).confusion.sum(0)
    np.testing.assert_array_equal(confusion, finished_run[1]["confusion"])
    assert model.figures == {k: finished_run[1][k] for k in model_sources.FIGURES}


def test_the_averaged_weights_and_the_run_s_identity_are_handed_on(
    tiny_config, finished_run, exported
):
    config, workdir = tiny_config(), finished_run[0]
    tx, _ = build.build_optimizer(config, steps=4)
    network = build.build_model(config, num_classes=11)
    mesh = train.sharding.make_mesh()
    state = jax.device_get(evaluate.restore(config, workdir, network, tx, mesh))
    assert_same(exported.variables, state.ema)
    assert exported.identity == identify(config)
    assert (exported.training["step"], exported.training["averaged"]) == (4, True)


def test_no_path_of_this_machine_is_handed_on(exported, tiny_config):
    text = json.dumps(model_folder.describe(exported))
    config = tiny_config()
    for path in (config.data.dir, config.data.cache_dir, str(Path.home())):
        assert path not in text
    config.data.train_file = "~/me/lists/train.json"
    assert model_sources.options_to_hand_on(config)["data"]["train_file"] == "train.json"
    config.model.pretrained = "timm/resnet34.a1_in1k"
    options = model_sources.options_to_hand_on(config)
    assert options["model"]["pretrained"] == "timm/resnet34.a1_in1k"


def test_figures_of_other_weights_are_left_out_and_said(
    tiny_config, finished_run, capsys, monkeypatch
):
    config, workdir = tiny_config(), finished_run[0]
    config.eval.checkpoint = "best"
    monkeypatch.setattr(evaluate.Checkpoints, "best_step", 2)
    model = model_sources.model_of_run(config, workdir)
    assert (model.training["step"], model.figures) == (2, None)
    assert "has no figures of step 2" in capsys.readouterr().out
    assert "have not been scored" in card.format_card(model, name="x", onnx=False)


def test_figures_of_an_evaluation_of_those_weights_are_taken(finished_run, tmp_path):
    for folder, step in ((tmp_path, 4), (tmp_path / "evaluations" / "val-2", 2)):
        folder.mkdir(parents=True, exist_ok=True)
        figures = {**finished_run[1], "step": step}
        (folder / "metrics.json").write_text(json.dumps(figures))
    for step in (2, 4):
        assert model_sources.find_figures(tmp_path, step=step, calibration=None)["step"] == step
    assert model_sources.find_figures(tmp_path, step=3, calibration=None) is None


def test_exporting_from_the_command_line(finished_run, tmp_path):
    workdir, output = finished_run[0], tmp_path / "models" / "small"
    flags_ = [f"--workdir={workdir}", f"--output={output}", "--config.eval.checkpoint=latest"]
    result = call(*flags_)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith(f"{output}: README.md, config.json, model.safetensors\n")
    assert [path.name for path in output.parent.iterdir()] == ["small"]
    assert model_folder.read(output).figures["miou"] == finished_run[1]["miou"]
    again = call(*flags_)
    assert again.returncode == 2
    assert again.stderr.startswith(f"error: --output={output}: holds a model; pass --overwrite")


@pytest.fixture(scope="module")
def state_dict(tmp_path_factory):
    """An smp.Unet's, as a training's checkpoint holds it; the model that it is of."""
    options = {"encoder": "resnet18", **smp_names.SMP_OPTIONS, "decoder_features": (8,) * 5}
    model = make_model(classes=("Background", "Can"), **options)
    weights = smp_names.to_state_dict(model.variables, encoder=model.network.encoder)
    path = tmp_path_factory.mktemp("smp") / "best.safetensors"
    save_file({f"model.{name}": weight for name, weight in weights.items()}, path)
    return path, model


def smp_flags(path, **changes):
    given = {"from_smp": path, "encoder": "resnet18", "classes": "Background, Can", **changes}
    return [f"--{key}={value}" for key, value in given.items()]


def test_a_state_dict_trained_in_pytorch_becomes_a_model(state_dict, tmp_path):
    path, expected = state_dict
    output = tmp_path / "model"
    changes = {"output": output, "normalize": "unit", "image_size": 256}
    result = call(*smp_flags(path, **changes))
    assert result.returncode == 0, result.stderr
    model = model_folder.read(output)
    assert_same(model.variables, expected.variables)
    assert (model.classes, model.normalize, model.image_size) == (expected.classes, "unit", 256)
    assert (model.figures, model.training, model.categories) == (None, None, None)
    assert "Not known" in (output / "README.md").read_text()


def test_a_class_map_names_the_classes_and_the_categories():
    classes, categories = model_sources.read_classes(("recycle_trash",))
    assert classes == taxonomy.CLASSES
    assert categories["battery"] == "Battery"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"classes": ("a", "b", "c")}, "has 3 names, and the head in .* 2 outputs"),
        ({"classes": ("a", "a")}, "--classes=a,a: must be different names"),
        ({"encoder": "resnet34"}, "encoder.layer1.2.bn1.bias is missing"),
        ({"encoder": "vgg16"}, "--encoder=vgg16: must be one of resnet18, resnet34, resnet50"),
        ({"normalize": "sepia"}, "--normalize=sepia: must be one of imagenet, inception, unit"),
        ({"image_size": 500}, "--image_size=500: must be a multiple of 32"),
        ({"path": Path("absent.pth")}, "absent.pth: cannot be read"),
    ],
)
def test_state_dicts_that_do_not_fit_are_one_line(state_dict, changes, line):
    options = {
        "path": state_dict[0],
        "encoder": "resnet18",
        "class_names": changes.pop("classes", ("Background", "Can")),
        "normalize": "imagenet",
        "image_size": 512,
        **changes,
    }
    with pytest.raises(InputError, match=line) as raised:
        model_sources.model_of_smp(**options)
    assert len(str(raised.value).splitlines()) == 1


@pytest.fixture
def parse(monkeypatch):
    """Parses a command line as in a new process."""

    def run(*arguments):
        for name in [name for name in flags.FLAGS if name.startswith("config.")]:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
        argv = ["export", *map(str, arguments)]
        monkeypatch.setattr("sys.argv", argv)  # where ml_collections looks for overrides
        export.parse(argv)
        export.check_source()
        return export.choose_output()

    yield run
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)
    for flag in flags.FLAGS.get_flags_for_module("trashseg_jax.export"):
        flag.unparse()
    flags.FLAGS.unparse_flags()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "pass --workdir=RUN or --from_smp=FILE"),
        (["--from_smp=x"], "--from_smp needs --encoder"),
        (["--from_smp=x", "--workdir={run}"], "pass --workdir=RUN or --from_smp=FILE"),
        (["--config=reference"], "--config: an export reads the run's own"),
        (["--workdir=/nowhere"], "/nowhere/config.json: does not exist"),
        (["--workdir={run}"], "--output is missing"),
        (["--workdir={run}", "--config.model.width=3"], "--config.model.width: does not belong"),
        (["--workdir={run}", "--config.evil.checkpoint=3"], "nearest is --config.eval.checkpoint"),
        (["--workdir={run}", "--encoder=resnet18"], "--encoder: does not belong"),
        (["--workdir={run}", "--mode=evaluate"], "--mode: does not belong"),
    ],
)
def test_command_lines_that_make_no_sense_are_one_line(finished_run, parse, arguments, line):
    with pytest.raises(InputError, match=re.escape(line)):
        parse(*(argument.format(run=finished_run[0]) for argument in arguments))


def test_only_a_model_s_own_files_are_replaced(finished_run, parse, tmp_path):
    workdir, output = f"--workdir={finished_run[0]}", tmp_path / "x"
    given = (workdir, f"--output={output}")
    assert parse(*given) == output
    output.mkdir()
    assert parse(*given) == output  # empty
    (output / "notes.txt").write_text("mine")
    for more in ([], ["--overwrite"]):
        with pytest.raises(InputError, match="is not empty and not a model"):
            parse(*given, *more)
    model_folder.write(output, make_model())
    with pytest.raises(InputError, match="holds a model; pass --overwrite"):
        parse(*given)
    with pytest.raises(InputError, match=r"holds notes\.txt, which no export wrote"):
        parse(*given, "--overwrite")
    (output / "notes.txt").unlink()
    assert parse(*given, "--overwrite") == output
    with pytest.raises(InputError, match="is a file"):
        parse(workdir, f"--output={output / 'config.json'}", "--overwrite")


class FailingOnnx:
    @staticmethod
    def make_onnx(model):
        raise OSError(28, "No space left on device")


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    """What was there stays as it was when the last file cannot be written."""
    output = tmp_path / "models" / "x"
    for before in ([], ["README.md", "config.json", "model.safetensors"]):
        with pytest.raises(InputError, match="No space left on device"):
            export.write_folder(output, make_model(seed=1), FailingOnnx)
        assert sorted(path.name for path in output.glob("*")) == before
        assert [path for path in output.parent.iterdir() if path != output] == []
        export.write_folder(output, make_model(seed=0), None)
    assert_same(model_folder.read(output).variables, make_model(seed=0).variables)


def test_an_export_replaces_every_file_of_the_one_before(tmp_path):
    output = tmp_path / "x"
    export.write_folder(output, make_model(), None)
    (output / "model.onnx").write_bytes(b"of other weights")
    export.write_folder(output, make_model(seed=1), None)
    assert not (output / "model.onnx").exists()


def front_matter(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_the_card_has_what_hubs_read(exported):
    text = card.format_card(exported, name="trash: small", onnx=True)
    matter = front_matter(text)
    assert matter["library_name"] == "trashseg_jax"
    assert matter["pipeline_tag"] == "image-segmentation"
    assert matter["license"] == "other"
    assert {"unet", "onnx", "tiny"} <= set(matter["tags"])
    (index,) = matter["model-index"]
    assert index["name"] == "trash: small"
    (result,) = index["results"]
    assert result["dataset"] == {"type": "aistage", "name": "aistage", "split": "val"}
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values["mean_iou"] == pytest.approx(exported.figures["miou"], abs=1e-4)


def test_the_card_tells_the_recipe(exported):
    text = card.format_card(exported, name="x", onnx=False)
    assert "| `train.steps` | 4 |" in text
    assert "name focal" in text
    assert "after step 4, averaged over the training's steps" in text


def test_the_card_names_what_the_model_is_weak_at():
    text = card.format_card(make_model(figures=FIGURES), name="x", onnx=False)
    assert "- never hit: Paper | card (5.00% of the pixels)" in text
    assert "- lowest IoU of those that it hits: Metal (0.1250), Background (0.7500)" in text
    assert "- not in the truth of this split, so unknown: Glass" in text
    assert "| Paper \\| card | 0.0000 | 5.00% |" in text
    assert "mIoU **0.2500** (95 % of resamples of the images: 0.2000 to 0.3000)" in text
    assert "segmentation_models_pytorch has no such network (model.encoder='tiny'" in text


def test_the_card_s_code_for_jax_runs_as_it_stands(demo_folder, tmp_path):
    model = make_model()
    (names,) = run_card(tmp_path / "x", model, next(demo_folder.glob("**/*.jpg")))
    assert names["classes"].shape == (50, 64)
    normalize = build.augment.make_normalize("imagenet")
    logits = model.network.apply(model.variables, normalize(names["image"]), train=False)
    np.testing.assert_array_equal(names["classes"], np.argmax(logits, -1)[0, :50, :64])


def test_onnx_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.delitem(sys.modules, "trashseg_jax.onnx_export", raising=False)
    monkeypatch.delattr(trashseg_jax, "onnx_export", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"--onnx: needs .* pip install trashseg_jax\[onnx\]"):
        export.import_onnx()
