"""The law: the confusion of the PNGs that predict writes is that which evaluate reports."""

import dataclasses
import json

import fixtures_commands
import numpy as np
import pytest
from fixtures_models import make_model
from PIL import Image

from trashseg_jax import model_folder

CLASSES = ("Background", "Can", "Jar", "Lid")
# Height and width upright; smaller and larger than the model's 32, long ones, one turned by EXIF.
PHOTOS = {
    "a.png": (40, 56),
    "b.jpg": (90, 33),
    "turned.jpg": (64, 48),
    "c.png": (21, 20),
    "d.jpg": (32, 32),
    "e.png": (9, 150),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Photographs and random label images, one of five pixels without a label, and their labels."""
    folder = tmp_path_factory.mktemp("data")
    rng, labels = np.random.default_rng(0), {}
    for split in ("train", "val"):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for name, (height, width) in PHOTOS.items():
            coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
            photo = coarse.resize((width, height), Image.Resampling.BICUBIC)
            save_photo(photo, folder / "images" / split / name, turned=name.startswith("turned"))
            label = rng.choice([0, 1, 2, 3, 255], (height, width)).astype(np.uint8)
            stem = name.partition(".")[0]
            Image.fromarray(label).save(folder / "labels" / split / f"{stem}.png")
            labels[split, stem] = label
    values = {str(place): name for place, name in enumerate(CLASSES)}
    content = {"classes": CLASSES, "values": values}
    (folder / "class_map.json").write_text(json.dumps(content))
    return folder, {stem: label for (split, stem), label in labels.items() if split == "val"}


def save_photo(photo, path, *, turned):
    exif = Image.Exif()
    if turned:  # stored lying on its side: to be turned by 90 degrees clockwise to be upright
        exif[0x0112] = 6
        photo = photo.transpose(Image.Transpose.ROTATE_90)
    photo.save(path, exif=exif, **({"quality": 95} if path.suffix == ".jpg" else {}))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models with random weights that see photographs at different sizes."""
    folder = tmp_path_factory.mktemp("models")
    for name, seed, image_size in (("a", 0, 32), ("b", 1, 64)):
        model = dataclasses.replace(make_model(classes=CLASSES, seed=seed), image_size=image_size)
        (folder / name).mkdir()
        model_folder.write(folder / name, model)
    return folder / "a", folder / "b"


def count_by_numpy(masks, labels):
    confusion = np.zeros((len(CLASSES), len(CLASSES)), int)
    for stem, label in labels.items():
        predicted = np.array(Image.open(masks / f"{stem}.png"))
        assert predicted.shape == label.shape
        valid = label != 255
        np.add.at(confusion, (label[valid], predicted[valid]), 1)
    return confusion


ONE = [("fit", "", 1), ("fit", "flip", 1), ("tile", "", 1), ("tile", "flip", 1)]
TWO = [("fit", "", 2), ("tile", "scales", 2)]


@pytest.mark.parametrize(("scale", "tta", "count"), [*ONE, *TWO])
def test_the_masks_that_predict_writes_have_the_confusion_that_evaluate_reports(
    data, models, tmp_path, monkeypatch, scale, tta, count
):
    folder, labels = data
    named = [f"--model={model}" for model in models[:count]]
    views = [f"--tta={tta}"] if tta else []
    given = [f"--input={folder / 'images/val'}", f"--output={tmp_path / 'out'}"]
    options = [f"--scale={scale}", *views, "--batch_size=4"]
    assert fixtures_commands.predict_files(monkeypatch, *named, *given, *options) == 0
    fixtures_commands.evaluate(
        monkeypatch,
        *named,
        f"--workdir={tmp_path}",
        "--config=reference:masks",
        f"--config.data.dir={folder}",
        f"--config.data.class_map={folder / 'class_map.json'}",
        f"--config.data.cache_dir={folder / 'cache'}",
        f"--config.eval.scale={scale}",
        f"--config.eval.tta={tta}",
        "--config.eval.batch_size=4",
    )
    metrics = json.loads((tmp_path / "evaluations/val/metrics.json").read_text())
    expected = count_by_numpy(tmp_path / "out/masks", labels)
    np.testing.assert_array_equal(metrics["confusion"], expected)
    assert np.count_nonzero(expected.sum(0)) > 1  # the network sees several classes
    assert [model["image_size"] for model in metrics["models"]] == [32, 64][:count]
