"""--mode=calibrate, and what evaluation, prediction and export make of what it writes."""

import dataclasses
import json
import shutil
from functools import partial

import fixtures_commands
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures_models import make_model
from PIL import Image

import trashseg_jax
from trashseg_jax import build, calibrate, metrics, model_folder, model_sources, train
from trashseg_jax.data import pipeline
from trashseg_jax.data.augment import make_normalize
from trashseg_jax.devices import sharding
from trashseg_jax.errors import InputError
from trashseg_jax.refine import calibration
from trashseg_jax.report import table

# A strong one, so that what applies it shows.
STRONG = {"strength": 1.0, "temperature": 2.0}


def without_calibration(model):
    return dataclasses.replace(model, calibration=None)


@pytest.fixture(scope="module")
def trained(tiny_config, tmp_path_factory):
    return fixtures_commands.train_two_steps(
        tiny_config(), tmp_path_factory.mktemp("runs") / "small"
    )


@pytest.fixture(scope="module")
def calibrated(trained, tmp_path_factory):
    """A copy of the run that has been calibrated."""
    folder = tmp_path_factory.mktemp("calibrated") / "small"
    shutil.copytree(trained, folder)
    with pytest.MonkeyPatch.context() as patch:
        fixtures_commands.calibrate(patch, *run_flags(folder), "--config.calibration.pixels=2000")
    return folder


def run_flags(folder):
    return [f"--workdir={folder}", f"--config=run:{folder}"]


def report_of(folder):
    return json.loads((folder / "calibration.json").read_text())


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def logits_and_labels(folder, config):
    """The network's own logits of the validation images as they are scaled, image by image."""
    model = model_sources.load(folder, checkpoint="latest", calibration=False)
    options = {"batch_size": 4, "image_size": 32, "process_index": 0, "process_count": 1}
    source = build.build_data(config).source("val")
    for batch in pipeline.eval_batches(source, **options):
        pixels = make_normalize(model.normalize)(batch["image"])
        logits = model.network.apply(model.variables, pixels, train=False)
        yield from zip(
            np.asarray(logits)[batch["mask"]], batch["label"][batch["mask"]], strict=True
        )


def confusion_of(logits, labels):
    found = np.asarray(logits).argmax(-1).astype(np.uint8)
    return metrics.count_confusion(labels[None], found[None], num_classes=11)[0]


def corrected(logits, labels, fitted, strength):
    """The confusion matrix of a network's logits less strength times weight."""
    undone = np.asarray(calibration.undo_focal(jnp.asarray(logits), gamma=2.0))
    return confusion_of(undone - strength * np.array(fitted.log_weight), labels)


def test_the_strength_is_the_best_of_its_half_and_the_figures_are_those_of_the_other(
    calibrated, tiny_config
):
    """By hand: the network's logits less strength times weight, counted image by image."""
    report = report_of(calibrated)
    fitted = calibration.read(
        calibrated / "calibration.json", classes=report["calibration"]["classes"]
    )
    images = list(logits_and_labels(calibrated, tiny_config()))
    assert len(images) == report["num_images"] == 5

    def miou(strength, chosen):
        count = sum(corrected(logits, y, fitted, strength) for logits, y in chosen)
        return metrics.iou(count)[count.sum(1) > 0].mean()

    curves = [[miou(s, images[half::2]) for s in calibrate.STRENGTHS] for half in (0, 1)]
    np.testing.assert_allclose(report["curve"]["miou"], curves[0], atol=2e-3)
    found = report["two_fold"]["prior"]["strength"]
    for strength, curve in zip(found, curves, strict=True):
        assert curve[calibrate.STRENGTHS.index(strength)] == pytest.approx(max(curve), abs=2e-3)
    assert fitted.strength == found[0]
    assert (fitted.images, fitted.num_images, fitted.step) == ("even", 3, 2)


def test_a_strength_that_is_given_is_kept_and_judged(
    trained, tmp_path, monkeypatch, capsys, tiny_config
):
    """On both halves, so that the figures are of all images; the temperature is still fitted."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    flags = ["--config.calibration.strength=0.4", "--config.calibration.pixels=2000"]
    fixtures_commands.calibrate(monkeypatch, *run_flags(folder), *flags)
    report, printed = report_of(folder), capsys.readouterr().out
    fitted = calibration.read(folder / "calibration.json", classes=report["calibration"]["classes"])
    found = report["two_fold"]["prior"]
    assert fitted.strength == 0.4
    assert found["strength"] == [0.4, 0.4]
    assert fitted.temperature != 1
    images = logits_and_labels(folder, tiny_config())
    count = sum(corrected(logits, y, fitted, 0.4) for logits, y in images)
    expected = metrics.iou(count)[count.sum(1) > 0].mean()
    assert found["miou"] == pytest.approx(expected, abs=2e-3)
    assert "strength 0.4 (given), temperature" in printed


def test_a_strength_is_refused_where_there_is_nothing_to_take_back(tiny_config):
    prior = strong(make_model()).calibration
    config = tiny_config()
    config.calibration.strength = "0.4"
    assert calibrate.given_strength(config, prior) == 0.4
    alike = dataclasses.replace(prior, log_weight=(0.5,) * len(prior.classes))
    with pytest.raises(InputError, match=r"strength=0\.4: changes nothing, as the run's loss"):
        calibrate.given_strength(config, alike)
    config.calibration.strength = "best"
    assert calibrate.given_strength(config, alike) is None


def test_the_table_tells_what_strengths_make_of_the_rare_classes_and_which_are_lost(calibrated):
    """In the first report the strength is not given; here the kept method loses two classes."""
    report = report_of(calibrated)
    assert "(given)" not in table.format_calibration(report)
    names = report["calibration"]["classes"]
    weights = dict(zip(names, range(11), strict=True))  # the last class weighs most
    report["calibration"]["log_weight"] = list(weights.values())
    hit = dict.fromkeys(names, 0.5)
    report["two_fold"]["raw"]["iou"] = {**hit, names[1]: 0.0, names[2]: None}
    gone = dict.fromkeys(names[1:5], 0.0)
    report["two_fold"]["prior"]["iou"] = {**hit, **gone}
    report["curve"]["iou"][names[-1]] = [0.25, 0.2, 0.125, *[None] * 13]
    lines = table.format_calibration(report).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("prior's strength"))
    assert lines[start].split()[2:] == ["0", "0.2", "0.4", "0.6", "0.8", "1", "1.2", "1.4"]
    cells = [f"{value:.4f}" for value in report["curve"]["miou"][::2]]
    assert lines[start + 1].split() == ["mIoU", *cells]
    shown = [line.split("  ")[0] for line in lines[start + 2 : start + 6]]
    assert shown == names[:-5:-1]
    assert lines[start + 2].split()[1:4] == ["0.2500", "0.1250", "absent"]
    assert f"prior loses what raw hit: {names[3]}, {names[4]}" in lines


def test_a_class_that_is_not_in_the_truth_has_no_curve():
    """However often it is predicted; one that is there and never hit has 0."""
    confusion = np.array([[[5, 1, 2], [0, 0, 0], [3, 0, 0]]] * len(calibrate.STRENGTHS))
    curve = calibrate.describe_curve(confusion, ("a", "b", "c"))
    assert set(curve["iou"]["a"]) == {5 / 11}
    assert set(curve["iou"]["b"]) == {None}
    assert set(curve["iou"]["c"]) == {0.0}
    assert set(curve["miou"]) == {5 / 22}


def test_weights_are_those_of_the_run_s_record(calibrated):
    derived = json.loads((calibrated / "config.json").read_text())["derived"]
    fitted = report_of(calibrated)["calibration"]
    for name, found in zip(fitted["classes"], fitted["log_weight"], strict=True):
        alpha, prior, share = (derived[k][name] for k in ("alpha", "priors", "pixel_share"))
        known = alpha > 0 and prior > 0 and share > 0
        assert found == pytest.approx(np.log(alpha * prior / share) if known else 0.0)
    assert sum(derived["pixel_share"].values()) == pytest.approx(1)
    assert fitted["gamma"] == 2.0


def test_figures_before_are_those_of_an_evaluation(calibrated, monkeypatch):
    flags = ["--config.eval.resolution=scaled", "--config.eval.calibration=False"]
    fixtures_commands.evaluate(
        monkeypatch, *run_flags(calibrated), *flags, "--config.eval.tag=plain"
    )
    figures, raw = metrics_of(calibrated / "evaluations/val-2-plain"), report_of(calibrated)
    raw = raw["two_fold"]["raw"]
    assert figures["iou"] == pytest.approx(raw["iou"])
    there = [v for name, v in figures["iou"].items() if figures["pixel_share"][name]]
    assert raw["miou"] == pytest.approx(np.mean(there))
    assert figures["pixel_accuracy"] == pytest.approx(raw["pixel_accuracy"])
    assert "calibration" not in figures
    assert figures["loss"] > 0


def test_a_temperature_changes_no_decision_and_what_is_fitted_is_more_likely(calibrated):
    two_fold = report_of(calibrated)["two_fold"]
    assert list(two_fold) == ["raw", "temperature", "bias", "prior"]
    assert two_fold["temperature"]["iou"] == two_fold["raw"]["iou"]
    assert two_fold["temperature"]["gain_interval"] == [0, 0]
    assert two_fold["bias"]["log_loss"] < two_fold["raw"]["log_loss"]
    for name in ("calibration.png", "reliability.png"):
        assert Image.open(calibrated / name).size[0] >= 400


def test_what_one_half_shows_changes_nothing_that_is_fitted_on_the_other():
    rng = np.random.default_rng(0)
    raw = strong(make_model()).calibration
    raw = dataclasses.replace(raw, method="temperature", strength=0.0, temperature=1.0)
    images = np.repeat(np.arange(6), 50)
    pixels = calibrate.Pixels(
        rng.normal(size=(300, 11)).astype(np.float32),
        rng.integers(0, 11, 300).astype(np.uint8),
        images,
    )
    curve = rng.integers(0, 50, (2, 6, 11, 11))
    by_strength = [dataclasses.replace(raw, strength=s) for s in (0.0, 1.0)]
    fit = partial(calibrate.fit_all, raw, by_strength, pixels, curve)
    before = fit(images="even", strength=None)
    odd = images % 2 == 1
    pixels.labels[odd], curve[:, 1::2] = 10 - pixels.labels[odd], curve[::-1, 1::2]
    assert fit(images="even", strength=None) == before
    assert fit(images="odd", strength=None) != before
    assert before["prior"].num_images == 3


def test_images_and_pixels_are_judged_by_the_fit_of_the_other_half():
    of_even, of_odd = np.full((4, 2, 2), 1), np.full((4, 2, 2), 2)
    found = calibrate.cross(of_even, of_odd, odd=np.array([False, True, False, True]))
    assert found[:, 0, 0].tolist() == [2, 1, 2, 1]


# Where it is applied.


def strong(model, **changes):
    """The model with a calibration that moves everything."""
    count = len(model.classes)
    return dataclasses.replace(
        model,
        calibration=calibration.Calibration(
            classes=model.classes,
            method="prior",
            gamma=2.0,
            log_weight=tuple(np.linspace(-3, 3, count).tolist()),
            bias=(0.0,) * count,
            dataset="demo",
            split="val",
            images="even",
            num_images=3,
            step=2,
            **{**STRONG, **changes},
        ),
    )


def segmenter_of(*models, **options):
    from trashseg_jax.prediction.models import make_segmenter

    given = {"scale": "fit", "tile_scale": 1.0, "tta": (), "batch_size": 1, "keep_probs": True}
    return make_segmenter(*models, **{**given, **options})


def own_probs(model, image):
    """The calibrated probabilities of an image of the network's size, without a segmenter."""
    pixels = make_normalize(model.normalize)(image[None])
    logits = model.network.apply(model.variables, pixels, train=False)
    return np.asarray(jax.nn.softmax(model.calibration.apply(logits)))[0]


def segment(segmenter, image):
    (found,) = segmenter.segment(iter([image]))
    return found


@pytest.mark.parametrize("scale", ["fit", "tile"])
def test_each_model_s_logits_are_calibrated_before_their_probabilities_are_averaged(scale):
    one, other = strong(make_model()), strong(make_model(seed=1), strength=-1.0, temperature=0.5)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    found = segment(segmenter_of(one, other, scale=scale), image)
    expected = (own_probs(one, image) + own_probs(other, image)) / 2
    np.testing.assert_allclose(found.probs, expected, atol=2e-3)
    plain = segmenter_of(*map(without_calibration, (one, other)), scale=scale)
    assert np.abs(segment(plain, image).probs - expected).max() > 0.1


def test_views_are_calibrated_before_they_are_averaged():
    model = strong(make_model())
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    mirrored = own_probs(model, image[:, ::-1])[:, ::-1]
    expected = (own_probs(model, image) + mirrored) / 2
    found = segment(segmenter_of(model, tta=("flip",)), image)
    np.testing.assert_allclose(found.probs, expected, atol=2e-3)


@pytest.mark.parametrize("resolution", ["original", "scaled"])
def test_an_evaluation_applies_what_is_there_and_says_so(
    calibrated, monkeypatch, capsys, resolution, tmp_path, tiny_config
):
    folder = tmp_path / "run"
    shutil.copytree(calibrated, folder)
    report = report_of(folder)
    report["calibration"] |= STRONG
    (folder / "calibration.json").write_text(json.dumps(report))
    fixtures_commands.evaluate(
        monkeypatch, *run_flags(folder), f"--config.eval.resolution={resolution}"
    )
    figures, printed = metrics_of(folder / "evaluations/val-2"), capsys.readouterr().out
    fitted = calibration.read(folder / "calibration.json", classes=list(figures["iou"]))
    assert figures["calibration"] == fitted.describe()
    assert figures["loss"] is None
    assert "its probabilities are calibrated (prior, strength 1, temperature 2, " in printed
    assert "calibrated" in printed.splitlines()[-3]
    (warned,) = (line for line in figures["warnings"] if "was fitted on" in line)
    assert warned.startswith("3 of these images, of aistage/val the even ones")
    if resolution == "scaled":
        images = logits_and_labels(folder, tiny_config())
        expected = sum(confusion_of(fitted.apply(jnp.asarray(logits)), y) for logits, y in images)
        differing = np.abs(np.array(figures["confusion"]) - expected).sum()
        assert differing <= 10  # rounding, of 5,120 pixels
    assert figures["confusion"] != metrics_of(folder)["confusion"]


def test_an_export_carries_it_and_predicts_alike(calibrated, tmp_path, monkeypatch, capsys):
    folder, plain = tmp_path / "model", tmp_path / "plain"
    fixtures_commands.export_folder(monkeypatch, f"--workdir={calibrated}", f"--output={folder}")
    fixtures_commands.export_folder(
        monkeypatch,
        f"--workdir={calibrated}",
        f"--output={plain}",
        "--config.eval.calibration=False",
    )
    model, other = model_folder.read(folder), model_folder.read(plain)
    assert model.calibration.to_json() == report_of(calibrated)["calibration"]
    assert other.calibration is None
    assert model.digest() != other.digest() == without_calibration(model).digest()
    assert "calibrated" in (folder / "README.md").read_text()
    assert "calibrated" not in (plain / "README.md").read_text()
    image = np.random.default_rng(0).integers(0, 256, (40, 32, 3), np.uint8)
    by_run = trashseg_jax.Predictor(calibrated)(image).probs
    np.testing.assert_array_equal(trashseg_jax.Predictor(folder)(image).probs, by_run)
    without = trashseg_jax.Predictor(calibrated, calibration=False)(image).probs
    np.testing.assert_array_equal(trashseg_jax.Predictor(plain)(image).probs, without)
    assert np.abs(by_run.astype(float) - without).max() > 0.01


def test_predict_says_that_it_calibrates_and_can_be_told_not_to(
    calibrated, tmp_path, monkeypatch, capsys
):
    photo = tmp_path / "photo.png"
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(photo)
    flags = [f"--model={calibrated}", f"--input={photo}"]
    fixtures_commands.predict_files(monkeypatch, *flags, f"--output={tmp_path / 'a'}")
    assert f"{calibrated}: its probabilities are calibrated" in capsys.readouterr().out
    fixtures_commands.predict_files(
        monkeypatch, *flags, f"--output={tmp_path / 'b'}", "--nocalibration"
    )
    assert "calibrated" not in capsys.readouterr().out


def test_a_model_s_folder_with_a_calibration_of_other_classes_is_refused(tmp_path):
    model = strong(make_model())
    folder = tmp_path / "model"
    folder.mkdir()
    model_folder.write(folder, model)
    assert model_folder.read(folder).calibration == model.calibration
    described = json.loads((folder / "config.json").read_text())
    described["calibration"]["classes"].reverse()
    (folder / "config.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match=r"config\.json: was fitted for the classes"):
        model_folder.read(folder)


def test_a_training_that_goes_on_is_scored_as_it_is_and_leaves_the_calibration_behind(
    calibrated, tiny_config, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    shutil.copytree(calibrated, folder)
    config = tiny_config()
    config.train.update({"steps": 3, "eval_every": 1, "checkpoint_every": 1})
    config.optimizer.warmup_steps = 1
    assert "calibration" not in train.train(config, folder)
    with pytest.raises(InputError, match="weights of step 2, and these are of step 3"):
        fixtures_commands.evaluate(monkeypatch, *run_flags(folder))
    with pytest.raises(InputError, match="weights of step 2, and these are of step 3"):
        trashseg_jax.Predictor(folder)
    trashseg_jax.Predictor(folder, calibration=False)
    trashseg_jax.Predictor(folder, checkpoint="2")


# What is refused.


def test_all_images_of_the_split_that_is_reported_are_refused(trained, monkeypatch):
    with pytest.raises(InputError, match=r"images='all': 'val' is the split that is reported"):
        fixtures_commands.calibrate(
            monkeypatch, *run_flags(trained), "--config.calibration.images=all"
        )
    assert not (trained / "calibration.json").exists()


def test_a_calibration_needs_a_run(tmp_path, monkeypatch, trained):
    with pytest.raises(InputError, match="--workdir is missing; pass the folder of the run to cal"):
        fixtures_commands.calibrate(monkeypatch, "--config=focal")
    with pytest.raises(InputError, match="to calibrate a run --workdir=RUN"):
        fixtures_commands.calibrate(monkeypatch, f"--model={trained}")


def test_an_older_run_s_pixels_are_counted_and_all_images_of_another_split_are_taken(
    calibrated, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    shutil.copytree(calibrated, folder)
    record = json.loads((folder / "config.json").read_text())
    del record["derived"]["pixel_share"]
    (folder / "config.json").write_text(json.dumps(record))
    flags = ["--config.calibration.images=all", "--config.calibration.split=train"]
    fixtures_commands.calibrate(monkeypatch, *run_flags(folder), *flags)
    before, after = report_of(calibrated)["calibration"], report_of(folder)["calibration"]
    np.testing.assert_allclose(after["log_weight"], before["log_weight"])
    assert (after["split"], after["images"], after["num_images"]) == ("train", "all", 12)


def test_pixels_are_drawn_evenly_and_no_more_than_asked_for(trained, tiny_config):
    """About 200 of each half's, and of an ignored one none; the same ones again."""
    config = tiny_config()
    model = strong(model_sources.load(trained, checkpoint="latest", calibration=False))
    source = build.build_data(config).source("val")
    mesh = sharding.make_mesh()
    look = [config, source, model.network, model.variables, mesh, [model.calibration]]
    pixels, confusion = calibrate.scan(*look, per_half=200)
    valid = confusion[0].sum((1, 2))
    expected = valid * 400 / (5 * 32 * 32)
    drawn = np.bincount(pixels.images, minlength=5)
    assert (np.abs(drawn - expected) < 5 * np.sqrt(expected)).all()
    assert pixels.labels.max() < 11
    again, _ = calibrate.scan(*look, per_half=200)
    np.testing.assert_array_equal(again.logits, pixels.logits)
    images = list(logits_and_labels(trained, config))
    for place in range(5):
        logits, labels = images[place]
        taken = pixels.logits[pixels.images == place]
        rows = np.concatenate([logits.reshape(-1, 11), labels.reshape(-1, 1)], 1)
        found = np.abs(rows[:, None, :11] - taken[None]).max(-1).min(0)
        assert found.max() < 1e-3  # each of them is a pixel of this image
