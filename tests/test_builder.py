import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fixtures_coco import box, data_folder, write_coco_folder
from PIL import Image

from configs import default
from trashseg_jax import build
from trashseg_jax.data import builder, copies, records
from trashseg_jax.data.formats import coco
from trashseg_jax.data.host_tensorflow import tf
from trashseg_jax.data.label_codec import decode_label
from trashseg_jax.errors import InputError

ROOT = Path(__file__).parent.parent
PIXELS = np.zeros((8, 9, 3), np.uint8)


def prepare(folder, cache, **options):
    given = data_folder(folder, **options)
    return builder.prepare(given, name="coco", read=coco.read_splits, cache_dir=cache)


@pytest.fixture
def folder(demo_folder, tmp_path):
    """A copy of the rendered scenes that a test may spoil."""
    return shutil.copytree(demo_folder, tmp_path / "data")


def test_records_are_the_jsons_images_in_its_order(prepared, demo_folder):
    listed = json.loads((demo_folder / "train.json").read_text())["images"]
    source = prepared.source("train")
    assert [source[i]["id"] for i in range(len(source))] == [image["id"] for image in listed]
    stored = prepared.builder.as_data_source("train")
    assert stored[3]["file_name"].decode() == listed[3]["file_name"]


def test_ids_in_any_order_leave_records_and_counts_in_the_jsons(folder, tmp_path):
    """TFDS sorts examples by their keys: counts by place would be those of other images."""
    content = json.loads((folder / "train.json").read_text())
    for image in content["images"]:
        image["id"] = 100 - image["id"]
    for annotation in content["annotations"]:
        annotation["image_id"] = 100 - annotation["image_id"]
    (folder / "train.json").write_text(json.dumps(content))
    data = prepare(folder, tmp_path / "cache")
    source = data.source("train")
    assert [one["id"] for one in source] == [image["id"] for image in content["images"]]
    assert [name for name, _ in data.images("train")] == [i["file_name"] for i in content["images"]]
    for one, counts in zip(source, data.counts("train")[0], strict=True):
        labels = decode_label(one["label"]).ravel()
        np.testing.assert_array_equal(np.bincount(labels, minlength=11), counts)


def test_jpegs_are_stored_byte_for_byte_and_labels_as_painted(prepared, demo_folder):
    listed, _ = coco.read_coco(demo_folder / "train.json", data_folder(demo_folder), split="train")
    stored = prepared.source("train")[5]
    assert stored["image"] == listed[5].path.read_bytes()
    _, label = records.load_example(listed[5], num_classes=11)
    np.testing.assert_array_equal(decode_label(stored["label"]), label.classes)


def test_counts_are_those_of_the_labels_and_the_json(prepared, demo_folder):
    pixels, annotations = prepared.counts("train")
    source, stored = prepared.source("train"), prepared.builder.as_data_source("train")
    for i in range(len(source)):
        expected = np.bincount(decode_label(source[i]["label"]).ravel(), minlength=11)
        np.testing.assert_array_equal(pixels[i], expected)
        np.testing.assert_array_equal(stored[i]["pixel_counts"], expected)
    listed = json.loads((demo_folder / "train.json").read_text())["annotations"]
    total = np.bincount([a["category_id"] for a in listed], minlength=11)
    np.testing.assert_array_equal(annotations.sum(0), total)


def test_preparing_again_reuses_what_is_there(folder, tmp_path, monkeypatch):
    first = prepare(folder, tmp_path / "cache")
    monkeypatch.setattr(builder, "load_features", None)  # would fail if it were called
    assert prepare(folder, tmp_path / "cache").builder.data_path == first.builder.data_path


def test_a_new_copy_says_what_all_copies_take_and_a_use_is_noted(folder, tmp_path, capsys):
    cache = tmp_path / "cache"
    prepare(folder, cache)
    prepare(folder, cache, paint_order="reference")
    old, new = (copy.path for copy in copies.list_copies(cache))
    *_, line = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{new}: prepared, ")
    assert "the 2 copies in this cache take" in line
    os.utime(old / copies.WHOLE, (0, 0))
    held = prepare(folder, cache)
    (used,) = (copy for copy in copies.list_copies(cache) if copy.path == old)
    assert used.days < 1
    assert not copies.remove(used)  # as long as it is held
    del held
    assert copies.remove(used)


@pytest.mark.parametrize("change", ["json", "image", "option"])
def test_any_change_prepares_anew(folder, tmp_path, change):
    first = prepare(folder, tmp_path / "cache")
    options = {}
    if change == "json":
        content = json.loads((folder / "train.json").read_text())
        content["annotations"].pop()
        (folder / "train.json").write_text(json.dumps(content))
    elif change == "image":
        path = next((folder / "batch_01").iterdir())
        path.write_bytes(path.read_bytes() + b"\n")
    else:
        options = {"paint_order": "reference"}
    second = prepare(folder, tmp_path / "cache", **options)
    assert second.builder.data_path != first.builder.data_path


def test_interrupted_preparation_leaves_nothing_that_looks_finished(folder, tmp_path, monkeypatch):
    load, calls = builder.load_features, []

    def stop_at_the_third(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return load(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(builder, "load_features", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            prepare(folder, tmp_path / "cache")
    assert not copies.list_copies(tmp_path / "cache")
    assert len(prepare(folder, tmp_path / "cache").source("train")) == 12


def test_runs_that_prepare_at_once_share_one_preparation(folder, tmp_path):
    """Two processes, started together: one prepares, the other waits and reads the same."""
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, 'tests');"
        "from test_builder import prepare;"
        f"data = prepare(Path({str(folder)!r}), Path({str(tmp_path / 'cache')!r}));"
        "print(data.builder.data_path, len(data.source('train')), data.classes[10])"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
        for _ in range(2)
    ]
    outputs = [run.communicate(timeout=200)[0].decode().splitlines() for run in runs]
    assert outputs[0][-1] == outputs[1][-1]
    assert outputs[0][-1].split()[1:] == ["12", "Clothing"]
    assert [": prepared, " in line for lines in outputs for line in lines].count(True) == 1


def test_bad_image_stops_the_preparation_or_is_skipped_and_reported(folder, tmp_path):
    path = folder / json.loads((folder / "train.json").read_text())["images"][2]["file_name"]
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=path.name) as error:
        prepare(folder, tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert not copies.list_copies(tmp_path / "cache")
    data = prepare(folder, tmp_path / "cache", skip_bad=True)
    assert len(data.source("train")) == 11
    assert [path.name in line for line in data.problems] == [True]
    assert len(data.counts("train")[0]) == 11
    again = prepare(folder, tmp_path / "cache", skip_bad=True)
    assert again.problems == data.problems


def test_worker_processes_prepare_the_same_and_report_bad_images(folder, tmp_path, monkeypatch):
    serial = prepare(folder, tmp_path / "cache")
    monkeypatch.setattr(builder, "RECORDS_PER_WORKER", 2)
    parallel = prepare(folder, tmp_path / "other")
    for split in ("train", "val"):
        one, two = serial.source(split), parallel.source(split)
        assert len(one) == len(two)
        for i in range(len(one)):
            for key in one[i]:
                np.testing.assert_array_equal(one[i][key], two[i][key])
    path = folder / "batch_01" / "0004.jpg"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=path.name) as error:
        prepare(folder, tmp_path / "third")
    assert "\n" not in str(error.value)


def test_one_json_is_split_by_file_name_alone(tmp_path):
    def split(names):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        images = dict.fromkeys(names, PIXELS)
        write_coco_folder(folder, images=images, json_name="annotations.json")
        both = {"train_file": "annotations.json", "val_file": "annotations.json"}
        splits = coco.read_splits(data_folder(folder, **both, val_fraction=0.25)).records
        return {k: {r.file_name for r in v} for k, v in splits.items()}

    names = [f"{i}.png" for i in range(40)]
    first = split(names)
    assert first["train"] | first["val"] == set(names)
    assert (len(first["train"]), len(first["val"])) == (30, 10)
    assert split(names[::-1]) == first
    more = split([*names, "new.png"])
    assert len(first["val"] ^ more["val"]) <= 2  # one may come in for another


def test_a_share_held_out_of_several_jsons_is_that_share_where_it_is_only_scored(tmp_path):
    for batch in ("b1", "b2"):
        (tmp_path / batch).mkdir()
        image = np.full((8, 9, 3), ord(batch[1]), np.uint8)
        notes = [{"file_name": "0.png", "category": "Paper", "segmentation": [box(1, 1, 3, 4)]}]
        write_coco_folder(tmp_path / batch, images={"0.png": image}, annotations=notes)
    config = default.get_config("coco")
    both = {"train_file": "b*/train.json", "val_file": "b*/train.json", "val_fraction": 0.5}
    config.data.update({"dir": str(tmp_path), "cache_dir": str(tmp_path / "cache"), **both})
    data = build.build_data(config, for_training=False)
    assert {split: len(data.source(split)) for split in data.splits} == {"train": 1, "val": 1}


def test_annotations_outside_the_image_are_counted(tmp_path):
    outside = {"file_name": "a.png", "category": "Paper", "segmentation": [box(-3, 1, 6, 4)]}
    write_coco_folder(tmp_path / "data", images={"a.png": PIXELS}, annotations=[outside])
    shutil.copy(tmp_path / "data" / "train.json", tmp_path / "data" / "val.json")
    assert prepare(tmp_path / "data", tmp_path / "cache").notes == {"clipped": 2}  # in each split


def undecodable_jpeg():
    """Returns a JPEG that Pillow reads and TensorFlow refuses, for a marker within its scan."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3)).astype(np.uint8)
    Image.fromarray(noise).save(file, "JPEG", quality=80)
    data, scan = file.getvalue(), file.getvalue().index(b"\xff\xda")
    for at in range(len(data) // 2, len(data) - 2):
        assert at > scan
        spoiled = data[:at] + b"\xff\xe0" + data[at:]
        try:
            Image.open(io.BytesIO(spoiled)).load()
        except OSError:
            continue
        try:
            tf.io.decode_image(spoiled, channels=3)
        except tf.errors.InvalidArgumentError:
            return spoiled
    raise AssertionError("there is none")


def test_a_jpeg_that_tensorflow_refuses_is_stored_as_one_that_it_decodes(tmp_path):
    data = undecodable_jpeg()
    one = {"file_name": "a.jpg", "category": "Paper", "segmentation": [box(1, 1, 6, 4)]}
    write_coco_folder(tmp_path / "data", images={"a.jpg": data}, annotations=[one])
    shutil.copy(tmp_path / "data" / "train.json", tmp_path / "data" / "val.json")
    prepared = prepare(tmp_path / "data", tmp_path / "cache")
    assert prepared.notes == {"encoded_again": 2}  # in each split
    decoded = tf.io.decode_image(prepared.source("train")[0]["image"], channels=3).numpy()
    seen = np.asarray(Image.open(io.BytesIO(data)))
    assert np.abs(decoded.astype(int) - seen).mean() < 6  # of 255: noise, at quality 95


def test_a_split_that_skipping_leaves_empty_is_refused_with_the_first_fault(folder, tmp_path):
    for image in json.loads((folder / "val.json").read_text())["images"]:
        (folder / image["file_name"]).write_bytes(b"")
    with pytest.raises(InputError, match=r"'val' has no usable image; .*\.jpg: is no image"):
        prepare(folder, tmp_path / "cache", skip_bad=True)
    assert not list((tmp_path / "cache" / "prepared").glob("*/"))


def test_unknown_split_is_refused_with_the_known(prepared):
    with pytest.raises(InputError, match="train, val"):
        prepared.source("test")
