import hashlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fixtures_coco import box, data_folder, write_coco_folder
from PIL import Image

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
    both = r"image 1 \('a/1.png'\) is the same file as image 2 \('./a/1.png'\); list it once"
    with pytest.raises(InputError, match=both):
        read(json_file)
    records, problems = read(json_file, skip_bad=True)
    assert ([one.id for one in records], len(problems)) == ([0], 2)


@pytest.mark.parametrize(
    ("image_id", "fault"),
    [
        (55, "annotation 2 is of image 55, which is not listed"),
        ("01", "annotation 2 is of image '01', which is not listed"),
        ([1], r"annotation 2 is of image \[1\], which is not listed"),
        (None, "annotation 2 has no image_id"),
    ],
)
def test_an_annotation_of_an_unlisted_image_is_refused_or_dropped(tmp_path, image_id, fault):
    json_file, content = good_folder(tmp_path)
    content["annotations"][1]["image_id"] = image_id
    json_file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=fault):
        read(json_file)
    records, (problem,) = read(json_file, skip_bad=True)
    assert [len(one.source.items) for one in records] == [1, 0, 1]
    assert re.search(fault, problem)


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
    (one,), _ = read(json_file, crowd="ignore")
    features = load_features(one, num_classes=11, skip_bad=False)
    expected_pixels = np.zeros(11)
    expected_pixels[[0, 2, 4]] = [150 - 10 - 2 - 2 - 15, 10, 2]  # 2 and 15 pixels are ignored
    np.testing.assert_array_equal(features["pixel_counts"], expected_pixels)
    np.testing.assert_array_equal(features["annotation_counts"], [0, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0])
    assert (decode_label(features["label"]) == IGNORE_LABEL).sum() == 17
    assert features["notes"] == {"clipped": 1, "crowds_ignored": 1}


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
    assert (features["id"], features["file_name"], features["notes"]) == (1, "a/1.png", {})
    assert features["image"] == image
    np.testing.assert_array_equal(decode_label(features["label"]), label.classes)
    counts = np.bincount(label.classes.ravel(), minlength=11)
    np.testing.assert_array_equal(features["pixel_counts"], counts)


# What tools export


def one_image(folder, *annotations, **fields):
    """Writes a.png of 10x15 pixels with annotations of category 2, Paper; returns the json."""
    json_file = write_coco_folder(folder, images={"a.png": PIXELS})
    content = json.loads(json_file.read_text())
    content["images"][0].update(fields)
    common = {"image_id": content["images"][0]["id"], "category_id": 2}
    content["annotations"] = [{"id": i, **common, **one} for i, one in enumerate(annotations)]
    json_file.write_text(json.dumps(content))
    return json_file


def draw(json_file, **options):
    """Returns the pixels by label, the number of Paper objects, and the notes."""
    (one,), _ = read(json_file, **options)
    label = load_example(one, num_classes=11)[1]
    values, counts = np.unique(label.classes, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True)), label.objects[2], label.notes


CROWD = {"segmentation": {"size": [10, 15], "counts": [0, 20, 130]}, "iscrowd": 1}


def test_a_crowd_is_its_class_or_ignored_and_counted(tmp_path):
    json_file = one_image(tmp_path, CROWD)
    assert draw(json_file) == ({0: 130, 2: 20}, 1, {"crowds_as_class": 1})
    assert draw(json_file, crowd="ignore") == ({0: 130, 255: 20}, 0, {"crowds_ignored": 1})


@pytest.mark.parametrize("value", [0, 0.0, False, None, "", "0", "false", "False", " no "])
def test_what_says_no_crowd_is_none(tmp_path, value):
    json_file = one_image(tmp_path, CROWD | {"iscrowd": value})
    assert draw(json_file, crowd="ignore") == ({0: 130, 2: 20}, 1, {})


@pytest.mark.parametrize("value", [1, 1.0, True, "1", "true", "TRUE", "yes"])
def test_what_says_crowd_is_one(tmp_path, value):
    json_file = one_image(tmp_path, CROWD | {"iscrowd": value})
    assert draw(json_file, crowd="ignore")[2] == {"crowds_ignored": 1}


SQUARE = {"segmentation": [box(0, 0, 4, 5)]}  # 20 pixels
INFINITE = [float("inf"), float("inf"), float("-inf"), float("-inf")]


@pytest.mark.parametrize(
    ("odd", "notes"),
    [
        ({"segmentation": [], "area": 0, "bbox": INFINITE}, {"empty": 1}),  # TACO's
        ({"segmentation": [], "area": 0}, {"empty": 1}),
        ({"segmentation": None, "area": 0.0, "bbox": []}, {"empty": 1}),
        ({"area": "0", "bbox": [3, 3, 0, 0]}, {"empty": 1}),
        ({"segmentation": [[5, 5]], "area": 0, "bbox": [5, 5, 0, 0]}, {"empty": 1}),
        ({"segmentation": [[1, 1, 3, 1, 5, 1]]}, {"empty": 1}),  # on a line
        ({"segmentation": [box(40, 40, 5, 5)]}, {"empty": 1, "clipped": 1}),
        ({"segmentation": {"size": [10, 15], "counts": [150]}}, {"empty": 1}),
        (SQUARE, {"copies": 1}),
        (SQUARE | {"id": 0}, {"copies": 1}),  # the first one's own id
        (SQUARE | {"area": 20, "score": 0.9}, {"copies": 1}),
    ],
)
def test_what_holds_no_pixel_of_its_own_is_left_out_and_counted(tmp_path, odd, notes):
    assert draw(one_image(tmp_path, SQUARE, odd)) == ({0: 130, 2: 20}, 1, notes)


def test_parts_of_fewer_than_three_points_are_left_out_and_counted(tmp_path):
    parts = [[7, 7], box(0, 0, 4, 5), [8, 8, 9, 9], [], [3]]
    json_file = one_image(tmp_path, {"segmentation": parts})
    assert draw(json_file) == ({0: 130, 2: 20}, 1, {"left_out_parts": 4})


def test_the_same_outline_in_another_category_is_no_copy(tmp_path):
    json_file = one_image(tmp_path, SQUARE, SQUARE | {"category_id": 4})
    (one,), _ = read(json_file)
    assert [item.label for item in one.source.items] == [2, 4]


BOX = {"segmentation": [], "bbox": [2, 0, 4, 5], "area": 20}


@pytest.mark.parametrize(
    "bare",
    [
        BOX,
        BOX | {"area": 0},
        {"bbox": [2, 0, 4, 5]},
        BOX | {"bbox": ["2", 0.0, "4.0", 5]},
        BOX | {"segmentation": [[2, 0, 4, 5]]},  # as box instead of polygon
        BOX | {"keypoints": [3, 3, 2], "num_keypoints": 1},
    ],
)
def test_a_box_without_an_outline_is_refused_or_ignored_below_what_is_outlined(tmp_path, bare):
    json_file = one_image(tmp_path, SQUARE, bare, BOX | {"bbox": [9, 9, 1, 1]})
    named = "annotation 1 of image 0 .* no outline; 2 of the file's .*config.data.boxes=ignore"
    with pytest.raises(InputError, match=named):
        read(json_file)
    counts = {0: 150 - 20 - 10 - 1, 2: 20, 255: 10 + 1}  # two of the box's columns are Paper
    assert draw(json_file, boxes="ignore") == (counts, 1, {"boxes_ignored": 2})


def test_what_has_neither_outline_nor_box_is_refused_whatever_boxes_says(tmp_path):
    json_file = one_image(tmp_path, SQUARE, {"segmentation": [], "keypoints": [3, 3, 2]})
    with pytest.raises(InputError, match=r"annotation 1 .* keypoints and neither an outline nor"):
        read(json_file, boxes="ignore")


def test_an_image_without_a_size_has_its_files_and_an_rle_must_be_of_that(tmp_path):
    fits = {"segmentation": {"size": [10, 15], "counts": [0, 20, 130]}}
    assert draw(one_image(tmp_path, fits, height=None))[0] == {0: 130, 2: 20}
    turned = {"segmentation": {"size": [15, 10], "counts": [150]}}
    json_file = one_image(tmp_path, turned, width=None)
    (one,), _ = read(json_file)
    with pytest.raises(InputError, match=r"a\.png: annotation 0 has an RLE of size \[15, 10\]"):
        load_features(one, num_classes=11, skip_bad=False)


def test_ids_of_text_are_numbered_by_their_hash_and_shown_as_they_are(tmp_path):
    json_file = one_image(tmp_path, SQUARE, id="IMG_7")
    (one,), _ = read(json_file)
    assert one.id == int.from_bytes(hashlib.sha256(b"IMG_7").digest()[:8], "big") // 2
    one.path.write_bytes(b"")
    with pytest.raises(InputError, match=r"\(image 'IMG_7'\)"):
        load_features(one, num_classes=11, skip_bad=False)


def test_a_number_and_its_text_are_one_id_unless_both_are_listed(tmp_path):
    json_file, content = good_folder(tmp_path)
    for image, image_id in zip(content["images"], [1, "1", "2"], strict=True):
        image["id"] = image_id
    for item, image_id in zip(content["annotations"], ["1", 1, 2.0], strict=True):
        item["image_id"] = image_id
    json_file.write_text(json.dumps(content))
    records, _ = read(json_file)
    assert [one.source.items[0].id for one in records] == [2, 1, 3]
    assert (records[0].id, records[2].id) == (1, 2)
    assert records[1].id not in (1, 2)


TURNED = Image.new("RGB", (15, 10))
TURNED.getexif()[0x0112] = 6  # 10 wide and 15 high when upright


@pytest.mark.parametrize(
    ("exif", "said", "shape"),
    [
        ("upright", {"width": 10, "height": 15}, (15, 10)),
        ("stored", {"width": 15, "height": 10}, (10, 15)),
        ("mixed", {"width": 15, "height": 10}, (15, 10)),
    ],
)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_exif_rotation_is_applied_as_the_option_says(tmp_path, exif, said, shape, image_format):
    json_file = one_image(tmp_path, {"segmentation": [box(0, 0, 4, 5)]}, **said)
    TURNED.save(tmp_path / "a.png", image_format, exif=TURNED.getexif())
    (one,), _ = read(json_file, exif=exif)
    image, label = load_example(one, num_classes=11)
    assert label.classes.shape == shape
    stored = Image.open(io.BytesIO(image))
    assert (stored.height, stored.width) == shape
    assert 0x0112 not in stored.getexif()  # nothing is left that others would rotate by


def test_a_size_that_exif_rotation_explains_is_refused_with_the_options(tmp_path):
    json_file = one_image(tmp_path, SQUARE, width=15, height=10)
    TURNED.save(tmp_path / "a.png", "JPEG", exif=TURNED.getexif())
    (one,), _ = read(json_file)
    with pytest.raises(InputError, match=r"before that rotation; .*exif=stored, .*=mixed"):
        load_features(one, num_classes=11, skip_bad=False)
    json_file = one_image(tmp_path, SQUARE, width=10, height=15)
    TURNED.save(tmp_path / "a.png", "JPEG", exif=TURNED.getexif())
    (one,), _ = read(json_file, exif="stored")
    with pytest.raises(InputError, match=r"its size upright; pass --config.data.exif=upright"):
        load_features(one, num_classes=11, skip_bad=False)


COCO_LISTS = {"images": [], "annotations": [], "categories": []}
MISTAKEN = {
    "a panoptic json": COCO_LISTS | {"annotations": [{"image_id": 1, "segments_info": []}]},
    "a json of captions": COCO_LISTS | {"annotations": [{"image_id": 1, "caption": "a can"}]},
    "a Labelme file": {"version": "5.0", "shapes": [], "imagePath": "a.jpg", "imageData": None},
    "a VIA project": {"_via_settings": {}, "_via_img_metadata": {}},
    "VIA's own json": {"a.jpg123": {"filename": "a.jpg", "size": 123, "regions": []}},
    "a V7 Darwin file": {"version": "2.0", "item": {"name": "a.jpg"}, "annotations": []},
    "a Supervisely file": {"tags": [], "size": {"height": 1, "width": 1}, "objects": []},
    "a Datumaro file": {"info": {}, "categories": {}, "items": []},
    "GeoJSON": {"type": "FeatureCollection", "features": []},
    "a Label Studio json": [{"id": 1, "data": {"image": "a.jpg"}, "annotations": []}],
    "a file of results": [{"image_id": 1, "category_id": 1, "score": 0.5, "bbox": [0, 0, 1, 1]}],
    "a CreateML file": [{"image": "a.jpg", "annotations": []}],
    "a YOLO file": b"0 0.1 0.2 0.3 0.4\n11 0.5 0.1 0.9 1 0.25 1e-3\n",
    "a YOLO data set's yaml": b"path: .\ntrain: images/train\nnc: 1\nnames: [can]\n",
    "a PASCAL VOC file": b"<annotation>\n  <filename>a.jpg</filename></annotation>",
    "a CVAT xml": b'<?xml version="1.0"?>\n<annotations><version>1.1</version></annotations>',
    "VIA's table": b"filename,file_size,file_attributes,region_count\na.jpg,1,{},0\n",
    "a zip archive": b"PK\x03\x04" + bytes(20),
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\n",
    "json objects, one a line": b'{"image": "a.jpg"}\n{"image": "b.jpg"}\n',
}


@pytest.mark.parametrize("name", MISTAKEN)
def test_a_file_of_another_kind_is_named_with_what_to_do(tmp_path, name):
    json_file, _ = good_folder(tmp_path)
    other = MISTAKEN[name]
    json_file.write_bytes(other if isinstance(other, bytes) else json.dumps(other).encode())
    with pytest.raises(InputError, match=rf"train\.json: is {name}.*[;(] ?\w+") as error:
        read(json_file, skip_bad=True)
    assert len(str(error.value).splitlines()) == 1


def test_a_missing_json_of_val_says_how_to_hold_out_a_share_of_the_other(tmp_path):
    good_folder(tmp_path)
    with pytest.raises(InputError, match=r"val\.json: does not exist; .*data.val_file=train.json"):
        coco.read_splits(data_folder(tmp_path))
    (tmp_path / "train.json").rename(tmp_path / "a" / "all.json")
    with pytest.raises(InputError, match=r"train\.json: does not exist; .*train_file: a/all.json"):
        coco.read_splits(data_folder(tmp_path))


# Several jsons for a split


def batches(folder, *numbers):
    """Writes a folder for each number with a json, images 0.png and 1.png, an annotation each."""
    for number in numbers:
        notes = [
            {"file_name": name, "category": kind, "segmentation": [box(0, 0, 2, 2)]}
            for name, kind in (("0.png", "Paper"), ("1.png", "Metal"))
        ]
        images = dict.fromkeys(("0.png", "1.png"), PIXELS)
        (folder / f"b{number}").mkdir()
        write_coco_folder(folder / f"b{number}", images=images, annotations=notes)


def read_batches(folder, **options):
    given = {"train_file": "b*/train.json", "val_file": "b*/train.json", **options}
    return coco.read_splits(data_folder(folder, **given))


def test_a_pattern_takes_in_all_jsons_that_it_fits_with_ids_and_names_of_their_own(tmp_path):
    batches(tmp_path, 10, 9, 11)
    splits = read_batches(tmp_path, train_file="b1*/train.json", val_file="b9/train.json")
    train, val = splits.records["train"], splits.records["val"]
    names = ["b10/0.png", "b10/1.png", "b11/0.png", "b11/1.png"]
    assert [one.file_name for one in train] == names
    assert [one.path for one in train] == [tmp_path / name for name in names]
    assert [one.id for one in train] == [0, 1, 2, 3]
    assert [one.source.items[0].label for one in train] == [2, 4, 2, 4]
    assert [(one.id, one.file_name) for one in val] == [(0, "0.png"), (1, "1.png")]
    assert not splits.held_out


def test_the_same_pattern_twice_holds_out_a_share_by_the_whole_names(tmp_path):
    batches(tmp_path, *range(10, 20))
    splits = read_batches(tmp_path, val_fraction=0.25)
    train, val = ({one.file_name for one in splits.records[split]} for split in ("train", "val"))
    assert (len(train), len(val), len(train | val)) == (15, 5, 20)
    assert splits.held_out


def test_an_image_of_two_jsons_is_refused(tmp_path):
    batches(tmp_path, 1, 2)
    content = json.loads((tmp_path / "b1/train.json").read_text())
    content["images"][0]["file_name"] = "b2/0.png"
    (tmp_path / "b1/train.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"2 of the json files have the image 'b2/0\.png'"):
        read_batches(tmp_path)


def test_a_list_does_not_go_with_several_jsons(tmp_path):
    batches(tmp_path, 1, 2)
    (tmp_path / "list.txt").write_text("b1/0.png")
    lists = {"train_list": "list.txt", "val_list": "list.txt"}
    with pytest.raises(InputError, match=r"config\.data\.train_file fits 2; leave the list out"):
        read_batches(tmp_path, **lists)


def test_a_pattern_that_fits_nothing_names_what_there_is(tmp_path):
    batches(tmp_path, 1)
    with pytest.raises(InputError, match=r"c\*/train\.json: does not exist; .*: b1/train\.json"):
        read_batches(tmp_path, train_file="c*/train.json")


def test_a_file_whose_name_has_a_patterns_characters_is_that_file(tmp_path):
    (tmp_path / "set [1]").mkdir()
    batches(tmp_path / "set [1]", 1)
    (tmp_path / "set [1]" / "b1/train.json").rename(tmp_path / "set [1]" / "b1/[t]*.json")
    splits = read_batches(tmp_path / "set [1]", train_file="b1/[t]*.json", val_file="b?/[[]t*")
    assert [len(records) for records in splits.records.values()] == [2, 2]


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
