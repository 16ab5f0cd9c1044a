import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fixtures_coco import box, data_folder, write_coco_folder

from trashseg_jax.data import painting
from trashseg_jax.data.formats import coco
from trashseg_jax.data.label_codec import decode_label
from trashseg_jax.data.records import load_example, load_features
from trashseg_jax.data.taxonomy import IGNORE_LABEL, ClassMap, load_class_map
from trashseg_jax.errors import InputError

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
PIXELS = np.zeros((10, 15, 3), np.uint8)


def good_folder(folder):
    """Writes three images with an annotation each, and returns the json's path and content."""
    names = ["b/2.png", "a/1.png", "a/3.png"]
    annotations = [
        {"file_name": name, "category": "Paper", "segmentation": [box(0, 0, 2, 2)]}
        for name in names
    ]
    images = dict.fromkeys(names, np.zeros((3, 4, 3), np.uint8))
    json_file = write_coco_folder(folder, images=images, annotations=annotations)
    return json_file, json.loads(json_file.read_text())


def read(json_file, **options):
    checks = {"check_images": options.pop("check_images", True)}
    return coco.read_coco(
        json_file, data_folder(json_file.parent, **options), split="train", **checks
    )


def test_records_keep_the_order_of_the_json(tmp_path):
    json_file, _ = good_folder(tmp_path)
    records, problems = read(json_file)
    assert [one.file_name for one in records] == ["b/2.png", "a/1.png", "a/3.png"]
    assert [one.source.items[0].id for one in records] == [1, 2, 3]
    assert records[0].path == tmp_path / "b" / "2.png"
    assert records[0].size == (3, 4)
    assert problems == []


def test_categories_count_by_name_whatever_their_ids(tmp_path):
    json_file, content = good_folder(tmp_path)
    content["categories"] = [{"id": 0, "name": "Battery"}, {"id": 7, "name": "UNKNOWN"}]
    for item, category_id in zip(content["annotations"], [0, 7, 0], strict=True):
        item["category_id"] = category_id
    json_file.write_text(json.dumps(content))
    records, _ = read(json_file)
    assert [one.source.items[0].label for one in records] == [9, IGNORE_LABEL, 9]


def test_a_class_map_may_have_other_classes(tmp_path):
    json_file = write_coco_folder(
        tmp_path,
        images={"a.png": PIXELS},
        annotations=[{"file_name": "a.png", "category": "tin", "segmentation": [box(0, 0, 2, 2)]}],
        categories=["tin"],
    )
    class_map = ClassMap(("Ground", "Can"), {"tin": 1})
    (one,), _ = read(json_file, class_map=class_map)
    features = load_features(one, num_classes=2, skip_bad=False)
    np.testing.assert_array_equal(features["pixel_counts"], [146, 4])


def test_an_image_without_annotations_is_a_record(tmp_path):
    json_file, content = good_folder(tmp_path)
    json_file.write_text(json.dumps(content | {"annotations": []}))
    assert [one.source.items for one in read(json_file)[0]] == [(), (), ()]


def test_an_annotation_without_iscrowd_is_no_crowd(tmp_path):
    json_file, content = good_folder(tmp_path)
    del content["annotations"][0]["iscrowd"]
    content["annotations"][1]["iscrowd"] = 1
    json_file.write_text(json.dumps(content))
    assert [one.source.items[0].crowd for one in read(json_file)[0]] == [False, True, False]


def test_annotation_ids_may_recur_in_another_image_as_in_taco(tmp_path):
    json_file, content = good_folder(tmp_path)
    content["annotations"][1]["id"] = 1
    json_file.write_text(json.dumps(content))
    assert [one.source.items[0].id for one in read(json_file)[0]] == [1, 1, 3]


def test_absent_images_are_no_matter_without_check_images(tmp_path):
    json_file, _ = good_folder(tmp_path)
    (tmp_path / "a" / "1.png").unlink()
    assert len(read(json_file, check_images=False)[0]) == 3


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    json_file, _ = good_folder(tmp_path)
    with pytest.raises(InputError, match="elsewhere: is not a folder"):
        coco.read_coco(json_file, data_folder(tmp_path / "elsewhere", skip_bad=True), split="train")


def test_an_image_with_several_faults_is_reported_once(tmp_path):
    json_file, content = good_folder(tmp_path)
    content["images"][1]["height"] = 0
    content["annotations"][1]["segmentation"] = []
    json_file.write_text(json.dumps(content))
    records, problems = read(json_file, skip_bad=True)
    assert ([one.id for one in records], len(problems)) == ([0, 2], 1)


def test_images_that_share_a_file_are_all_bad_for_either_may_lack_labels(tmp_path):
    json_file, content = good_folder(tmp_path)
    content["images"][2]["file_name"] = "./a/1.png"
    json_file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"image 1 \('a/1.png'\) .* 2 images"):
        read(json_file)
    records, problems = read(json_file, skip_bad=True)
    assert ([one.id for one in records], len(problems)) == ([0], 2)


def test_an_annotation_of_an_unlisted_image_is_refused_or_dropped(tmp_path):
    json_file, content = good_folder(tmp_path)
    content["annotations"][1]["image_id"] = 55
    json_file.write_text(json.dumps(content))
    with pytest.raises(InputError, match="annotation 2 is of image 55, which is not listed"):
        read(json_file)
    records, (problem,) = read(json_file, skip_bad=True)
    assert [len(one.source.items) for one in records] == [1, 0, 1]
    assert "image 55" in problem


def test_a_data_folder_that_is_itself_a_link_is_accepted(tmp_path):
    (tmp_path / "data").mkdir()
    good_folder(tmp_path / "data")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert len(read(tmp_path / "link" / "train.json")[0]) == 3


def test_skip_bad_with_no_good_image_left_is_refused(tmp_path):
    json_file, _ = good_folder(tmp_path)
    for path in tmp_path.glob("*/*.png"):
        path.unlink()
    with pytest.raises(InputError, match=r"no image is left to use; .*b/2\.png"):
        read(json_file, skip_bad=True)


def test_worker_processes_import_neither_jax_nor_tensorflow():
    code = (
        "import sys, trashseg_jax.data.formats; "
        "print({name.split('.')[0] for name in sys.modules} & {'jax', 'flax', 'tensorflow'})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


# Examples


def test_counts_are_those_of_the_label_map_and_the_annotations(tmp_path):
    annotations = [
        {"file_name": "a.png", "category": "Paper", "segmentation": [box(0, 0, 4, 2)]},
        {"file_name": "a.png", "category": "Paper", "segmentation": [box(3, 0, 2, 2)]},
        {"file_name": "a.png", "category": "Metal", "segmentation": [box(-2, 3, 4, 1)]},
        {"file_name": "a.png", "category": "UNKNOWN", "segmentation": [box(9, 0, 1, 2)]},
        {
            "file_name": "a.png",
            "category": "Glass",
            "segmentation": [box(0, 9, 15, 1)],
            "iscrowd": 1,
        },
    ]
    categories = ["UNKNOWN", "Glass", "Metal", "Paper"]  # ids mean nothing
    json_file = write_coco_folder(
        tmp_path, images={"a.png": PIXELS}, annotations=annotations, categories=categories
    )
    (one,), _ = read(json_file)
    features = load_features(one, num_classes=11, skip_bad=False)
    expected_pixels = np.zeros(11)
    expected_pixels[[0, 2, 4]] = [150 - 10 - 2 - 2 - 15, 10, 2]  # 2 and 15 pixels are ignored
    np.testing.assert_array_equal(features["pixel_counts"], expected_pixels)
    np.testing.assert_array_equal(features["annotation_counts"], [0, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0])
    assert (decode_label(features["label"]) == IGNORE_LABEL).sum() == 17
    assert features["clipped"] == 1


@pytest.mark.parametrize("label", [-1, 11, 254])
def test_a_label_out_of_range_is_refused(tmp_path, label):
    wrong = painting.Annotation(77, label, [box(0, 0, 2, 2)], ignored=False)
    objects = coco.Annotations(tmp_path / "a.png", (wrong,), {}, "area")
    with pytest.raises(InputError, match=rf"a\.png: annotation 77 has the label {label}"):
        objects.draw(height=10, width=15, num_classes=11)


def test_features_are_the_example_with_its_label_as_runs(tmp_path):
    json_file, _ = good_folder(tmp_path)
    one = read(json_file)[0][1]
    image, label = load_example(one, num_classes=11)
    features = load_features(one, num_classes=11, skip_bad=False)
    assert (features["id"], features["file_name"], features["clipped"]) == (1, "a/1.png", 0)
    assert features["image"] == image
    np.testing.assert_array_equal(decode_label(features["label"]), label.classes)
    counts = np.bincount(label.classes.ravel(), minlength=11)
    np.testing.assert_array_equal(features["pixel_counts"], counts)


# Real data, where it is present


def read_real(json_file, class_map, **options):
    path = REAL_DATA / json_file
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    records, problems = read(path, class_map=load_class_map(class_map), **options)
    return len(records), sum(len(one.source.items) for one in records), problems


def test_tacos_official_annotations_are_read():
    expected = (1500, 4784, [])
    assert read_real("taco_annotations_full.json", "taco", check_images=False) == expected


@pytest.mark.parametrize(
    ("json_file", "class_map", "images", "annotations"),
    [
        ("taco_mini/annotations.json", "taco", 369, 1082),
        ("aistage_mini/train.json", "recycle_trash", 400, 942),
        ("aistage_mini/val.json", "recycle_trash", 20, 168),
    ],
)
def test_real_folders_are_read_without_a_fault(json_file, class_map, images, annotations):
    assert read_real(json_file, class_map) == (images, annotations, [])
