"""The whole path, on rendered scenes: train, stop, resume, evaluate."""

import importlib.util
import io
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from trashseg_jax import build, crf, evaluate, sharding, train
from trashseg_jax.errors import InputError


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


def test_stream_is_the_resampled_one(tiny_config, prepared):
    """The batch of a later step, its crops undone by cropping the whole image."""
    config = tiny_config()
    config.data.augment.crop_area = (1.0, 1.0)
    weights = build.build_image_weights(config, prepared)
    index_of = build.build_index(config, weights)
    batch = next(train.train_batches(config, prepared, weights, start_step=5))
    expected = [prepared.source("train")[index_of(position)]["label"] for position in range(20, 24)]
    shown = [np.array(Image.open(io.BytesIO(png)))[1::2, 1::2] for png in expected]
    np.testing.assert_array_equal(batch["label"], shown)


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


def test_sheet_of_samples_has_the_photographs(whole_run):
    sheet = Image.open(whole_run[0] / "samples.png")
    assert sheet.mode == "RGB"
    assert sheet.width > 6 * 160  # two samples of three panels a row
    assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 1000


def test_interrupted_run_ends_with_the_same_state_and_figures(whole_run, tiny_config, tmp_path):
    """Stopped after step 2 of 4: parameters, optimizer, averages and metrics, bit for bit."""
    config = tiny_config()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "shard_batch", StopAfter(2))
        with pytest.raises(Interrupted):
            train.train(config, tmp_path)
    figures = train.train(config, tmp_path)
    workdir, expected = whole_run
    assert figures == expected
    jax.tree.map(
        np.testing.assert_array_equal, final_state(config, tmp_path), final_state(config, workdir)
    )
    entries = [
        [{k: v for k, v in e.items() if k != "images_per_second"} for e in read_log(w)]
        for w in (tmp_path, workdir)
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
    refine, seen = crf.refine, []
    monkeypatch.setattr(crf, "refine", lambda *a, **k: seen.append(1) or refine(*a, **k))
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
    assert {"miou", "iou", "confusion"} < refined.keys() < figures.keys()
    # The same pixels of truth, counted under other predictions.
    raw, after = np.array(figures["confusion"]), np.array(refined["confusion"])
    np.testing.assert_array_equal(after.sum(1), raw.sum(1))
    assert np.any(after != raw)
    assert json.loads((workdir / "metrics.json").read_text())["crf"] == refined
    assert Image.open(workdir / "samples.png").width > 8 * 160  # rows of two times four panels
    assert "<th>CRF<th>change" in (workdir / "report.html").read_text()
    assert read_log(workdir) == log

    config.crf.workers = 2
    assert evaluate.evaluate(config, workdir)["crf"] == refined


def test_evaluate_refuses_a_folder_without_a_run(tiny_config, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        evaluate.evaluate(tiny_config(), tmp_path)


def test_resuming_with_another_model_is_refused(whole_run, tiny_config):
    config = tiny_config()
    config.model.width = 6
    with pytest.raises(InputError, match=r"encoder/bn1/mean is float32\[4\] .* float32\[6\]"):
        train.train(config, whole_run[0])


class Interrupted(Exception):
    pass


class StopAfter:
    """Stands in for `shard_batch` and raises when the training batch after `steps` comes."""

    def __init__(self, steps):
        self.left, self.shard_batch = steps, sharding.shard_batch

    def __call__(self, batch, mesh):
        if "mask" not in batch:
            if self.left == 0:
                raise Interrupted
            self.left -= 1
        return self.shard_batch(batch, mesh)
