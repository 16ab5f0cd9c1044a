import json
from pathlib import Path

import inspect_data as script
import numpy as np
import pytest
from fixtures_coco import box, write_coco_folder
from inspecting import confident, judges, label_errors
from inspecting.coco_list import to_coco
from inspecting.judges import Judge
from inspecting.label_errors import find_label_errors
from inspecting.outlines import trace_polygons
from inspecting.page import format_page
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from scipy import ndimage

from configs import default
from trashseg_jax.data.taxonomy import CLASSES
from trashseg_jax.errors import InputError
from trashseg_jax.inference import Segmented

SIZE = (60, 80)  # height, width
K = len(CLASSES)


# Confident learning


def noisy(seed, num_classes, size=(20, 30)):
    """Labels, a tenth of them wrong, and probabilities that lean to the right ones."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, num_classes, size).astype(np.uint8)
    wrong = rng.integers(0, num_classes, size).astype(np.uint8)
    labels = np.where(rng.random(size) < 0.1, wrong, truth)
    logits = rng.normal(size=(*size, num_classes)) + 2.5 * np.eye(num_classes)[truth]
    logits[..., 1] -= 1.5  # a class that the model finds less often
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return labels, probs.astype(np.float32)


def doubtful(labels, probs):
    thresholds = confident.Thresholds(probs.shape[-1])
    for half in (np.s_[:7], np.s_[7:]):  # as of several images
        thresholds.add(labels[half], probs[half])
    found = confident.form_opinion(probs, thresholds.values).confident
    return confident.find_doubtful(labels, found), found, thresholds.values


def test_thresholds_are_the_mean_probability_of_a_class_where_it_is_labelled():
    labels, probs = noisy(0, 4)
    labels[:3] = 255
    _, _, thresholds = doubtful(labels, probs)
    for k in range(4):
        expected = probs[..., k][labels == k].mean(dtype=np.float64)
        assert thresholds[k] == pytest.approx(expected, rel=1e-6)
    labels[labels == 2] = 0
    assert doubtful(labels, probs)[2][2] == np.inf
    assert not (doubtful(labels, probs)[1] == 2).any()


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_doubtful_pixels_are_those_of_cleanlab_whose_likeliest_class_is_confident(num_classes):
    cleanlab = pytest.importorskip("cleanlab.filter", reason="pip install cleanlab")
    count = pytest.importorskip("cleanlab.count", reason="pip install cleanlab")
    labels, probs = noisy(num_classes, num_classes)
    flat = probs.reshape(-1, num_classes)
    theirs = cleanlab.find_label_issues(
        labels.ravel(), flat, filter_by="confident_learning", n_jobs=1
    )
    thresholds = count.get_confident_thresholds(labels.ravel(), flat)
    np.testing.assert_allclose(doubtful(labels, probs)[2], thresholds, rtol=1e-6)
    sure = flat.max(-1) >= thresholds[flat.argmax(-1)]
    ours = doubtful(labels, probs)[0].ravel()
    np.testing.assert_array_equal(ours, theirs & sure)
    assert 10 < ours.sum() < theirs.sum() + 1


def test_ignored_pixels_and_unsure_ones_are_not_doubtful():
    labels = np.array([[0, 0, 1, 255]], np.uint8)
    probs = np.array([[[0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.1, 0.9]]], np.float32)
    thresholds = np.array([0.6, 0.75])
    found = confident.form_opinion(probs, thresholds).confident
    assert found.tolist() == [[0, confident.NONE, 1, 1]]
    assert not confident.find_doubtful(labels, found).any()
    assert confident.find_doubtful(labels[:, ::-1], found).tolist() == [[False, False, True, True]]


def test_what_runs_along_an_object_of_its_class_is_not_missing():
    labels = np.zeros((60, 60), np.uint8)
    labels[10:30, 10:30] = 3
    seen = np.where(labels == 3, 3, 0).astype(np.uint8)
    seen[10:30, 30:38] = 3  # beside the object
    seen[40:50, 40:50] = 3  # an object of its own
    seen[50:52, 5:35] = 5  # thin
    seen[2, 2] = 7  # small
    seen[40:50, 20:30] = 6  # of which the model is not sure
    sure = np.where(seen == 6, confident.NONE, seen)
    opinion = confident.Opinion(np.zeros((60, 60, 9)), seen, sure)
    ((k, mask),) = confident.find_missing(labels, opinion, share=0.005, width=4)
    assert k == 3
    assert mask.sum() == mask[40:50, 40:50].sum() == 100


# From images to a list


def noise(seed):
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def write_folder(folder, wrong=()):
    """Paper and Metal in each image, but for `wrong` ones, and a bag in b.png and in d.png."""
    kinds = ["Paper", "Metal"]
    for split, names in (("train", ("a.png", "b.png")), ("val", ("c.png", "d.png"))):
        places = [(name, n) for name in names for n in range(2)]
        write_coco_folder(
            folder,
            images={name: noise(ord(name[0])) for name in names},
            annotations=[
                {
                    "file_name": name,
                    "category": kinds[(n + ((split, name, n) in wrong)) % 2],
                    "segmentation": [box(5 + 40 * n, 10, 20, 20)],
                }
                for name, n in places
            ]
            + [
                {
                    "file_name": names[1],
                    "category": "Plastic bag",
                    "segmentation": [box(30, 40, 20, 15)],
                }
            ],
            json_name=f"{split}.json",
        )
    return folder


class Oracle:
    """Stands in for a segmenter: sees Paper on the left, Metal on the right, a bag below."""

    def segment(self, images):
        rng = np.random.default_rng(0)
        classes = np.zeros(SIZE, int)
        classes[10:30, 5:25], classes[10:30, 45:65], classes[40:55, 30:50] = 2, 4, 8
        for image in images:
            assert image.shape == (*SIZE, 3)
            logits = 5 * np.eye(K)[classes] + 0.3 * rng.normal(size=(*SIZE, K))
            probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            yield Segmented(classes.astype(np.uint8), probs.max(-1).astype(np.float16), probs)


def inspect(folder, runs=()):
    config = default.get_config("coco")
    config.data.update({"dir": str(folder), "image_size": 64})
    return script.inspect(config, script.build_folder(config), list(runs)), config


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A folder with two objects of a wrong class, what is found, and the page's findings."""
    folder = tmp_path_factory.mktemp("planted")
    wrong = {("train", "b.png", 0), ("val", "c.png", 1)}
    found, _ = inspect(write_folder(folder, wrong))
    errors = find_label_errors(found.scan, [Judge((), found.scan.images, Oracle())])
    return wrong, errors, found


def test_flipped_labels_and_objects_that_lack_one_come_first(planted):
    wrong, errors, _ = planted
    listed = [(one.image.split, one.image.record.file_name, one.place) for one in errors.objects]
    assert {*listed} == wrong
    assert len(listed) == 2
    for one in errors.objects:
        assert {one.label, one.verdict.suggested} == {2, 4}
        assert one.verdict.share > 0.9
        assert one.verdict.score < 0.1
    assert [one.verdict.suggested for one in errors.missing] == [8] * 2
    assert {one.image.record.file_name for one in errors.missing} == {"a.png", "c.png"}
    assert {one.image.record.file_name for one in errors.images[:2]} == {"b.png", "c.png"}
    assert errors.judged == {"train": 2, "val": 2}
    assert not errors.seen


def test_the_list_is_a_coco_json_that_pycocotools_reads(planted, tmp_path):
    wrong, errors, found = planted
    path = tmp_path / "label_errors.json"
    path.write_text(json.dumps(to_coco(errors, classes=CLASSES)))
    coco = COCO(str(path))
    listed = coco.loadAnns(coco.getAnnIds())
    scores = [one["score"] for one in listed]
    assert scores == sorted(scores)
    assert [cat["name"] for cat in coco.loadCats(coco.getCatIds())] == [*CLASSES[1:]]
    flipped = [one for one in listed if one["kind"] == "label"]
    assert len(flipped) == len(wrong)
    for one in flipped:
        name = coco.loadImgs(one["image_id"])[0]["file_name"]
        (image,) = [im for im in found.scan.images if im.record.file_name == name]
        own = {thing.id: thing for thing in image.facts.objects}[one["annotation_id"]]
        assert one["bbox"] == list(own.box)
        assert one["category_id"] == own.label
        assert coco.annToMask(one).sum() == one["area"] == own.area == 400
        assert {CLASSES[own.label], one["suggested"]} == {"Paper", "Metal"}
    for one in (one for one in listed if one["kind"] == "missing"):
        mask = coco.annToMask(one)
        assert mask.sum() == mask[40:55, 30:50].sum() == one["area"] == 300
        assert CLASSES[one["category_id"]] == one["suggested"] == "Plastic bag"


def test_the_page_shows_them(planted):
    _, errors, found = planted
    page = format_page(found._replace(errors=errors), title="x", facts=[])
    assert page.count("annotated as Paper, seen as Metal") == 1
    assert page.count("annotated as Metal, seen as Paper") == 1
    assert page.count("not annotated, seen as Plastic bag") == 2


def test_photographs_larger_than_the_side_are_judged_scaled_down(tmp_path, monkeypatch):
    monkeypatch.setattr(label_errors, "SIDE", 40)
    found, _ = inspect(write_folder(tmp_path, {("val", "c.png", 1)}))

    class Small(Oracle):
        def segment(self, images):
            shown = [*images]
            assert {image.shape for image in shown} == {(30, 40, 3)}
            for one in Oracle().segment(np.zeros((*SIZE, 3)) for _ in shown):
                yield Segmented(*(part[::2, ::2] for part in one))

    errors = find_label_errors(found.scan, [Judge((), found.scan.images, Small())])
    (one,) = errors.objects
    assert one.image.record.file_name == "c.png"
    assert mask_utils.area(one.rle) == 400
    assert errors.missing
    for one in errors.missing:
        assert int(mask_utils.area(one.rle)) == pytest.approx(300, abs=50)


# Who may judge


def write_run(path: Path, folder, **options):
    config = default.get_config("coco")
    config.data.update({"dir": str(folder), **options})
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config.to_dict()))
    return path


def appointed(monkeypatch, runs, folder):
    monkeypatch.setattr(judges, "_make_segmenter", lambda runs, classes: Oracle())
    found, config = inspect(folder)
    return {
        tuple(run.name for run in judge.runs): [one.record.file_name for one in judge.images]
        for judge in judges.appoint(runs, found.scan, script.build_folder(config))
    }


def test_a_run_judges_only_images_that_it_was_not_trained_on(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "data")
    first = write_run(tmp_path / "first", folder)
    other = write_run(tmp_path / "other", folder, train_file="val.json", val_file="train.json")
    again = write_run(tmp_path / "again", folder / ".." / "data", skip_bad=True)
    assert appointed(monkeypatch, [first], folder) == {("first",): ["c.png", "d.png"]}
    assert appointed(monkeypatch, [first, other, again], folder) == {
        ("other",): ["a.png", "b.png"],
        ("first", "again"): ["c.png", "d.png"],
    }


def test_runs_of_folds_judge_all_images_between_them(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "data")
    merged = [json.loads((folder / f"{split}.json").read_text()) for split in ("train", "val")]
    for part, content in enumerate(merged):
        for one in content["images"]:
            one["id"] += 10 * part
        for one in content["annotations"]:
            one["image_id"] += 10 * part
    both = {key: merged[0][key] + merged[1][key] for key in ("images", "annotations")}
    (folder / "all.json").write_text(json.dumps(merged[0] | both))
    runs = []
    for fold, (held_out, others) in enumerate((("ac", "bd"), ("bd", "ac"))):
        lists = {"val_list": held_out, "train_list": others}
        for key, names in lists.items():
            (folder / f"{fold}-{key}.txt").write_text("\n".join(f"{name}.png" for name in names))
        options = {key: f"{fold}-{key}.txt" for key in lists}
        files = {"train_file": "all.json", "val_file": "all.json"}
        runs.append(write_run(tmp_path / f"run{fold}", folder, **options, **files))
    assert appointed(monkeypatch, runs, folder) == {
        ("run0",): ["a.png", "c.png"],
        ("run1",): ["b.png", "d.png"],
    }


def test_images_that_were_mixed_in_or_lie_elsewhere_count_as_trained_on(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "data")
    elsewhere = tmp_path / "elsewhere"
    names = {"x.png": noise(ord("c")), "y.png": noise(99)}  # c.png under another name
    write_coco_folder(elsewhere, images=names)
    mixed = write_run(tmp_path / "mixed", folder, mix=f"coco:{elsewhere}=0.5")
    assert appointed(monkeypatch, [mixed], folder) == {("mixed",): ["d.png"]}
    away = write_run(tmp_path / "away", elsewhere, val_file="")
    assert appointed(monkeypatch, [away], folder) == {("away",): ["a.png", "b.png", "d.png"]}


def test_runs_that_were_trained_on_all_images_are_refused(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "data")
    both = [
        write_run(tmp_path / "one", folder, mix=f"coco:{folder}/val.json=0.5"),
        write_run(tmp_path / "two", folder, mix=f"coco:{folder}/val.json=0.1"),
    ]
    with pytest.raises(InputError, match="trained on all of these images"):
        appointed(monkeypatch, both, folder)


def test_what_is_no_run_or_is_named_twice_is_refused(tmp_path):
    run = write_run(tmp_path / "run", tmp_path)
    judges.check_runs([run])
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text('{"format": 1}')
    for wrong, said in (
        ([tmp_path / "model"], "does not say on which images"),
        ([tmp_path / "absent"], "name the folder of a run"),
        ([run, tmp_path / "model/../run"], "appears twice"),
    ):
        with pytest.raises(InputError, match=said):
            judges.check_runs(wrong)


# Polygons


@pytest.mark.parametrize("seed", range(30))
def test_polygons_painted_give_the_mask_back(seed):
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 20, 2)
    mask = ndimage.binary_fill_holes(rng.random(size) < 0.6)
    polygons = trace_polygons(mask)
    height, width = mask.shape
    rles = mask_utils.frPyObjects([[float(n) for n in one] for one in polygons], height, width)
    painted = mask_utils.decode(mask_utils.merge(rles)) if polygons else np.zeros(size)
    np.testing.assert_array_equal(painted, mask)
    areas = mask_utils.area(rles) if polygons else []
    assert [*areas] == sorted(areas, reverse=True)


def test_holes_are_filled():
    mask = np.ones((5, 6), bool)
    mask[2, 2:4] = False
    assert trace_polygons(mask) == [[6, 0, 6, 5, 0, 5, 0, 0]]
