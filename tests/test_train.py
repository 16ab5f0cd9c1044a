"""The whole path, on rendered scenes: train, stop, resume, evaluate."""

import dataclasses
import importlib.util
import json
import os
import resource
import shutil
import signal

import jax
import numpy as np
import pytest
from PIL import Image

from trashseg_jax import build, evaluate, metrics, train
from trashseg_jax.data.label_codec import decode_label
from trashseg_jax.devices import sharding
from trashseg_jax.errors import InputError, Interrupted, RunError
from trashseg_jax.refine import dense
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
    }
    assert json.loads((workdir / "metrics.json").read_text()) == figures
    assert any((workdir / "tensorboard").iterdir())


def test_config_file_holds_what_the_data_led_to(whole_run, prepared):
    """Alpha by annotations, and the share of the images with each class before and after."""
    derived = json.loads((whole_run[0] / "config.json").read_text())["derived"]
    pixels, annotations = prepared.counts("train")
    objects = annotations.sum(0)[1:]
    ratios = [round(objects.max() / n) if n else 0 for n in objects]
    assert list(derived["alpha"].values()) == [1, *ratios]
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
    index_of = build.build_index(config, weights)
    batch = next(train.train_batches(config, prepared, weights, start_step=5))
    expected = [prepared.source("train")[index_of(position)]["label"] for position in range(20, 24)]
    shown = [decode_label(label)[1::2, 1::2] for label in expected]
    np.testing.assert_array_equal(batch["label"], shown)
    # The step needs it to tell padding from content.
    assert "size" in sharding.shard_batch(batch, sharding.make_mesh())


def test_metrics_cover_every_validation_image_once(whole_run, prepared):
    _, figures = whole_run
    pixel_counts, _ = prepared.counts("val")
    assert figures["num_images"] == 5
    assert (figures["dataset"], figures["split"], figures["step"]) == ("aistage", "val", 4)
    assert len(figures["iou"]) == 11
    # 64x64 scenes scored at 32x32: all of their pixels, shares alike to the sampling.
    confusion = np.array(figures["confusion"])
    assert confusion.sum() == 5 * 32 * 32
    share = pixel_counts.sum(0) / pixel_counts.sum()
    np.testing.assert_allclose(confusion.sum(1) / confusion.sum(), share, atol=0.02)


def test_log_has_an_entry_for_each_logged_step(whole_run):
    workdir, figures = whole_run
    log = read_log(workdir)
    training = [e for e in log if "loss" in e]
    assert [e["step"] for e in training] == [1, 2, 3, 4]
    assert all(np.isfinite(e["loss"]) and e["images_per_second"] > 0 for e in training)
    evaluated = [e for e in log if "miou" in e]
    assert [e["step"] for e in evaluated] == [2, 4]
    assert evaluated[-1]["miou"] == figures["miou"]


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
    score = evaluate.build_scorer(config, prepared, model, mesh, refine=False)
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
    assert calls == [{"resamples": metrics.RESAMPLES}]


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


def test_finished_run_is_not_trained_further(whole_run, tiny_config):
    workdir, figures = whole_run
    log = read_log(workdir)
    assert train.train(tiny_config(), workdir) == figures
    assert read_log(workdir) == log


def test_evaluate_scores_the_checkpoint_as_training_did(whole_run, tiny_config):
    workdir, figures = whole_run
    config = tiny_config()
    assert evaluate.evaluate(config, workdir) == figures
    config.eval.split = "train"
    assert evaluate.evaluate(config, workdir)["num_images"] == 12


needs_densecrf = pytest.mark.skipif(
    importlib.util.find_spec("pydensecrf") is None,
    reason="pydensecrf2 is not installed (see requirements.txt)",
)


@needs_densecrf
def test_evaluations_during_training_leave_the_crf_out(tiny_config, tmp_path, monkeypatch):
    """Two evaluations of five images, but five refinements."""
    refine, seen = dense.refine, []
    monkeypatch.setattr(dense, "refine", lambda *a, **k: seen.append(1) or refine(*a, **k))
    config = tiny_config()
    config.crf.update({"enabled": True, "iterations": 1, "workers": 0})
    train.train(config, tmp_path)
    assert [e["step"] for e in read_log(tmp_path) if "miou" in e] == [2, 4]
    assert len(seen) == 5


@needs_densecrf
def test_crf_adds_refined_figures_to_the_last_evaluation(whole_run, tiny_config, tmp_path):
    """As the end of a training, in this process, and as an evaluation, in two others."""
    workdir = shutil.copytree(whole_run[0], tmp_path / "run")
    log = read_log(workdir)
    config = tiny_config()
    config.crf.update({"enabled": True, "iterations": 2, "workers": 0})
    figures = train.train(config, workdir)
    refined = figures.pop("crf")
    assert figures == whole_run[1]
    assert refined.pop("failed") == []
    assert {"miou", "iou", "confusion"} < refined.keys() < figures.keys()
    # The same pixels of truth, counted under other predictions.
    raw, after = np.array(figures["confusion"]), np.array(refined["confusion"])
    np.testing.assert_array_equal(after.sum(1), raw.sum(1))
    assert np.any(after != raw)
    assert json.loads((workdir / "metrics.json").read_text())["crf"] == {**refined, "failed": []}
    assert Image.open(workdir / "samples.png").width > 8 * 160  # rows of two times four panels
    assert "<th>CRF<th>change" in (workdir / "report.html").read_text()
    *before, last = read_log(workdir)
    assert before == log
    assert last["changes"].keys() == {"crf.enabled", "crf.iterations", "crf.workers"}

    config.crf.workers = 2
    assert evaluate.evaluate(config, workdir)["crf"] == {**refined, "failed": []}


def test_evaluate_refuses_a_folder_without_a_run(tiny_config, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        evaluate.evaluate(tiny_config(), tmp_path)


def test_resuming_with_another_model_is_refused(whole_run, tiny_config):
    config = tiny_config()
    config.model.width = 6
    with pytest.raises(InputError, match=r"model\.width was 4, is 6.*configs/run\.py"):
        train.train(config, whole_run[0])


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
    train.train(config, tmp_path)
    log = [e for e in read_log(tmp_path) if "loss" in e]
    assert [e["skipped"] for e in log] == [0, 1, 2, 3]
    assert log[-1]["loss"] is None


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
    """Stands in for `shard_batch` and calls `action` before a training step's batch."""

    def __init__(self, step, action):
        self.left, self.action, self.shard_batch = step, action, sharding.shard_batch

    def __call__(self, batch, mesh):
        if "mask" not in batch:
            self.left -= 1
            if self.left == 0:
                self.action()
        return self.shard_batch(batch, mesh)
