"""Prediction, by its files: a tiny run's, on photographs that the tests make."""

import csv
import json
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from fixtures_pieces import flood_pieces
from PIL import Image
from pycocotools import mask as mask_utils

import trashseg_jax
from trashseg_jax import (
    build,
    inference,
    model_folder,
    model_sources,
    predict,
    settings,
    steps,
    train,
)
from trashseg_jax.ahead import map_ahead
from trashseg_jax.configs import default
from trashseg_jax.data import taxonomy
from trashseg_jax.devices import compiling
from trashseg_jax.errors import InputError, Interrupted
from trashseg_jax.inference import Segmented
from trashseg_jax.prediction import (
    dataset,
    inputs,
    job,
    measures,
    models,
    overlay,
    shards,
    submission,
)
from trashseg_jax.prediction.outputs import Outputs, read_mask

ROOT = Path(__file__).parent.parent
SIZES = {"a.png": (40, 56), "b/a.png": (33, 21), "b/c.png": (64, 64), "d.png": (17, 90)}


@pytest.fixture(scope="module")
def model(tiny_config, tiny_model):
    """A network with random weights, which finds many classes everywhere."""
    config = tiny_config()
    tx, _ = build.build_optimizer(config, steps=10)
    state = steps.init_state(jax.random.key(1), model=tiny_model, tx=tx, ema=False)
    names = taxonomy.CLASSES
    variables = jax.tree.map(np.asarray, state.eval_variables())
    return model_folder.Model(
        network=tiny_model,
        variables=variables,
        architecture={},
        dtype="float32",
        classes=names,
        categories=None,
        palette=taxonomy.palette(11),
        normalize="imagenet",
        image_size=32,
        figures=None,
        training=None,
        calibration=None,
    )


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for name, (height, width) in SIZES.items():
        coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(
            folder / name
        )
    return folder


@pytest.fixture
def command(model, photos, tmp_path, monkeypatch):
    """A function that predicts as the command line does, and returns what `main` returns."""
    monkeypatch.setattr(models, "load", lambda folder, **_: model)

    def call(*more, source=photos):
        arguments = [f"--input={source}"] if source else []
        arguments += [f"--output={tmp_path / 'out'}", "--model=x", "--nocompilation_cache", *more]
        flags.FLAGS.unparse_flags()
        for name in ("input", "output", "model", "shard", "merge", "dataset", "submission"):
            flags.FLAGS[name].unparse()
        for name in ("probs", "min_confidence", "val_fraction", "tta", "scale", "tile_scale"):
            flags.FLAGS[name].unparse()
        flags.FLAGS(["predict", *arguments])
        return predict.main(["predict"])

    return call


def expected(model, path):
    """The classes of a photograph, by the engine itself, in the command's batches."""
    segmenter = models.make_segmenter(
        model, scale="fit", tile_scale=1.0, tta=(), batch_size=4, keep_probs=False
    )
    (found,) = segmenter.segment(iter([np.array(Image.open(path).convert("RGB"))]))
    return found


def mask_path(folder, name):
    return folder / "masks" / Path(name).with_suffix(".png")


def read_results(out):
    return json.loads((out / "predictions.json").read_text())


def programs(caplog):
    """The names of what was compiled, in order."""
    logged = re.findall(r"Finished XLA compilation of jit\((.*?)\) in", caplog.text)
    caplog.clear()
    return logged


def test_one_photograph_costs_the_network_and_three_small_programs(command, model, photos, caplog):
    """Reading a model costs none, a further photograph of any size near it none either."""
    compiling.compiler_options()  # which asks XLA, once a process
    jax.clear_caches()
    with jax.log_compiles():
        model_folder.variable_shapes(model.network)
        assert programs(caplog) == []
        assert command(source=photos / "a.png") == 0
        expected = ["apply", "_take", "resize_block", "decide_logits"]
        assert programs(caplog) == expected
        segmenter = models.make_segmenter(
            model, scale="fit", tile_scale=1.0, tta=(), batch_size=4, keep_probs=False
        )
        for size in [(40, 56), (41, 64), (64, 35)]:
            list(segmenter.segment(iter([np.zeros((*size, 3), np.uint8)])))
        assert programs(caplog) == ["apply"]  # of the new segmenter


def test_a_mask_has_the_engines_classes_in_the_palette(command, model, photos, tmp_path):
    assert command("--probs") == 0
    for name in SIZES:
        found = expected(model, photos / name)
        image = Image.open(mask_path(tmp_path / "out", name))
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image), found.classes)
        colors = taxonomy.palette(11)[found.classes]
        np.testing.assert_array_equal(np.array(image.convert("RGB")), colors)
        probs = np.load(tmp_path / "out/probs" / Path(name).with_suffix(".npy"))
        assert (probs.dtype, probs.shape) == (np.float16, (*SIZES[name], 11))
        np.testing.assert_allclose(probs.max(-1), found.confidence, rtol=0, atol=1e-3)  # float16
    assert len(np.unique(found.classes)) > 1


def test_a_turned_photograph_has_the_mask_of_the_upright_one(command, tmp_path):
    folder = tmp_path / "turned"
    folder.mkdir()
    rng = np.random.default_rng(3)
    pixels = np.kron(rng.integers(0, 256, (5, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise to be upright
    Image.fromarray(np.rot90(pixels)).save(folder / "turned.png", exif=exif)
    assert command(source=folder) == 0
    turned, upright = (
        read_mask(tmp_path / f"out/masks/{name}.png") for name in ("turned", "upright")
    )
    assert turned.shape == (40, 64)
    np.testing.assert_array_equal(turned, upright)


def test_a_second_call_does_only_what_is_missing_or_changed(command, photos, tmp_path, capsys):
    out = tmp_path / "out"
    command()
    first = {path: path.stat().st_mtime_ns for path in (out / "masks").rglob("*.png")}
    assert len(first) == len(SIZES)
    (out / "overlays/d.jpg").unlink()
    Image.open(photos / "a.png").rotate(90).save(photos / "a.png")
    capsys.readouterr()
    assert command() == 0
    assert "2 of 4 are there already" in capsys.readouterr().out
    changed = {path for path in first if path.stat().st_mtime_ns != first[path]}
    assert changed == {out / "masks/a.png", out / "masks/d.png"}
    assert (out / "overlays/d.jpg").exists()


def test_another_option_or_model_redoes_all_and_says_so(command, model, tmp_path, capsys):
    command()
    command("--min_confidence=0.3")
    text = capsys.readouterr().out
    assert "min_confidence was 0.5, is 0.3" in text
    assert "4 photographs have files of another model or option" in text
    model.variables["params"]["head"] = jax.tree.map(
        lambda x: x + 1, before := model.variables["params"]["head"]
    )
    command("--min_confidence=0.3")
    model.variables["params"]["head"] = before
    assert re.search("redone: model was .{16}, is", capsys.readouterr().out)


def test_a_mask_at_another_scale_has_the_engines_classes(command, model, photos, tmp_path, capsys):
    command("--scale=tile")
    command("--scale=tile", "--tile_scale=0.5")
    assert "redone: tile_scale was 1.0, is 0.5" in capsys.readouterr().out
    segmenter = models.make_segmenter(
        model, scale="tile", tile_scale=0.5, tta=(), batch_size=4, keep_probs=False
    )
    image = np.array(Image.open(photos / "a.png").convert("RGB"))
    (found,) = segmenter.segment(iter([image]))
    np.testing.assert_array_equal(read_mask(tmp_path / "out/masks/a.png"), found.classes)


def test_an_older_versions_outputs_are_not_merged(command, tmp_path):
    command()
    path = tmp_path / "out/manifest.json"
    content = json.loads(path.read_text())
    del content["options"]["tile_scale"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="is of another version; predict again"):
        command("--merge", source="")


def test_a_bad_photograph_is_named_and_the_others_are_done(command, photos, tmp_path, capsys):
    (photos / "bad.jpg").write_bytes(b"no jpeg")
    assert command() == 1
    text = capsys.readouterr().out
    assert f"1 photographs were left out:\n  {photos / 'bad.jpg'}: is no image" in text
    out = tmp_path / "out"
    assert len(list((out / "masks").rglob("*.png"))) == len(SIZES)
    assert len((out / "summary.csv").read_text().splitlines()) == 1 + len(SIZES)
    assert "1 could not be read" in (out / "index.html").read_text()
    Image.new("RGB", (8, 8)).save(photos / "bad.jpg")
    assert command() == 0


def test_coco_results_decode_to_the_masks(command, tmp_path):
    command()
    out = tmp_path / "out"
    painted = {name: np.zeros(size, np.uint8) for name, size in SIZES.items()}
    for one in read_results(out):
        mask = mask_utils.decode(one["segmentation"]).astype(bool)
        assert not painted[one["file_name"]][mask].any()
        painted[one["file_name"]][mask] = one["category_id"]
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert one["bbox"] == box
        assert one["area"] == mask.sum()
    for name in SIZES:
        np.testing.assert_array_equal(painted[name], read_mask(mask_path(out, name)))
    ids = {one["file_name"]: one["image_id"] for one in read_results(out)}
    assert ids == {name: place for place, name in enumerate(sorted(SIZES), start=1)}


def test_the_summary_counts_each_class(command, model, photos, tmp_path):
    command()
    rows = list(csv.DictReader((tmp_path / "out/summary.csv").open()))
    assert [row["photograph"] for row in rows] == sorted(SIZES)
    for row in rows:
        found = expected(model, photos / row["photograph"])
        assert (int(row["height"]), int(row["width"])) == found.classes.shape
        assert float(row["trash share"]) == pytest.approx((found.classes > 0).mean(), abs=1e-6)
        for index, name in enumerate(taxonomy.CLASSES):
            mask = found.classes == index
            assert int(row[f"{name} pixels"]) == mask.sum()
            assert float(row[f"{name} share"]) == pytest.approx(mask.mean(), abs=1e-6)
            assert int(row[f"{name} pieces"]) == flood_pieces(mask)
            if mask.any():
                mean = found.confidence[mask].astype(float).mean()
                assert float(row[f"{name} confidence"]) == pytest.approx(mean, abs=1e-6)


def contents(folder):
    """What the files of a folder hold, but for the manifests and the times of the photographs."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "manifest" not in path.name
    }


def test_shards_and_their_merge_are_the_whole(command, tmp_path):
    out = tmp_path / "out"
    command()
    whole = contents(out)
    out.rename(tmp_path / "whole")
    assert command("--shard=1/2") == 0
    assert not (out / "summary.csv").exists()
    with pytest.raises(InputError, match="2 of 4 photographs are not predicted yet, b/a"):
        command("--merge", source="")
    command("--shard=2/2")
    assert command("--merge", source="") == 0
    assert contents(out) == whole


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "4"}, shards.Shard(2, 4)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "5",
                "SLURM_ARRAY_TASK_MIN": "3",
                "SLURM_ARRAY_TASK_COUNT": "8",
            },
            shards.Shard(2, 8),
        ),
    ],
)
def test_slurms_variables_name_the_shard(environment, expected):
    assert shards.parse_shard("slurm", environment) == expected


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "slurm", "a/b"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="--shard="):
        shards.parse_shard(text, {})


def test_a_data_set_of_predictions_trains(command, tiny_config, tmp_path):
    target = tmp_path / "pseudo"
    command(f"--dataset={target}", "--min_confidence=0.12", "--val_fraction=0.25")
    config = tiny_config()
    config.data.update(default.get_config("coco").data)
    config.data.update({"dir": str(target), "cache_dir": str(tmp_path / "cache"), "image_size": 32})
    config.train.update({"steps": 2, "batch_size": 4})
    config.optimizer.warmup_steps = 0
    figures = train.train(config, tmp_path / "run")
    assert (figures["step"], figures["num_images"]) == (2, 1)


def test_a_data_set_has_the_classes_and_ignores_what_is_unsure(command, model, photos, tmp_path):
    target = tmp_path / "pseudo"
    command(f"--dataset={target}", "--min_confidence=0.15", "--val_fraction=0")
    content = json.loads((target / "train.json").read_text())
    class_map = taxonomy.load_class_map(str(target / "class_map.json"))
    labels = {one["id"]: class_map.label_of(one["name"]) for one in content["categories"]}
    seen = set()
    for image in content["images"]:
        painted = np.zeros((image["height"], image["width"]), np.uint8)
        for one in content["annotations"]:
            if one["image_id"] == image["id"]:
                mask = mask_utils.decode(one["segmentation"]).astype(bool)
                painted[mask] = labels[one["category_id"]]
        found = expected(model, photos / image["file_name"])
        unsure = found.confidence.astype(np.float32) < 0.15
        np.testing.assert_array_equal(painted, np.where(unsure, 255, found.classes))
        seen |= set(np.unique(painted).tolist())
        assert (target / "images" / image["file_name"]).read_bytes() == (
            photos / image["file_name"]
        ).read_bytes()
    assert 255 in seen
    assert len(seen) > 2
    (target / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        command(f"--dataset={target}", "--min_confidence=0.15")


def test_a_submission_has_the_samples_order_and_every_second_pixel(command, model, tmp_path):
    folder = tmp_path / "batch_01"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("1.png", "2.png"):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((512, 512)).save(folder / name)
    sample = tmp_path / "sample.csv"
    sample.write_text("image_id,PredictionString\nbatch_01/2.png,\nbatch_01/1.png,\n")
    with pytest.raises(InputError, match=r"batch_01/2\.png is not among"):
        command(f"--submission={sample}", source=folder)
    # By glob and by a folder above: as the competition has its names.
    (tmp_path / "all").mkdir()
    folder.rename(tmp_path / "all/batch_01")
    command(f"--submission={sample}", source=tmp_path / "all")
    header, *lines = (tmp_path / "out/submission.csv").read_text().splitlines()
    assert header == "image_id,PredictionString"
    assert [line.partition(",")[0] for line in lines] == ["batch_01/2.png", "batch_01/1.png"]
    for line in lines:
        name, _, text = line.partition(",")
        classes = expected(model, tmp_path / "all" / name).classes
        values = np.array(text.split(), int).reshape(256, 256)
        np.testing.assert_array_equal(values, classes[::2, ::2])


def test_nearest_pixels_of_another_size_are_opencvs():
    classes = np.arange(100 * 300, dtype=np.uint32).reshape(100, 300).astype(np.uint8)
    small = submission.shrink(classes)
    for y, x in ((0, 0), (7, 9), (255, 255)):
        assert small[y, x] == classes[int(y * 100 / 256), int(x * 300 / 256)]


def test_inputs_are_listed_once_without_outputs_and_hidden_files(photos, tmp_path):
    Image.new("RGB", (4, 4)).save(photos / "._a.png")
    (photos / "out").mkdir()
    Image.new("RGB", (4, 4)).save(photos / "out/x.png")
    (photos / "notes.txt").write_text("")
    given = [str(photos), str(photos / "a.png"), str(photos / "b" / "*.png")]
    listed = inputs.list_photos(given, output=photos / "out")
    assert [photo.listed for photo in listed] == sorted(SIZES)
    assert [photo.image_id for photo in listed] == [1, 2, 3, 4]
    with pytest.raises(InputError, match="none: has no photographs"):
        inputs.list_photos([str(tmp_path / "none")], output=tmp_path)


def test_a_coco_json_lists_its_images_with_their_ids(command, photos, tmp_path):
    images = [{"id": 7, "file_name": "b/a.png"}, {"id": 5, "file_name": "gone.png"}]
    (photos / "test.json").write_text(json.dumps({"images": images}))
    assert command(source=photos / "test.json") == 1
    assert {one["image_id"] for one in read_results(tmp_path / "out")} == {7}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.jpg", "a.png"], ["a.jpg", "a.png"]),
        (["a.jpg", "A.png", "a.jpg"], ["a.jpg", "A.png", "a.jpg-2"]),
        (["../../x/a.jpg", "/c.jpg"], ["x/a", "c"]),
        (["v1.2.jpg"], ["v1.2"]),
    ],
)
def test_output_names_differ_and_stay_below_the_folder(names, expected):
    assert inputs.output_names(names) == expected


def test_the_page_shows_the_most_trash_first_and_needs_no_network(command, model, photos, tmp_path):
    (photos / "a.png").rename(photos / "a #1 & <b>.png")
    command()
    text = (tmp_path / "out/index.html").read_text()
    shares = [float(share) for share in re.findall(r">([\d.]+) % trash", text)]
    assert len(shares) == len(SIZES)
    assert shares == sorted(shares, reverse=True)
    assert "a #1 &amp; &lt;b&gt;.png" in text
    assert 'src="overlays/a%20%231%20%26%20%3Cb%3E.jpg"' in text
    assert not re.search("https?:", text)


@pytest.mark.parametrize("size", [(8, 8), (3, 1000), (3000, 40), (512, 512)])
def test_a_legend_lies_below_the_picture_and_has_the_classes_colours(size):
    classes = np.zeros(size, np.uint8)
    classes[: size[0] // 2 + 1] = 9
    picture = overlay.draw_overlay(
        np.full((*size, 3), 200, np.uint8),
        classes,
        names=taxonomy.CLASSES,
        palette=taxonomy.palette(11),
    )
    assert 224 <= picture.width <= 1650
    text = max(14, np.clip(max(size), 480, 1600) // 50)
    legend = np.array(picture)[-3 * text :]  # a line of text and its margins
    battery = (legend == taxonomy.palette(11)[9]).all(-1)
    assert battery.sum() > 100
    assert not (legend == taxonomy.palette(11)[4]).all(-1).any()


def test_an_interrupted_job_leaves_whole_files_and_goes_on(command, model, tmp_path, monkeypatch):
    whole = Outputs.write

    def interrupted(self, photo, *rest):
        if photo.listed == "b/c.png":
            raise Interrupted(2, "asked")
        whole(self, photo, *rest)

    monkeypatch.setattr(Outputs, "write", interrupted)
    with pytest.raises(Interrupted):
        command("--threads=1")
    out = tmp_path / "out"
    assert not list(out.rglob("*.tmp"))
    assert not (out / "summary.csv").exists()
    monkeypatch.setattr(Outputs, "write", whole)
    assert command("--threads=1") == 0
    assert len(read_results(out)) > 0
    assert len(list((out / "records").rglob("*.json"))) == len(SIZES)


def test_few_photographs_wait_in_memory(model, tmp_path, monkeypatch):
    """Reading must not run ahead of the device, however slow that is."""
    read, given = [], 0
    photos = [inputs.Photo(tmp_path / f"{i}.png", f"{i}.png", str(i), i, "") for i in range(20)]

    def fake_read(photo, see):
        read.append(photo)
        return job.Read(photo, [], np.zeros((2, 2, 3), np.uint8), ""), None

    class Slow(inference.Segmenter):
        def __init__(self):
            pass

        def segment_seen(self, photos):
            nonlocal given
            for _ in photos:
                given += 1
                assert len(read) <= given + 3
                yield Segmented(np.zeros((2, 2), np.uint8), np.ones((2, 2), np.float16), None)

    class Nowhere(Outputs):
        def __init__(self):
            pass

        def write(self, *_):
            pass

    monkeypatch.setattr(job, "_read", fake_read)
    job.predict_photos(photos, Slow(), Nowhere(), threads=2)
    assert given == 20


@pytest.mark.parametrize(("threads", "most"), [(2, 100), (4, 7), (4, 1)])
def test_photographs_at_work_together_have_few_pixels(threads, most):
    """No more than `most`; a photograph that has more by itself is worked on alone."""
    pixels, busy, lock = [3, 1, 5, 2, 2, 2, 9, 1, 3, 3, 4, 1, 1], [], threading.Lock()

    def work(place):
        with lock:
            busy.append(pixels[place])
            assert sum(busy) <= most or len(busy) == 1
        time.sleep(0.002)
        with lock:
            busy.remove(pixels[place])
        return place

    options = {"threads": threads, "weigh": lambda place: pixels[place], "at_most": most}
    assert list(map_ahead(work, range(len(pixels)), **options)) == list(range(len(pixels)))


def test_an_overlay_of_the_shrunk_photograph_is_that_of_the_photograph():
    rng = np.random.default_rng(0)
    options = {"names": taxonomy.CLASSES, "palette": taxonomy.palette(11)}
    for size in [(30, 41), (700, 500), (2, 1700), (3301, 60)]:
        image, classes = rng.integers(0, 256, (*size, 3)), rng.integers(0, 11, size)
        image, classes = image.astype(np.uint8), classes.astype(np.uint8)
        whole = overlay.draw_overlay(image, classes, **options)
        shrunk = overlay.draw_overlay(overlay.shrink_photo(image), classes, **options)
        np.testing.assert_array_equal(np.asarray(shrunk), np.asarray(whole))


def test_classes_are_counted_as_bincount_counts_them(monkeypatch):
    monkeypatch.setattr(measures, "STRIP", 3)
    classes = np.random.default_rng(0).integers(0, 256, (10, 70)).astype(np.uint8)
    expected = np.bincount(classes.ravel(), minlength=256)
    np.testing.assert_array_equal(measures.count_classes(classes), expected)


def test_an_rle_reads_back():
    mask = np.random.default_rng(0).random((13, 7)) < 0.5
    np.testing.assert_array_equal(measures.from_rle(measures.to_rle(mask)), mask)


@pytest.fixture(scope="module")
def run_folder(tiny_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    config = tiny_config()
    config.train.steps = 2
    config.optimizer.warmup_steps = 1
    train.train(config, folder)
    return folder


def test_a_predictor_of_a_run_takes_files_pictures_and_arrays(run_folder, photos):
    predictor = trashseg_jax.Predictor(run_folder)
    path = photos / "a.png"
    found = predictor(path)
    pixels = np.array(Image.open(path))
    for other in (predictor(str(path)), predictor(Image.open(path)), predictor(pixels)):
        np.testing.assert_array_equal(other.classes, found.classes)
    assert found.names == taxonomy.CLASSES
    np.testing.assert_array_equal(found.image, pixels)
    np.testing.assert_array_equal(found.probs.max(-1), found.confidence)
    assert sum(found.shares().values()) == pytest.approx(1)
    assert found._repr_png_()[:4] == b"\x89PNG"
    with ThreadPoolExecutor(4) as pool:
        names = sorted(SIZES) * 3
        together = list(pool.map(predictor, [photos / name for name in names]))
    for name, one in zip(names, together, strict=True):
        assert one.classes.shape == SIZES[name]
        np.testing.assert_array_equal(one.classes, predictor(photos / name).classes)
    with pytest.raises(InputError, match=r"image is float64\[4, 4\]"):
        predictor(np.zeros((4, 4)))


def test_the_command_predicts_without_tensorflow(run_folder, photos, tmp_path):
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "import conftest\n"  # the tiny encoder
        "from trashseg_jax import main, predict\n"
        "main.run(predict.main, main.parse_flags)"
    )
    given = [f"--model={run_folder}", f"--input={photos}", f"--output={tmp_path / 'out'}"]
    result = subprocess.run(
        [sys.executable, "-c", code, *given],
        cwd=ROOT / "tests",
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "4 of 4 photographs: " in result.stdout
    assert len(list((tmp_path / "out/masks").rglob("*.png"))) == 4


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--scale=big"], "scale='?big"),
        (["--tta=wobble"], "wobble"),
        (["--tile_scale=0.5"], "tile_scale=0.5: only scale='tile' reads it, and this is 'fit'"),
        (["--scale=tile", "--tile_scale=0"], "tile_scale=0.0: must be a number from 0.05 to 10"),
        (["--shard=1/2", "--dataset=x"], "--submission and --dataset need all photographs"),
        (["--dataset={out}/a", "--val_fraction=0.9"], "val.json can't have a share of 4"),
        (["--dataset={photos}"], "holds other files"),
        (["--submission={out}/none.csv"], "none.csv: can't be read"),
        (["--merge"], "holds no predictions"),
        (["--input={out}/x.json"], "x.json: can't be read"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(command, photos, tmp_path, arguments, line):
    given = [argument.format(out=tmp_path / "o", photos=photos) for argument in arguments]
    before = sorted(photos.rglob("*"))
    with pytest.raises(InputError, match=line):
        command(*given)
    assert not (tmp_path / "out").exists()
    assert sorted(photos.rglob("*")) == before


def test_a_class_may_be_called_as_unsure_pixels_are():
    assert dataset.unsure_name(["Background", "Unknown"]) not in ("Unknown", "UNKNOWN")
    assert dataset.unsure_name(["Background", "Paper"]) == "UNKNOWN"


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no config\.json"):
        models.load(tmp_path, checkpoint="latest", calibration=True)


def test_importing_the_package_imports_no_jax():
    code = "import sys, trashseg_jax; assert 'jax' not in sys.modules; trashseg_jax.Predictor"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_models_folder_predicts_as_its_run(run_folder, photos, tmp_path):
    model = models.load(run_folder, checkpoint="latest", calibration=True)
    config = settings.read_config(run_folder, defaults=default.get_config)
    folder = tmp_path / "model"
    folder.mkdir()
    model_folder.write(folder, model_sources.model_of_run(config, run_folder))
    again = models.load(folder, checkpoint="latest", calibration=True)
    assert again.classes == model.classes
    assert again.normalize == model.normalize
    with pytest.raises(InputError, match="model's folder, which has one set of weights"):
        models.load_all([folder], checkpoint="best", calibration=True)
    np.testing.assert_array_equal(
        expected(again, photos / "a.png").classes, expected(model, photos / "a.png").classes
    )
