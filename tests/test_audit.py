import json
import shutil

import numpy as np
import pytest
from fixtures_coco import box, data_folder, write_coco_folder

from trashseg_jax import build, evaluate, train
from trashseg_jax.data import audit, builder
from trashseg_jax.data.formats import coco
from trashseg_jax.data.taxonomy import CLASSES, ClassMap
from trashseg_jax.errors import InputError
from trashseg_jax.report import table

OBJECT = [box(1, 1, 4, 4)]


def prepare(folder, **options):
    given = data_folder(folder, **options)
    return builder.prepare(given, name="coco", read=coco.read_splits, cache_dir=folder / "cache")


def pixels(seed):
    return np.random.default_rng(seed).integers(0, 256, (8, 9, 3), np.uint8)


def write_split(
    folder, split, seeds, *, category="Paper", segmentation=OBJECT, annotated=True, prefix=""
):
    """Images `PREFIXseed.png`, each with an object, in SPLIT.json."""
    images = {f"{prefix}{seed}.png": pixels(seed) for seed in seeds}
    item = {"category": category, "segmentation": segmentation}
    objects = [{**item, "file_name": name} for name in images] if annotated else []
    write_coco_folder(folder, images=images, annotations=objects, json_name=f"{split}.json")


def check(data, *, allow_overlap=False):
    audit.check_training(data, folder="photos", allow_overlap=allow_overlap)
    return audit.find_warnings(data, split="val")


@pytest.mark.parametrize("prefix", ["", "copies/"])
def test_images_in_both_splits_are_counted_and_named(tmp_path, prefix):
    """The same file, or the same bytes under another name; also when nothing is prepared anew."""
    write_split(tmp_path, "train", [1, 2, 3])
    write_split(tmp_path, "val", [2, 3, 4], prefix=prefix)
    named = "2.png, 3.png" if not prefix else "copies/2.png (train: 2.png), copies/3.png"
    for _ in range(2):
        (line,) = check(prepare(tmp_path))
        assert line.startswith(f"2 of 3 validation images are training images as well: {named}")


def test_many_shared_images_are_one_line(tmp_path):
    write_split(tmp_path, "train", range(20))
    write_split(tmp_path, "val", range(1, 21))
    (line,) = check(prepare(tmp_path))
    assert line.startswith("19 of 20 ")
    assert line.endswith("10.png and 9 more")


@pytest.mark.parametrize(("train_seeds", "val_seeds"), [([1, 2, 3], [2, 3]), ([2, 3], [1, 2, 3])])
def test_a_split_within_the_other_is_refused_unless_allowed(tmp_path, train_seeds, val_seeds):
    write_split(tmp_path, "train", train_seeds)
    write_split(tmp_path, "val", val_seeds)
    data = prepare(tmp_path)
    with pytest.raises(
        InputError, match=r"^photos: all 2 images of .*2\.png, 3\.png.*allow_overlap=True"
    ):
        check(data)
    (line,) = check(data, allow_overlap=True)
    assert line.startswith(f"2 of {len(val_seeds)} ")


def test_one_json_under_two_names_is_noticed(tmp_path):
    write_split(tmp_path, "train", [1, 2])
    (tmp_path / "link.json").symlink_to("train.json")
    with pytest.raises(InputError, match="all 2 images of val are in train as well"):
        check(prepare(tmp_path, val_file="link.json"))


@pytest.mark.parametrize("name", ["train.json", "./train.json"])
def test_a_share_held_out_of_one_json_is_no_overlap(tmp_path, name):
    write_split(tmp_path, "train", range(10))
    assert check(prepare(tmp_path, val_file=name)) == []


def test_copies_within_a_json_of_which_a_share_is_held_out_are_named_and_not_refused(tmp_path):
    images = {f"{i}.png": pixels(0) for i in range(4)}
    objects = [{"file_name": n, "category": "Paper", "segmentation": OBJECT} for n in images]
    write_coco_folder(tmp_path, images=images, annotations=objects)
    (line,) = check(prepare(tmp_path, val_file="train.json", val_fraction=0.25))
    assert line.startswith("1 of 1 validation images are training images as well")


# Objects that cover a whole image, of a category that the class map leaves out.
IGNORING = ClassMap(CLASSES, {name: 255 if name == "Paper" else 4 for name in CLASSES[1:]})
WHOLE = [box(0, 0, 9, 8)]


def test_training_split_without_a_labelled_pixel_is_refused(tmp_path):
    write_split(tmp_path, "train", [1, 2], segmentation=WHOLE)
    write_split(tmp_path, "val", [3], category="Metal")
    with pytest.raises(InputError, match=r"training split has no labelled pixel.*class_map"):
        check(prepare(tmp_path, class_map=IGNORING))


def test_training_split_of_background_alone_is_refused(tmp_path):
    write_split(tmp_path, "train", [1, 2], annotated=False)
    write_split(tmp_path, "val", [3])
    with pytest.raises(InputError, match=r"another class than Background; check the annotations"):
        check(prepare(tmp_path))


def test_validation_split_without_an_object_is_named(tmp_path):
    write_split(tmp_path, "train", [1, 2])
    write_split(tmp_path, "val", [3], annotated=False)
    (line,) = check(prepare(tmp_path))
    assert line.startswith("split 'val' has no pixel of another class than Background")


def test_validation_split_without_a_labelled_pixel_is_refused(tmp_path):
    write_split(tmp_path, "train", [1, 2], category="Metal")
    write_split(tmp_path, "val", [3], segmentation=WHOLE)
    with pytest.raises(InputError, match=r"'val' has no labelled pixel.*nothing to score"):
        check(prepare(tmp_path, class_map=IGNORING))


def test_warnings_are_in_the_output_the_metrics_and_the_page(
    tiny_config, demo_folder, tmp_path, capsys
):
    folder = shutil.copytree(demo_folder, tmp_path / "data")
    first, second = (
        folder / json.loads((folder / f"{split}.json").read_text())["images"][0]["file_name"]
        for split in ("train", "val")
    )
    shutil.copy(first, second)
    config = tiny_config()
    config.data.dir = str(folder)
    config.train.steps, config.optimizer.warmup_steps = 1, 0
    figures = train.train(config, tmp_path / "run")
    (line,) = figures["warnings"]
    assert line.startswith("1 of 5 validation images are training images as well: ")
    assert second.name in line
    assert f"warning: {line}" in capsys.readouterr().out.splitlines()
    assert json.loads((tmp_path / "run/metrics.json").read_text())["warnings"] == [line]
    assert second.name in (tmp_path / "run/report.html").read_text()
    assert f"warning: {line}" in table.format_table(figures).splitlines()
    assert evaluate.evaluate(config, tmp_path / "run")["warnings"] == [line]
    assert f"warning: {line}" in capsys.readouterr().out.splitlines()


def test_refused_data_leave_no_run(tiny_config, demo_folder, tmp_path):
    config = tiny_config()
    config.data.dir = str(shutil.copytree(demo_folder, tmp_path / "data"))
    (tmp_path / "data/link.json").symlink_to("train.json")
    config.data.val_file = "link.json"
    with pytest.raises(InputError, match="all 12 images of val are in train as well"):
        train.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    config.data.allow_overlap = True
    assert build.build_data(config).counts("val")[0].shape == (12, 11)
