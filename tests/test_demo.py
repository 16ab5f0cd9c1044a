"""The rendered data set: its layout, its counts, and that its annotations say what one sees."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from trashseg_jax.data.demo import scenes
from trashseg_jax.data.taxonomy import CLASSES
from trashseg_jax.errors import InputError

ARGUMENTS = {"seed": 3, "num_train": 6, "num_val": 3, "size": 64}


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "set"
    scenes.render_demo(folder, **ARGUMENTS)
    return folder


@pytest.fixture(scope="module", params=["train", "val"])
def split(request, folder):
    return json.loads((folder / f"{request.param}.json").read_text())


def test_same_seed_gives_the_same_bytes(folder, tmp_path):
    scenes.render_demo(tmp_path / "again", **ARGUMENTS)
    assert contents(tmp_path / "again") == contents(folder)


def test_every_image_differs_between_seeds_and_splits(folder, tmp_path):
    scenes.render_demo(tmp_path / "other", **ARGUMENTS | {"seed": 4})
    both = contents(folder) | {f"other/{k}": v for k, v in contents(tmp_path / "other").items()}
    pictures = [data for name, data in both.items() if name.endswith(".jpg")]
    assert len(set(pictures)) == len(pictures) == 2 * (6 + 3)


def test_layout_is_that_of_recycle_trash(folder, split):
    assert split["categories"] == [{"id": i, "name": CLASSES[i]} for i in range(1, 11)]
    for image in split["images"]:
        assert image.keys() == {"id", "file_name", "height", "width"}
        with Image.open(folder / image["file_name"]) as picture:
            assert (picture.height, picture.width) == (image["height"], image["width"])
            assert (picture.format, picture.mode) == ("JPEG", "RGB")
    images, annotations = split["images"], split["annotations"]
    assert [image["id"] for image in images] == list(range(len(images)))
    assert [annotation["id"] for annotation in annotations] == list(range(len(annotations)))
    assert {annotation["image_id"] for annotation in annotations} == set(range(len(images)))
    fields = {"id", "image_id", "category_id", "segmentation", "area", "bbox", "iscrowd"}
    assert all(a.keys() == fields and a["iscrowd"] == 0 for a in annotations)


def test_polygons_lie_within_image_and_bbox_and_area_are_theirs(split):
    for annotation in split["annotations"]:
        x, y = np.concatenate([np.reshape(p, (-1, 2)) for p in annotation["segmentation"]]).T
        assert min(x.min(), y.min()) >= 0
        assert max(x.max(), y.max()) <= 64
        expected = [x.min(), y.min(), np.ptp(x), np.ptp(y)]
        np.testing.assert_allclose(annotation["bbox"], expected, atol=0.011)
        if len(annotation["segmentation"]) == 1:
            shoelace = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2
            assert annotation["area"] == pytest.approx(shoelace, rel=0.05, abs=2)


def test_an_item_is_clipped_like_its_mask():
    # A diamond around a corner of the image: a quarter of it, 10 * 10 / 2, is inside.
    diamond = np.array([(10.0, 0.0), (0.0, 10.0), (-10.0, 0.0), (0.0, -10.0)])
    for corner in ((0, 0), (64, 0), (0, 64), (64, 64)):
        x, y = scenes._clip(diamond + corner, 64).T
        assert abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2 == pytest.approx(50)


def test_counts_follow_the_competition_by_largest_remainder():
    # At the competition's own total the division is exact, at twice that too.
    assert scenes.class_counts(26_240) == list(scenes.ANNOTATIONS)
    assert scenes.class_counts(2 * 26_240) == [2 * count for count in scenes.ANNOTATIONS]
    # 2,000 objects: 212.04 709.68 50.23 42.84 46.49 235.52 102.36 582.55 4.80 13.49, of which the
    # whole parts leave 5 over: they go to .84 .80 .68 .55 .52.
    assert scenes.class_counts(2000) == [212, 710, 50, 43, 46, 236, 102, 583, 5, 13]


@pytest.mark.parametrize("num_images", [3, 4, 7, 100])
def test_no_class_is_missing_and_images_hold_two_to_eight(num_images):
    labels = scenes.split_labels(np.random.default_rng(0), num_images)
    counts = np.bincount(np.concatenate(labels), minlength=11)
    assert counts[0] == 0
    assert counts[1:].min() >= 1
    assert counts[CLASSES.index("Battery")] >= 2
    assert counts.sum() == 5 * num_images
    assert {len(image) for image in labels} <= set(range(2, 9))


def test_too_few_images_are_refused(tmp_path):
    with pytest.raises(InputError, match="of 2 images lacks classes; ask for 3 or more"):
        scenes.render_demo(tmp_path / "set", **ARGUMENTS | {"num_val": 2})


@pytest.mark.parametrize("size", [64, 128])
def test_painting_the_polygons_gives_what_one_sees(size):
    for seed in range(4):
        scene = scenes.render_scene(np.random.default_rng(seed), [1, 2, 3, 5, 8, 8, 9, 10], size)
        masks = []
        for index, thing in enumerate(scene.things):
            polygons = [polygon.ravel().tolist() for polygon in thing.polygons]
            rle = coco_mask.merge(coco_mask.frPyObjects(polygons, size, size))
            masks.append((index, coco_mask.decode(rle).astype(bool)))
        painted = np.full((size, size), -1)
        for index, mask in sorted(masks, key=lambda pair: -pair[1].sum()):
            painted[mask] = index
        wrong = painted != scene.ids
        assert (
            wrong.mean() < 0.02 * 64 / size
        )  # a share of the outlines, which are all that differs
        assert not (wrong & ~borders(scene.ids)).any()


def borders(ids):
    """Where a pixel's 5x5 neighbourhood holds more than one id."""
    padded = np.pad(ids, 2, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5))
    return windows.min((2, 3)) != windows.max((2, 3))


def test_a_finished_set_is_left_alone_and_another_is_replaced(tmp_path):
    folder = tmp_path / "set"
    scenes.render_demo(folder, **ARGUMENTS)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    scenes.render_demo(folder, **ARGUMENTS)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    scenes.render_demo(folder, **ARGUMENTS | {"num_train": 4})
    assert len(list((folder / "batch_01").iterdir())) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_an_interrupted_rendering_leaves_nothing(tmp_path, monkeypatch):
    render_scene = scenes.render_scene

    def interrupted(rng, labels, size):
        if list(tmp_path.rglob("0003.jpg")):
            raise KeyboardInterrupt
        return render_scene(rng, labels, size)

    monkeypatch.setattr(scenes, "render_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scenes.render_demo(tmp_path / "set", **ARGUMENTS)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("three years")
    with pytest.raises(InputError, match="holds files that are no demo set"):
        scenes.render_demo(tmp_path, **ARGUMENTS)
    assert (tmp_path / "thesis.txt").exists()


def test_a_picture_does_not_depend_on_how_many_follow(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "split_labels", lambda rng, num_images: [[2, 8]] * num_images)
    scenes.render_demo(tmp_path / "few", seed=0, num_train=2, num_val=1, size=64)
    scenes.render_demo(tmp_path / "more", seed=0, num_train=3, num_val=2, size=64)
    few, more = contents(tmp_path / "few"), contents(tmp_path / "more")
    names = ["batch_01/0000.jpg", "batch_01/0001.jpg", "batch_02/0000.jpg"]
    assert [few[name] for name in names] == [more[name] for name in names]
