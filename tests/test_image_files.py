"""Where images are looked for, by which names; odd names one by one are in malformed.py."""

import io
import json
from pathlib import Path

import pytest
from fixtures_coco import box, data_folder, write_coco_folder
from PIL import Image

from trashseg_jax.data import builder
from trashseg_jax.data.formats import coco
from trashseg_jax.errors import InputError

FILE = io.BytesIO()
Image.new("RGB", (9, 8)).save(FILE, "PNG")
PNG = FILE.getvalue()


def write(folder, json_name, images, *, below=""):
    """Writes a json that lists `images` and the images, in the folder `below`."""
    annotations = [
        {"file_name": name, "category": "Paper", "segmentation": [box(0, 0, 2, 2)]}
        for name in images
    ]
    files = dict.fromkeys(images, PNG)
    written = {"annotations": annotations, "json_name": "written.json"}
    json_file = write_coco_folder(folder / below, images=files, **written)
    (folder / json_name).parent.mkdir(parents=True, exist_ok=True)
    json_file.rename(folder / json_name)


def paths(folder, **options):
    """Returns the images' paths below the folder, and their names, by split."""
    splits, problems, _ = coco.read_splits(data_folder(folder, **options))
    assert problems == []
    return {
        split: [(one.path.relative_to(folder).as_posix(), one.file_name) for one in records]
        for split, records in splits.items()
    }


LAYOUTS = {
    "Roboflow": ("{}/_annotations.coco.json", "{}", ("train", "valid")),
    "COCO": ("annotations/instances_{}2017.json", "{}2017", ("train", "val")),
    "COCO in images": ("annotations/instances_{}.json", "images/{}", ("train", "val")),
    "Datumaro": ("annotations/instances_{}.json", "images/{}", ("part_1", "part_2")),
    "CVAT": ("{}/annotations/instances_default.json", "{}/images/default", ("train", "val")),
    "FiftyOne": ("{}/labels.json", "{}/data", ("train", "validation")),
    "Supervisely": ("{}/annotations/instances.json", "{}/images", ("ds0", "ds1")),
    "MMSegmentation": ("{}.json", "images/{}", ("training", "validation")),
    "a folder a split": ("{}.json", "{}", ("train", "val")),
    "images in a split's folder": ("{}.json", "{}/images", ("train", "val")),
    "names from the data folder": ("jsons/{}.json", "", ("train", "val")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_are_found_where_tools_put_them(tmp_path, layout):
    json_name, below, splits = LAYOUTS[layout]
    files = {}
    for key, split in zip(("train", "val"), splits, strict=True):
        files[f"{key}_file"] = json_name.format(split)
        write(tmp_path, files[f"{key}_file"], [f"{key}.png", "b/1.png"], below=below.format(split))
    found = paths(tmp_path, **files)
    for key, split in zip(("train", "val"), splits, strict=True):
        folder = Path(below.format(split))
        names = (f"{key}.png", "b/1.png")
        assert found[key] == [((folder / name).as_posix(), name) for name in names]


def test_an_image_beside_its_json_goes_before_one_of_the_same_name_in_the_data_folder(tmp_path):
    write(tmp_path, "train/a.json", ["1.png"], below="train")
    write(tmp_path, "val.json", ["1.png"])
    found = paths(tmp_path, train_file="train/a.json")
    assert found == {"train": [("train/1.png", "1.png")], "val": [("1.png", "1.png")]}


def test_a_folder_that_is_named_is_the_only_one_and_may_lie_outside(tmp_path):
    data, other = tmp_path / "data", tmp_path / "elsewhere"
    for folder in (data, other):
        write(folder, "train.json", ["1.png"])
    write(data, "val.json", ["2.png"], below="photos of val")
    given = data_folder(data, train_images=str(other), val_images="photos of val")
    splits = coco.read_splits(given).records
    assert [one.path for one in splits["train"]] == [other / "1.png"]
    assert [one.path for one in splits["val"]] == [data / "photos of val" / "2.png"]


def test_a_named_folder_that_is_not_there_is_refused(tmp_path):
    write(tmp_path, "train.json", ["1.png"])
    with pytest.raises(InputError, match=r"none: is not a folder; .*data.train_images='none'"):
        coco.read_coco(
            tmp_path / "train.json", data_folder(tmp_path, train_images="none"), split="train"
        )


def test_a_link_out_of_the_folder_is_refused_unless_it_is_named(tmp_path):
    write(tmp_path / "data", "train.json", ["1.png"], below="photos")
    (tmp_path / "data" / "photos").rename(tmp_path / "photos")
    (tmp_path / "data" / "images").symlink_to(tmp_path / "photos")
    given = data_folder(tmp_path / "data")
    with pytest.raises(InputError, match=r"is a link that leads out .*--config.data.train_images"):
        coco.read_coco(tmp_path / "data" / "train.json", given, split="train")
    given = data_folder(tmp_path / "data", train_images="images")
    (one,), _ = coco.read_coco(tmp_path / "data" / "train.json", given, split="train")
    assert one.path.read_bytes() == (tmp_path / "photos" / "1.png").read_bytes()


def test_absent_images_are_counted_and_where_was_looked_is_said_once(tmp_path):
    write(tmp_path, "jsons/train.json", ["1.png", "2.png", "3.png"], below="photos")
    (tmp_path / "photos" / "2.png").rename(tmp_path / "2.png")
    given = data_folder(tmp_path)
    with pytest.raises(InputError) as error:
        coco.read_coco(tmp_path / "jsons" / "train.json", given, split="train")
    line = str(error.value)
    for part in (
        "image 0 ('1.png') is absent",
        f"looked in {tmp_path}/jsons, {tmp_path}, and there in images, images/train, ",
        "--config.data.train_images",
        "did you mean 'photos/1.png'?",
        "one of 2 such images",
    ):
        assert part in line
    assert len(line) < 800


def test_images_that_are_found_by_two_spellings_of_a_name_are_one_file(tmp_path):
    write(tmp_path, "train.json", ["a b.png", "c.png"])
    content = json.loads((tmp_path / "train.json").read_text())
    content["images"][1]["file_name"] = "a%20b.png"
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"image 0 .* is the same file as image 1"):
        coco.read_coco(tmp_path / "train.json", data_folder(tmp_path), split="train")


# Lists of a split's images

NAMES = ["a/1.png", "a/2.jpg", "b/1.png", "b/3.png", "4"]
LISTS = {
    "UAVVaste": ("json", {"train": ["2.jpg", "a/1.png"], "val": ["3.png"], "test": ["b/1.png"]}),
    "other names of splits": ("json", {"Training": ["a/1.png", "2.jpg"], "validation": ["b/3"]}),
    "by name": ("json", {"a/1.png": "train", "a/2.jpg": "train", "b/3.png": "val", "4": "test"}),
}


def lists(folder, names=NAMES, **options):
    write(folder, "all.json", names)
    splits, *_ = coco.read_splits(
        data_folder(folder, train_file="all.json", val_file="./all.json", **options)
    )
    return {split: [one.file_name for one in records] for split, records in splits.items()}


@pytest.mark.parametrize("name", LISTS)
def test_one_json_of_lists_splits_one_json_of_images_in_its_order(tmp_path, name):
    ending, content = LISTS[name]
    (tmp_path / f"lists.{ending}").write_text(json.dumps(content))
    found = lists(tmp_path, train_list=f"lists.{ending}", val_list=f"lists.{ending}")
    assert found == {"train": ["a/1.png", "a/2.jpg"], "val": ["b/3.png"]}


@pytest.mark.parametrize(
    "text",
    [
        "a/1.png\na/2.jpg\n",
        "\ufeff# a comment\r\n\r\n  a\\2.jpg \r\na/1\r\n",
        "./images/a/2.jpg\n/mnt/data/a/1.png",
        '["a/1.png", "2"]',
        '[{"file_name": "a/1.png"}, {"file_name": "a/2.jpg"}]',
    ],
)
def test_a_list_of_names_may_be_written_in_many_ways(tmp_path, text):
    (tmp_path / "train.txt").write_text(text, encoding="utf-8")
    (tmp_path / "val.txt").write_text("3.png")
    found = lists(tmp_path, train_list="train.txt", val_list="val.txt")
    assert found == {"train": ["a/1.png", "a/2.jpg"], "val": ["b/3.png"]}


def test_a_list_may_have_ids_where_no_file_is_called_so(tmp_path):
    (tmp_path / "ids.json").write_text('{"train": [0, 2], "val": ["1"]}')
    both = {"train_list": "ids.json", "val_list": "ids.json"}
    found = lists(tmp_path, names=["x.png", "y.png", "z.png"], **both)
    assert found == {"train": ["x.png", "z.png"], "val": ["y.png"]}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("1.png", r"train.txt: lists '1.png', which may be image 0 \('a/1.png'\) and image 2"),
        (
            "a/1.png\nc/2.jpg\n9.png",
            r"all.json: has no image 'c/2.jpg' \(and 1 more\), which .*txt",
        ),
        ("", "train.txt: lists no image of train"),
        ("{}", "train.txt: has no list of the images of train; it must be"),
        ('{"test": ["a/1.png"]}', "train.txt: has no list of the images of train"),
        ("[1.5]", "train.txt: lists 1.5; it must be the name of an image"),
        ("[", "train.txt: is not json"),
    ],
)
def test_a_list_that_can_not_be_followed_is_refused(tmp_path, text, named):
    (tmp_path / "train.txt").write_text(text)
    (tmp_path / "val.txt").write_text("3.png")
    with pytest.raises(InputError, match=named):
        lists(tmp_path, train_list="train.txt", val_list="val.txt")


def test_a_listed_name_that_is_no_image_is_reported_where_bad_ones_are_skipped(tmp_path):
    (tmp_path / "train.txt").write_text("a/1.png\n9.png")
    (tmp_path / "val.txt").write_text("3.png")
    found = lists(tmp_path, train_list="train.txt", val_list="val.txt", skip_bad=True)
    assert found == {"train": ["a/1.png"], "val": ["b/3.png"]}


def test_one_json_needs_both_lists_or_none(tmp_path):
    (tmp_path / "val.txt").write_text("3.png")
    with pytest.raises(InputError, match=r"train_list='' and val_list='val.txt': name both"):
        lists(tmp_path, val_list="val.txt")


def test_an_absent_list_is_refused_with_its_option(tmp_path):
    with pytest.raises(InputError, match=r"none.txt: can't be read .*config.data.train_list"):
        lists(tmp_path, train_list="none.txt", val_list="none.txt")


@pytest.mark.parametrize("option", ["train_list", "train_images", "crowd", "boxes", "exif"])
def test_what_changes_the_records_changes_the_fingerprint(tmp_path, option):
    write(tmp_path, "train.json", ["1.png", "2.png"])
    write(tmp_path, "val.json", ["3.png"])
    (tmp_path / "list.txt").write_text("1.png")
    values = {"train_list": "list.txt", "train_images": ".", "exif": "mixed"}
    folders = [
        data_folder(tmp_path),
        data_folder(tmp_path, **{option: values.get(option, "ignore")}),
    ]
    prints = [builder.fingerprint(folder, coco.read_splits(folder)) for folder in folders]
    assert prints[0] != prints[1]


def test_a_change_of_the_list_changes_the_fingerprint(tmp_path):
    write(tmp_path, "train.json", ["1.png", "2.png"])
    write(tmp_path, "val.json", ["3.png"])
    folder, prints = data_folder(tmp_path, train_list="list.txt"), set()
    for name in ("1.png", "2.png"):
        (tmp_path / "list.txt").write_text(name)
        prints.add(builder.fingerprint(folder, coco.read_splits(folder)))
    assert len(prints) == 2
