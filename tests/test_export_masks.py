import subprocess
import sys
from pathlib import Path

import export_masks as script
import numpy as np
import pytest
from fixtures_coco import box, write_coco_folder
from PIL import Image

from configs import default
from trashseg_jax import build
from trashseg_jax.data.label_codec import decode_label
from trashseg_jax.data.taxonomy import palette
from trashseg_jax.errors import InputError

ROOT = Path(__file__).parent.parent


def prepare(dataset, folder, cache, **options):
    config = default.get_config(dataset)
    config.data.update({"dir": str(folder), "cache_dir": str(cache), **options})
    return build.build_data(config)


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """A prepared data set of JPEG and PNG, colour and grey, with pixels that are ignored."""
    folder = tmp_path_factory.mktemp("coco")
    rng = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 2)):
        kinds = [
            f"{split}/b/0.jpg",
            f"{split}/0.jpg",
            f"{split}/1.bmp",
            f"{split}/1.png",
            "é x.JPG",
        ]
        names = kinds[:count] if split == "train" else [f"{split}/7.jpg", f"{split}/8.png"]
        annotations = [
            {"file_name": name, "category": category, "segmentation": [box(*place)]}
            for name in names
            for category, place in (("Battery", (1, 2, 5, 6)), ("UNKNOWN", (9, 3, 4, 4)))
        ]
        images = {name: rng.integers(0, 256, (13, 17, 3), dtype=np.uint8) for name in names}
        write_coco_folder(
            folder,
            images=images,
            annotations=annotations,
            categories=["UNKNOWN", "Battery"],
            json_name=f"{split}.json",
        )
    return prepare("coco", folder, folder / "cache")


def contents(data, split):
    source = data.source(split)
    return sorted((record["image"], record["label"]) for record in source)


def test_what_is_exported_reads_back_pixel_for_pixel(coco, tmp_path):
    out = tmp_path / "out"
    assert script.export(coco, out) == {"train": 5, "val": 2}
    again = prepare("masks", out, tmp_path / "cache", class_map=str(out / "class_map.json"))
    assert again.classes == coco.classes
    for split in ("train", "val"):
        assert contents(again, split) == contents(coco, split)
        labels = [decode_label(label) for _, label in contents(coco, split)]
        assert {value for label in labels for value in np.unique(label)} == {0, 9, 255}
        np.testing.assert_array_equal(again.counts(split)[0], coco.counts(split)[0])


def test_labels_read_back_by_their_colours_too(coco, tmp_path):
    out = tmp_path / "out"
    script.export(coco, out)
    for path in out.rglob("labels/**/*.png"):
        Image.open(path).convert("RGB").save(path)
    again = prepare("masks", out, tmp_path / "cache", class_map=str(out / "class_map.json"))
    assert contents(again, "train") == contents(coco, "train")


def test_files_have_their_names_and_labels_the_palette(coco, tmp_path):
    script.export(coco, tmp_path / "out")
    found = {path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.rglob("*.*")}
    photos = ["b/0.jpg", "0.jpg", "1-1.png", "1-2.png"]
    assert found >= {f"train/images/train/{name}" for name in photos}
    assert "train/images/é x.JPG" in found
    assert found >= {f"train/labels/train/{Path(n).with_suffix('.png')}" for n in photos}
    label = Image.open(tmp_path / "out/train/labels/train/0.png")
    assert label.mode == "P"
    colors = np.array(label.getpalette()).reshape(-1, 3)
    np.testing.assert_array_equal(colors[:11], palette(11))
    assert colors[255].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.jpg", "b.jpg"], ["a.jpg", "b.jpg"]),
        (["a.jpg", "a.bmp", "a-1.jpg"], ["a-2.jpg", "a-3.jpg", "a-1.jpg"]),
        (["A.jpg", "a.jpeg"], ["A-1.jpg", "a-2.jpeg"]),
        (["../../x/a.jpg", "y\\b.jpg", "/c.jpg"], ["x/a.jpg", "y/b.jpg", "c.jpg"]),
        (["v1.2.tif"], ["v1.2.jpg"]),
    ],
)
def test_names_stay_below_the_folder_and_differ_in_more_than_the_ending(names, expected):
    assert script.file_names(names, [".jpg"] * len(names)) == expected


def test_nothing_is_overwritten(coco, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for output in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(InputError, match="name a new"):
            script.check_output(output)
    with pytest.raises(InputError, match="can't be written"):
        script.export(coco, tmp_path)  # filled since it was looked at
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert not list(tmp_path.parent.glob(f"{tmp_path.name}.*"))
    (tmp_path / "empty").mkdir()
    script.check_output(tmp_path / "empty")
    script.export(coco, tmp_path / "empty")
    assert (tmp_path / "empty/class_map.json").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_export_that_fails_leaves_nothing(coco, tmp_path, monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(script, "write_json", fail)
    with pytest.raises((KeyboardInterrupt, InputError)):
        script.export(coco, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_how_to_read_its_output(demo_folder, tmp_path):
    command = [sys.executable, "scripts/export_masks.py", "--config=configs/reference.py:aistage"]
    command += [f"--config.data.dir={demo_folder}", f"--config.data.cache_dir={tmp_path / 'cache'}"]

    def run(*more):
        return subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True)

    result = run(f"--output={tmp_path / 'out'}")
    assert result.returncode == 0, result.stderr
    assert "12 images of train and 5 images of val" in result.stdout
    assert f"--config.data.class_map={tmp_path / 'out/class_map.json'}" in result.stdout
    result = run(f"--output={tmp_path / 'out'}")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "holds files" in result.stderr
    result = run()
    assert (result.returncode, result.stderr.strip()[:26]) == (2, "error: --output is missing")
