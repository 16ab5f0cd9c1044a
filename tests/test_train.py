"""The whole path, on rendered scenes: train, stop, resume, evaluate."""

import dataclasses
import io
import json
import os
import resource
import shutil
import signal
import struct
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fixtures_dense import needs_pydensecrf
from PIL import Image
from tensorboardX.proto import event_pb2

from trashseg_jax import build, evaluate, metrics, train
from trashseg_jax.configs import crf_focal_balanced
from trashseg_jax.data import pipeline
from trashseg_jax.data.label_codec import decode_label
from trashseg_jax.devices import sharding
from trashseg_jax.errors import InputError, Interrupted, RunError
from trashseg_jax.refine import dense
from trashseg_jax.report import table
from trashseg_jax.report.confusions import load_confusions
from trashseg_jax.report.pictures import load_pictures
from trashseg_jax.run.checkpoint import Checkpoints
from trashseg_jax.run.lock import RunLock


@pytest.fixture(scope="module")
def whole_run(tiny_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, train.train(tiny_config(), workdir)


def read_log(workdir):
    return [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]


def final_state(config, workdir):
    model = build.build_model(config, num_classes=11)
    tx, _ = build.build_optimizer(config, steps=4)
    return jax.device_get(evaluate.restore(config, workdir, model, tx, sharding.make_mesh()))


def test_run_leaves_the_documented_files(whole_run):
    workdir, figures = whole_run
    names = {path.name for path in workdir.iterdir()}
    assert names >= {
        "config.json",
        "log.jsonl",
        "tensorboard",
        "checkpoints",
        "metrics.json",
        "report.html",
        "samples.png",
        "confusions.npz",
        "pictures.npz",
    }
    assert json.loads((workdir / "metrics.json").read_text()) == figures
    assert any((workdir / "tensorboard").iterdir())


def test_what_compares_runs_is_of_the_images_by_their_files_names(whole_run, prepared):
    workdir, figures = whole_run
    names = [name for name, _ in prepared.images("val")]
    images = load_confusions(workdir / "confusions.npz")
    assert (images.names, images.classes) == (names, list(figures["iou"]))
    assert images.per_image.sum(0).tolist() == figures["confusion"]
    shown = load_pictures(workdir / "pictures.npz")
    assert sorted(one.place for one in shown) == [*range(len(names))]
    for one in shown:
        assert one.name == names[one.place]
        assert one.size == (64, 64)
        # The page's picture has as many right pixels as the figures: the scenes are not scaled.
        errors = np.array(Image.open(io.BytesIO(one.errors)).convert("RGBA"))[..., 3] > 0
        confusion = images.per_image[one.place]
        assert errors.sum() == 64 * 64 - np.trace(confusion)


def test_config_file_holds_what_the_data_led_to(whole_run, prepared):
    """Alpha by annotations, and the share of the images with each class before and after."""
    derived = json.loads((whole_run[0] / "config.json").read_text())["derived"]
    pixels, annotations = prepared.counts("train")
    objects = annotations.sum(0)[1:]
    ratios = [round(objects.max() / n) if n else 0 for n in objects]
    assert list(derived["alpha"].values()) == [1, *ratios]
    assert sum(derived["priors"].values()) == pytest.approx(1)
    before, after = derived["image_shares"]["before"], derived["image_shares"]["after"]
    assert list(before.values()) == pytest.approx((pixels > 0).mean(0))
    rarest = min((name for name in before if before[name]), key=before.__getitem__)
    assert after[rarest] > before[rarest]


def test_log_begins_with_what_the_data_led_to(whole_run):
    first = read_log(whole_run[0])[0]
    derived = json.loads((whole_run[0] / "config.json").read_text())["derived"]
    assert first == {"step": 0, **derived}


def test_unusable_weights_are_refused_before_anything_is_made(tiny_config, tmp_path):
    config = tiny_config()
    config.data.cache_dir = str(tmp_path / "cache")
    config.model.pretrained = str(tmp_path / "absent.safetensors")
    with pytest.raises(InputError, match="there is no such file"):
        train.train(config, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["model.encoder", "loss.name", "optimizer.schedule", "nan_policy"])
def test_wrong_option_leaves_no_folder(tiny_config, prepared, tmp_path, key):
    del prepared  # so that nothing is left to be prepared
    config = tiny_config()
    config.update_from_flattened_dict({key: "nonsense"})
    with pytest.raises(InputError, match=rf"{key}.*'nonsense'"):
        train.train(config, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_stream_is_the_resampled_one(tiny_config, prepared):
    """The batch of a later step, its crops undone by cropping the whole image."""
    config = tiny_config()
    config.data.augment.crop_area = (1.0, 1.0)
    weights = build.build_image_weights(config, prepared)
    index_of = build.build_index(config, weights, number=0)
    sets = build.build_training_sets(config, prepared)
    batch = next(train.train_batches(config, sets, weights, None, start_step=5))
    expected = [prepared.source("train")[index_of(position)]["label"] for position in range(20, 24)]
    shown = [decode_label(label)[1::2, 1::2] for label in expected]
    np.testing.assert_array_equal(batch["label"], shown)
    # The step needs it to tell padding from content.
    assert "size" in sharding.shard_batch(batch, sharding.make_mesh())


@pytest.mark.filterwarnings("ignore:config.data.paste.size")
def test_objects_are_counted_and_pasted_where_the_config_asks_for_it(tiny_config, prepared):
    config = tiny_config()
    weights = build.build_image_weights(config, prepared)
    sets = build.build_training_sets(config, prepared)
    plain = next(train.train_batches(config, sets, weights, None, start_step=2))
    assert train.count_objects(prepared, build.build_bank(config, prepared)) == {}
    config.data.paste.probability = 1.0
    bank = build.build_bank(config, prepared)
    counts = train.count_objects(prepared, bank)["paste_objects"]
    assert tuple(counts) == prepared.classes
    assert counts["Background"] == 0
    assert list(counts.values()) == bank.counts.tolist()
    changed = next(train.train_batches(config, sets, weights, bank, start_step=2))
    np.testing.assert_array_equal(changed["id"], plain["id"])
    np.testing.assert_array_equal(changed["crop"], plain["crop"])
    assert np.all((changed["label"] != plain["label"]).any((1, 2)))


def test_metrics_cover_every_validation_image_once(whole_run, prepared):
    _, figures = whole_run
    pixel_counts, _ = prepared.counts("val")
    assert figures["num_images"] == 5
    assert (figures["dataset"], figures["split"], figures["step"]) == ("aistage", "val", 4)
    assert len(figures["iou"]) == 11
    assert (figures["resolution"], figures["image_size"]) == ("original", 32)
    # The rows of the confusion are the labels of the 64x64 scenes.
    np.testing.assert_array_equal(np.sum(figures["confusion"], 1), pixel_counts.sum(0))


def test_log_has_an_entry_for_each_logged_step(whole_run):
    workdir, figures = whole_run
    log = read_log(workdir)
    training = [e for e in log if "loss" in e]
    assert [e["step"] for e in training] == [1, 2, 3, 4]
    assert all(np.isfinite(e["loss"]) and e["images_per_second"] > 0 for e in training)
    evaluated = [e for e in log if "miou" in e]
    assert [e["step"] for e in evaluated] == [2, 4]
    assert evaluated[-1]["eval_loss"] == pytest.approx(figures["loss"], rel=1e-5)


def test_logged_learning_rate_is_the_one_that_made_the_update(whole_run, tiny_config):
    """Warm-up of two steps to the peak, then the cosine's first and middle of two."""
    peak = tiny_config().optimizer.learning_rate
    logged = [e["learning_rate"] for e in read_log(whole_run[0]) if "loss" in e]
    np.testing.assert_allclose(logged, np.array([1 / 3, 2 / 3, 1, 1 / 2]) * peak, rtol=1e-5)


def test_evaluation_scores_the_averaged_weights(whole_run, tiny_config, prepared):
    """Of a state whose trained weights always say class 3, and whose averaged ones class 5."""

    def says(variables, label):
        zeros = jax.tree.map(np.zeros_like, variables)
        zeros["params"]["head"]["bias"][label] = 1
        return zeros

    config = tiny_config()
    mesh, model = sharding.make_mesh(), build.build_model(config, num_classes=11)
    state = final_state(config, whole_run[0])
    three, five = says(state.ema, 3), says(state.ema, 5)
    state = dataclasses.replace(
        state, params=three["params"], batch_stats=three["batch_stats"], ema=five
    )
    loss_fn = build.build_loss(config, np.ones(11))
    score = evaluate.build_scorer(
        config, prepared, model, loss_fn, mesh, refine=False, resolution="scaled"
    )
    assert np.flatnonzero(score(state).confusion.sum((0, 1))).tolist() == [5]


def test_only_the_evaluation_that_is_reported_resamples(whole_run, tiny_config, tmp_path):
    """The last step of a run is evaluated, then reported."""
    workdir = shutil.copytree(whole_run[0], tmp_path / "run")
    config = tiny_config()
    config.train.steps = 5
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "bootstrap_interval", lambda *_, **options: calls.append(options))
        train.train(config, workdir)
    assert [e["step"] for e in read_log(workdir) if "miou" in e] == [2, 4, 5]
    assert [one["resamples"] for one in calls] == [metrics.RESAMPLES] * 2  # all classes, common


def test_sheet_of_samples_has_the_photographs(whole_run):
    sheet = Image.open(whole_run[0] / "samples.png")
    assert sheet.mode == "RGB"
    assert sheet.width > 6 * 160  # two samples of three panels a row
    assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 1000


def test_interrupted_run_ends_with_the_same_state_and_figures(whole_run, tiny_config, tmp_path):
    """Stopped after step 2 of 4: parameters, optimizer, averages and metrics, bit for bit."""
    config = tiny_config()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "shard_batch", CallAt(3, interrupt))
        with pytest.raises(ForTest):
            train.train(config, tmp_path)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 3, "los')  # as a kill may leave it
    assert train.train(config, tmp_path) == whole_run[1]
    assert_same_run(config, tmp_path, whole_run[0])


def assert_same_run(config, workdir, expected):
    """Bit for bit, but for what a clock says."""
    jax.tree.map(
        np.testing.assert_array_equal, final_state(config, workdir), final_state(config, expected)
    )
    entries = [
        [{k: v for k, v in e.items() if k != "images_per_second"} for e in read_log(w)]
        for w in (workdir, expected)
    ]
    assert entries[0] == entries[1]


def contents(workdir):
    """The bytes of the run's own files."""
    paths = [*workdir.glob("*.*"), *workdir.glob("tensorboard/*")]
    return {path.name: path.read_bytes() for path in paths}


def test_finished_run_is_not_trained_further_nor_written_to(whole_run, tiny_config, capsys):
    """Also under other options, which describe no step: they are named."""
    workdir, figures = whole_run
    before = contents(workdir)
    config = tiny_config()
    assert train.train(config, workdir) == figures
    assert "finished, at step 4, and nothing is trained; --mode" in capsys.readouterr().out
    config.optimizer.learning_rate = 0.5
    config.eval.split = "train"
    assert train.train(config, workdir) == figures
    said = capsys.readouterr().out
    assert "eval.split, optimizer.learning_rate differ from the run's and change nothing" in said
    assert contents(workdir) == before


def test_run_that_was_killed_before_its_last_figures_gets_them(whole_run, tiny_config, tmp_path):
    """By its own options alone: those of others are no figures of this run."""
    workdir = shutil.copytree(whole_run[0], tmp_path / "run")
    (workdir / "metrics.json").unlink()
    config = tiny_config()
    config.eval.split = "train"
    with pytest.raises(InputError, match=r"eval\.split was 'val', is 'train'.*config=run:"):
        train.train(config, workdir)
    assert not (workdir / "metrics.json").exists()
    assert train.train(tiny_config(), workdir) == whole_run[1]
    assert (workdir / "metrics.json").exists()


def test_evaluation_scores_as_training_did_in_a_folder_of_its_own(whole_run, tiny_config):
    workdir, figures = whole_run
    before = contents(workdir)
    config = tiny_config()
    assert evaluate.evaluate(config, workdir) == figures
    config.eval.update({"split": "train", "checkpoint": "2", "tag": "early"})
    other = evaluate.evaluate(config, workdir)
    assert (other["num_images"], other["step"], other["split"]) == (12, 2, "train")
    for name, expected in (("val-4", figures), ("train-2-early", other)):
        folder = workdir / "evaluations" / name
        names = {"metrics.json", "samples.png", "report.html", "config.json"}
        names |= {"confusions.npz", "pictures.npz"}
        assert {path.name for path in folder.iterdir()} == names
        assert json.loads((folder / "metrics.json").read_text()) == expected
    assert contents(workdir) == before


def test_evaluation_names_the_steps_there_are(whole_run, tiny_config):
    config = tiny_config()
    config.eval.checkpoint = "3"
    with pytest.raises(InputError, match=r"eval\.checkpoint='3'.*latest, best, 2, 4"):
        evaluate.evaluate(config, whole_run[0])


@pytest.mark.parametrize(
    ("key", "value"), [("data.normalize", "unit"), ("model.multi_grid", (1, 2, 4))]
)
@pytest.mark.parametrize("mode", [train.train, evaluate.evaluate])
def test_another_model_than_the_runs_is_refused_by_resume_and_evaluation(
    whole_run, tiny_config, mode, key, value
):
    """Its arrays would fit. Nothing is written, and nothing prepared."""
    workdir = whole_run[0]
    config = tiny_config()
    config.data.dir = "/nowhere"
    config.update_from_flattened_dict({key: value})
    before = contents(workdir)
    with pytest.raises(InputError, match=rf"{key} was .*config=run:"):
        mode(config, workdir)
    assert contents(workdir) == before


def test_evaluation_loss_is_that_of_training_over_the_split(whole_run, tiny_config, prepared):
    """Image by image, by the averaged weights, against the figures and the log."""
    workdir, figures = whole_run
    config = tiny_config()
    loss_fn = build.build_loss(config, build.build_alpha(config, prepared))
    model, normalize = build.build_model(config, num_classes=11), build.build_normalize(config)
    ema = final_state(config, workdir).ema
    batches = pipeline.eval_batches(
        prepared.source("val"), batch_size=1, image_size=32, process_index=0, process_count=1
    )
    losses = []
    for batch in batches:
        logits = model.apply(ema, normalize(jnp.asarray(batch["image"])), train=False)
        losses.append(float(loss_fn(logits, jnp.asarray(batch["label"]))[0]))
    assert figures["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    evaluated = [e for e in read_log(workdir) if "miou" in e]
    assert evaluated[-1]["eval_loss"] == pytest.approx(figures["loss"], rel=1e-5)


def test_evaluation_adjusts_logits_by_the_priors_of_the_training_stream(tiny_config, tmp_path):
    config = tiny_config()
    config.loss.update({"alpha": "none", "logit_adjustment": 1.0})
    config.train.update({"steps": 3, "eval_every": 3, "checkpoint_every": 3})
    config.eval.resolution = "scaled"
    trained = train.train(config, tmp_path)["loss"]
    assert evaluate.evaluate(config, tmp_path)["loss"] == pytest.approx(trained, rel=1e-5)
    config.data.sampling.name = "uniform"  # other priors
    assert evaluate.evaluate(config, tmp_path)["loss"] != pytest.approx(trained, rel=1e-5)


@needs_pydensecrf
def test_evaluations_during_training_leave_the_crf_out(tiny_config, tmp_path, monkeypatch):
    """Two evaluations of five images, but five refinements; the report refines what it shows."""
    refine, seen = dense.refine, []
    monkeypatch.setattr(dense, "refine", lambda *a, **k: seen.append(1) or refine(*a, **k))
    config = tiny_config()
    config.crf.update({"enabled": True, "iterations": 1, "workers": 0})
    train.train(config, tmp_path)
    assert [e["step"] for e in read_log(tmp_path) if "miou" in e] == [2, 4]
    assert len(seen) == 5 + 5


@needs_pydensecrf
def test_crf_adds_refined_figures_to_the_last_evaluation(whole_run, tiny_config, tmp_path):
    """As the end of a training, in this process, and as an evaluation, in two others."""
    workdir = shutil.copytree(whole_run[0], tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "4")
    config = tiny_config()
    config.crf.update({"enabled": True, "iterations": 2, "workers": 0})
    figures = train.train(config, workdir)
    refined = figures.pop("crf")
    assert figures == whole_run[1]
    assert refined.pop("failed") == []
    assert refined["engine"] == "pydensecrf"
    assert {"miou", "iou", "confusion", "engine"} < refined.keys() < figures.keys() | {"engine"}
    # The same pixels of truth, counted under other predictions.
    raw, after = np.array(figures["confusion"]), np.array(refined["confusion"])
    np.testing.assert_array_equal(after.sum(1), raw.sum(1))
    assert np.any(after != raw)
    assert json.loads((workdir / "metrics.json").read_text())["crf"] == {**refined, "failed": []}
    assert Image.open(workdir / "samples.png").width > 8 * 160  # rows of two times four panels
    page = (workdir / "report.html").read_text()
    assert '<th scope="col">CRF</th>' in page
    assert page.count('alt="prediction after the CRF"') == 5  # one an image
    changes = {"crf.enabled", "crf.iterations", "crf.workers"}
    assert [e["changes"].keys() for e in read_log(workdir) if "changes" in e] == [changes]

    config.crf.workers = 2
    assert evaluate.evaluate(config, workdir)["crf"] == {**refined, "failed": []}


def test_crf_runs_where_pydensecrf_is_missing(whole_run, tiny_config, tmp_path, monkeypatch):
    """The reference's own experiment, as on Python 3.13."""
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)  # its import fails
    workdir = shutil.copytree(whole_run[0], tmp_path / "run")
    config = tiny_config()
    config.crf.update(crf_focal_balanced.get_config().crf)
    figures = evaluate.evaluate(config, workdir)
    assert (figures["crf"]["engine"], figures["crf"]["failed"]) == ("device", [])
    raw, after = np.array(figures["confusion"]), np.array(figures["crf"]["confusion"])
    np.testing.assert_array_equal(after.sum(1), raw.sum(1))
    assert np.any(after != raw)
    assert "CRF by device" in table.format_table(figures)


def test_evaluate_refuses_a_folder_without_a_run(tiny_config, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        evaluate.evaluate(tiny_config(), tmp_path)


@pytest.mark.parametrize("chosen", ["latest", "best"])
def test_evaluating_beside_a_training_takes_what_is_left_of_its_checkpoints(
    whole_run, tiny_config, tmp_path, monkeypatch, capsys, chosen
):
    """The training removes the one that was chosen just before it is read."""
    workdir = shutil.copytree(whole_run[0], tmp_path / "run")
    config = tiny_config()
    config.eval.checkpoint = chosen
    read, removed = Checkpoints._read, []

    def rotate_once(self, step, like):
        if not removed:
            removed.append(step)
            shutil.rmtree(workdir / "checkpoints" / str(step))
        return read(self, step, like)

    monkeypatch.setattr(Checkpoints, "_read", rotate_once)
    taken = int(final_state(config, workdir).step)
    assert {taken, *removed} == {2, 4}
    line = f"{workdir}/checkpoints/{removed[0]}: was removed while it was read"
    assert line in capsys.readouterr().out


def test_resuming_with_another_shape_or_optimizer_is_refused(whole_run, tiny_config):
    for key, value in (("model.width", 6), ("optimizer.name", "adam")):
        config = tiny_config()
        config.update_from_flattened_dict({key: value})
        with pytest.raises(InputError, match=rf"{key}.*was .*, is '?{value}.*config=run:"):
            train.train(config, whole_run[0])


def test_start_that_fails_leaves_its_options_nowhere(whole_run, tiny_config, tmp_path):
    """In a new run's first step, by an option for the checkpoint, and in a resume's first step."""
    config = tiny_config()
    config.train.update({"steps": 5, "log_every": 2})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "shard_batch", CallAt(1, interrupt))
        with pytest.raises(ForTest):
            train.train(config, tmp_path / "new")
    assert not (tmp_path / "new" / "config.json").exists()
    assert (tmp_path / "new" / "log.jsonl").read_text() == ""

    workdir = shutil.copytree(whole_run[0], tmp_path / "run")
    before = (workdir / "config.json").read_bytes(), read_log(workdir)
    config.optimizer.clip_norm = 0.0  # another state of the optimizer
    with pytest.raises(InputError, match="in the checkpoint and"):
        train.train(config, workdir)
    config.optimizer.clip_norm = 1.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "shard_batch", CallAt(1, interrupt))
        with pytest.raises(ForTest):
            train.train(config, workdir)
    assert ((workdir / "config.json").read_bytes(), read_log(workdir)) == before


def test_resuming_for_longer_is_allowed_and_logged(whole_run, tiny_config, tmp_path, capsys):
    workdir = shutil.copytree(whole_run[0], tmp_path / "run")
    config = tiny_config()
    config.train.update({"steps": 5, "log_every": 2})
    assert train.train(config, workdir)["step"] == 5
    changes = {"train.log_every": [1, 2], "train.steps": [4, 5]}
    log = read_log(workdir)
    assert {"step": 4, "changes": changes} in log
    assert [e["step"] for e in log if "loss" in e] == [1, 2, 3, 4, 5]
    assert "changed since the run began: train.steps was 4, is 5" in capsys.readouterr().out


def test_signal_saves_at_the_next_step_and_the_run_goes_on_to_the_same_end(
    whole_run, tiny_config, tmp_path
):
    """SIGTERM while step 3 is prepared: saved after 3, where no checkpoint was due."""
    config = tiny_config()
    terminate = CallAt(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "shard_batch", terminate)
        with pytest.raises(Interrupted, match="SIGTERM: saved after step 3 of 4"):
            train.train(config, tmp_path)
    assert (tmp_path / "checkpoints" / "3").is_dir()
    assert train.train(config, tmp_path) == whole_run[1]
    assert_same_run(config, tmp_path, whole_run[0])


def test_diverging_run_stops_at_that_step_with_its_batch(tiny_config, tmp_path):
    """A learning rate of 1e30 makes step 2's loss infinite or not a number."""
    config = tiny_config()
    config.optimizer.update({"learning_rate": 1e30, "warmup_steps": 0, "schedule": "constant"})
    with pytest.raises(RunError, match=r"^step 2: loss (nan|inf).*nan_policy=skip") as error:
        train.train(config, tmp_path)
    with np.load(tmp_path / "diverged-step2-process0.npz") as saved:
        assert saved["image"].shape == (4, 32, 32, 3)
        assert saved["label"].dtype == np.uint8
        assert str(saved["id"].tolist()) in str(error.value)
    assert [e["step"] for e in read_log(tmp_path) if "loss" in e] == [1]

    config.nan_policy = "skip"
    with pytest.raises(RunError, match=r"^step 3: loss .* last 2 updates .*learning_rate"):
        train.train(config, tmp_path)
    assert not (tmp_path / "metrics.json").exists()


def test_skipped_update_is_counted_and_stops_no_later_session(tiny_config, tmp_path, monkeypatch):
    """Step 2's labels make its loss not a number; interrupted in step 3, then `stop` goes on."""
    build_loss = build.build_loss

    def loss_of_no_label_is_nan(*arguments):
        loss_fn = build_loss(*arguments)
        return lambda logits, labels: jnp.where(
            jnp.all(labels == 255), jnp.nan, loss_fn(logits, labels)
        )

    monkeypatch.setattr(build, "build_loss", loss_of_no_label_is_nan)
    config = tiny_config()
    config.nan_policy = "skip"
    poison = CallAt(2, lambda: None, change=lambda b: {**b, "label": np.full_like(b["label"], 255)})
    with monkeypatch.context() as patch:
        patch.setattr(sharding, "shard_batch", CallAt(3, interrupt, shard_batch=poison))
        with pytest.raises(ForTest):
            train.train(config, tmp_path)
    config.nan_policy = "stop"
    figures = train.train(config, tmp_path)
    assert (figures["step"], figures["skipped_updates"]) == (4, 1)
    for text in (table.format_table(figures), (tmp_path / "report.html").read_text()):
        assert "updates left out as not finite: 1 of 4" in text
    state = final_state(config, tmp_path)
    counts = [int(n) for _, n in optax.tree.get_all_with_path(state.opt_state, "count")]
    assert (int(state.step), int(state.skipped), set(counts)) == (4, 1, {3})
    log = [e for e in read_log(tmp_path) if "loss" in e]
    assert [e["skipped"] for e in log] == [0, 1, 1, 1]
    # The optimizer's own count before each update: the one that was left out moved nothing.
    _, schedule = build.build_optimizer(config, steps=4)
    rates = [float(schedule(count)) for count in (0, 1, 1, 2)]
    assert [e["learning_rate"] for e in log] == pytest.approx(rates, rel=1e-6)


def test_events_of_a_run_killed_before_its_first_checkpoint_are_not_doubled(
    whole_run, tiny_config, tmp_path
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "shard_batch", CallAt(2, interrupt))
        with pytest.raises(ForTest):
            train.train(tiny_config(), tmp_path)
    assert [step for step, _ in read_events(tmp_path)] == [1] * 4
    train.train(tiny_config(), tmp_path)
    events = read_events(tmp_path)
    assert len(events) == len(set(events))
    assert sorted(events) == sorted(read_events(whole_run[0]))


def test_tensorboard_has_training_validation_classes_and_samples(whole_run):
    workdir, figures = whole_run
    events = read_events(workdir)
    tags = {step: {tag for s, tag in events if s == step} for step in (1, 2, 3, 4)}
    training = {"loss", "grad_norm", "learning_rate", "images_per_second"}
    assert tags[1] == tags[3] == training
    classes = {
        f"val/iou/{name.replace(' ', '_')}" for name, v in figures["iou"].items() if v is not None
    }
    evaluation = {"val/loss", "val/miou", "val/boundary_miou", "val/sample0", "val/sample1"}
    assert tags[4] == training | evaluation | classes
    assert len(classes) > 1


def read_events(workdir):
    """(step, tag) of each value in a run's TensorBoard files, in the format of TFRecord."""
    found = []
    for path in workdir.glob("tensorboard/*"):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = event_pb2.Event.FromString(content[12 : 12 + length])
            found += [(event.step, value.tag) for value in event.summary.value]
            content = content[12 + length + 4 :]
    return found


def test_full_disk_ends_the_run_with_its_checkpoints_whole(whole_run, tiny_config, tmp_path):
    """A limit on a file's size stands in for it: the state does not fit, the small files do."""
    config = tiny_config()
    config.train.checkpoint_every = 1
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    fill = CallAt(3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1])))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sharding, "shard_batch", fill)
            with pytest.raises(
                RunError, match=r"checkpoints: .*last whole one is that of step [12]"
            ):
                train.train(config, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert train.train(config, tmp_path) == whole_run[1]
    assert_same_run(config, tmp_path, whole_run[0])


def test_one_run_a_folder(tiny_config, tmp_path):
    with RunLock(tmp_path), pytest.raises(InputError, match=f"process {os.getpid()} on"):
        train.train(tiny_config(), tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.lock"]


class ForTest(Exception):
    pass


def interrupt():
    raise ForTest


class CallAt:
    """Stands in for `shard_batch`; before a training step's batch it calls `action` and `change`.

    The latter returns what takes the batch's place.
    """

    def __init__(self, step, action, *, change=dict, shard_batch=None):
        self.left, self.action, self.change = step, action, change
        self.shard_batch = shard_batch or sharding.shard_batch

    def __call__(self, batch, mesh):
        if "mask" not in batch:
            self.left -= 1
            if self.left == 0:
                self.action()
                batch = self.change(batch)
        return self.shard_batch(batch, mesh)
