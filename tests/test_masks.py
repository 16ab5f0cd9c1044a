import json

import numpy as np
import pytest
from fixtures_coco import data_folder
from PIL import Image, ImageOps

from configs import default
from trashseg_jax import build
from trashseg_jax.data.formats import masks
from trashseg_jax.data.label_codec import decode_label
from trashseg_jax.data.records import load_features
from trashseg_jax.data.taxonomy import CLASSES, load_class_map
from trashseg_jax.errors import InputError

CLASS_MAP = load_class_map("recycle_trash")
SIZE = (4, 6)


def write(folder, *names, value=1):
    """Writes images; PNGs as labels of one value, other files as photographs."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = SIZE if name.endswith((".png", ".PNG")) else (*SIZE, 3)
        Image.fromarray(np.full(shape, value, np.uint8)).save(path)


def read(folder, **options):
    return masks.read_splits(data_folder(folder, **options))


def names(splits):
    """Returns each split's photographs with their labels, as paths of the data folder's."""
    return {
        split: {record.file_name: record.source.path.name for record in records}
        for split, records in splits.records.items()
    }


def refusal(folder, **options):
    with pytest.raises(InputError) as error:
        read(folder, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# Layouts

CITY, ENDS = "aachen/aachen_000", ("_leftImg8bit.jpg", "_gtFine_labelIds.png")
LAYOUTS = {
    "images and labels": ("images/{}/a.jpg", "labels/{}/a.png", "train", "val"),
    "split first": ("{}/images/a.jpg", "{}/masks/a.png", "train", "valid"),
    "ADE20K": ("images/{}/a.jpg", "annotations/{}/a.png", "training", "validation"),
    "Cityscapes": (
        *(f"leftImg8bit/{{}}/{CITY}{ENDS[0]}", f"gtFine/{{}}/{CITY}{ENDS[1]}", "train", "val"),
    ),
    "ZeroWaste-f": ("{}/data/a.PNG", "{}/sem_seg/a.PNG", "train", "val"),
    "SpectralWaste": ("rgb/{}/a.tiff", "labels_rgb/{}/a_semantic.png", "train", "val"),
    "mmseg": ("img_dir/{}/a.jpg", "ann_dir/{}/a.png", "train", "val"),
    "CamVid": ("{}/a.jpg", "{}annot/a.png", "train", "val"),
    "Roboflow": ("{}/a.jpg", "{}/a_mask.png", "train", "valid"),
    "one folder": ("{}/a.jpg", "{}/a.png", "train", "val"),
    "with underscores": ("train_images/a.jpg", "train_masks/a.png", "train", ""),
    "whatever the case": ("Images/{}/a.jpg", "Masks/{}/a.png", "Train", "Val"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_in_use_are_found(tmp_path, layout):
    photo, label, *splits = LAYOUTS[layout]
    for split in filter(None, splits):
        for index in ("1", "2", "3"):
            write(tmp_path, photo.format(split).replace("/a", f"/a{index}"))
            write(tmp_path, label.format(split).replace("/a", f"/a{index}"))
    found = read(tmp_path)
    assert found.problems == []
    sizes = {split: len(records) for split, records in found.records.items()}
    assert sizes == ({"train": 3, "val": 3} if splits[1] else {"train": 2, "val": 1})
    for record in found.records["train"]:
        assert record.path != record.source.path
        assert splits[0].lower() in str(record.source.path.relative_to(tmp_path)).lower()


def test_a_split_of_each_is_of_its_own_folder(tmp_path):
    write(tmp_path, "images/train/a.jpg", "images/val/b.jpg")
    write(tmp_path, "labels/train/a.png", "labels/val/b.png")
    assert names(read(tmp_path)) == {"train": {"a.jpg": "a.png"}, "val": {"b.jpg": "b.png"}}


def test_voc_is_split_by_its_lists_and_what_they_lack_is_no_fault(tmp_path):
    photos = [f"JPEGImages/{index}.jpg" for index in range(9)]
    write(tmp_path, *photos, *(f"SegmentationClass/{index}.png" for index in (2, 5, 7)))
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("7\n2\n")
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("5\n")
    found = read(tmp_path)
    assert names(found) == {
        "train": {"2.jpg": "2.png", "7.jpg": "7.png"},
        "val": {"5.jpg": "5.png"},
    }
    assert found.problems == []


def test_paddleseg_lists_have_a_column_for_labels(tmp_path):
    write(tmp_path, "JPEGImages/my a.jpg", "JPEGImages/b.jpg", "Annotations/my a.png")
    write(tmp_path, "Annotations/b.png")
    (tmp_path / "train_list.txt").write_text("JPEGImages/b.jpg Annotations/b.png\r\n\n")
    (tmp_path / "val_list.txt").write_text("JPEGImages/my a.jpg\n")
    assert names(read(tmp_path)) == {"train": {"b.jpg": "b.png"}, "val": {"my a.jpg": "my a.png"}}


def test_folders_and_lists_may_be_named(tmp_path):
    write(tmp_path, "x/a.jpg", "x/b.jpg", "y/a_id.png", "y/b_id.png", "y/a_color.png", "z/c.jpg")
    write(tmp_path, "z/c_id.png")
    options = {"train_images": "x", "train_labels": str(tmp_path / "y"), "label_suffix": "_id.png"}
    vals = {"val_images": "z", "val_labels": "z"}
    expected = {"train": {"a.jpg": "a_id.png", "b.jpg": "b_id.png"}, "val": {"c.jpg": "c_id.png"}}
    assert names(read(tmp_path, **options, **vals)) == expected
    (tmp_path / "mine.txt").write_text("a.jpg\n")
    (tmp_path / "yours.txt").write_text("./x/b\n")
    expected = {"train": {"a.jpg": "a_id.png"}, "val": {"b.jpg": "b_id.png"}}
    lists = {"train_list": "mine.txt", "val_list": "yours.txt"}
    assert names(read(tmp_path, **options, **lists)) == expected


def test_a_share_is_held_out_where_nothing_splits(tmp_path):
    stems = [f"{index:02}" for index in range(20)]
    write(tmp_path, *(f"images/{stem}.jpg" for stem in stems))
    write(tmp_path, *(f"masks/{stem}.png" for stem in stems))
    found = names(read(tmp_path, val_fraction=0.25))
    assert (len(found["train"]), len(found["val"])) == (15, 5)
    assert sorted({**found["train"], **found["val"]}) == [f"{stem}.jpg" for stem in stems]


def test_hidden_files_previews_and_other_kinds_are_no_labels(tmp_path):
    write(tmp_path, "images/a.jpg", "images/b.jpg", "labels/a.png", "labels/b.png", "labels/a.jpg")
    for name in ("images/._a.jpg", "labels/.b.png", "labels/a.json", "images/Thumbs.db"):
        (tmp_path / name).write_bytes(b"")
    found = names(read(tmp_path, val_fraction=0.5))
    assert {**found["train"], **found["val"]} == {"a.jpg": "a.png", "b.jpg": "b.png"}


def test_a_place_that_is_not_found_says_where_was_looked(tmp_path):
    write(tmp_path, "photos/a.jpg", "truth/a.png")
    message = refusal(tmp_path)
    assert str(tmp_path) in message
    for name in ("JPEGImages", "sem_seg", "train", "--config.data.train_images"):
        assert name in message


def test_two_possible_places_are_refused_with_both(tmp_path):
    write(tmp_path, "images/train/a.jpg", "labels/train/a.png", "masks/train/a.png")
    message = refusal(tmp_path)
    assert "images/train with labels/train; images/train with masks/train" in message


# What is refused


def test_photographs_without_labels_and_the_reverse_are_named(tmp_path):
    write(tmp_path, *(f"images/{name}.jpg" for name in "abcdef"), "labels/a.png", "labels/b.png")
    message = refusal(tmp_path)
    assert "4 files without a label" in message
    assert "'c.jpg', 'd.jpg', 'e.jpg', ..." in message
    for name in "cdef":
        (tmp_path / f"images/{name}.jpg").unlink()
    write(tmp_path, "labels/lone.png")
    message = refusal(tmp_path)
    assert f"{tmp_path / 'labels'}: 1 file without a photograph" in message
    assert "'lone.png'" in message


def test_skip_bad_leaves_them_out_and_lists_them(tmp_path):
    write(tmp_path, "images/a.jpg", "images/b.jpg", "images/c.jpg")
    write(tmp_path, "labels/a.png", "labels/b.png", "labels/d.png")
    found = read(tmp_path, skip_bad=True, val_fraction=0.5)
    assert sum(len(records) for records in found.records.values()) == 2
    assert [line.partition(":")[0] for line in found.problems] == [
        *(str(tmp_path / "images/c.jpg"), str(tmp_path / "labels/d.png"))
    ]


def test_names_that_never_match_are_refused_with_examples(tmp_path):
    write(tmp_path, "images/a.jpg", "labels/mask-of-a.png")
    message = refusal(tmp_path, skip_bad=True)
    assert "'a.jpg'" in message
    assert "'mask-of-a.png'" in message
    assert "label_suffix" in message


def test_two_photographs_of_one_name_are_refused_with_both(tmp_path):
    write(tmp_path, "images/a.jpg", "images/a.bmp", "images/b.jpg", "labels/a.png", "labels/b.png")
    assert "'a.bmp', 'a.jpg'" in refusal(tmp_path)


def test_a_list_may_use_bare_names_where_only_one_file_has_it(tmp_path):
    for name in ("x/a", "y/a", "y/b"):
        write(tmp_path, f"images/{name}.jpg", f"labels/{name}.png")
    (tmp_path / "train.txt").write_text("b\n")
    (tmp_path / "val.txt").write_text("y/a.jpg\n")
    assert names(read(tmp_path)) == {"train": {"y/b.jpg": "b.png"}, "val": {"y/a.jpg": "a.png"}}
    (tmp_path / "val.txt").write_text("a.jpg\n")
    assert "line 1 is 'a.jpg', which is not in the data set" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ("a\nx\n", "line 2 is 'x', which is not in the data set"),
        ("lone.jpg\n", "line 1 is 'lone.jpg', which is not in the data set"),
        ("lone.png\n", "line 1 is 'lone.png', which has no photograph"),
        ("a\n\na.jpg\n", "line 3 lists 'a.jpg', as line 1 does"),
        ("a.jpg b.png\n", "line 1 pairs 'a.jpg' with 'b.png'"),
        ("c\n", "1 file without a label"),
        ("", "names no image"),
    ],
)
def test_a_faulty_list_is_refused_with_its_line(tmp_path, lines, named):
    write(tmp_path, "images/a.jpg", "images/b.jpg", "images/c.jpg")
    write(tmp_path, "labels/a.png", "labels/b.png", "labels/lone.png")
    (tmp_path / "list.txt").write_text(lines)
    assert named in refusal(tmp_path, train_list="list.txt", val_list="list.txt")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"train_images": "images"}, "config.data.train_images='images' and"),
        ({"val_images": "images", "val_labels": "labels"}, "those of train"),
        ({"train_images": "images", "train_labels": "nowhere"}, "nowhere: is not a folder"),
        ({"val_list": "list.txt"}, "train_list"),
        ({"train_list": "absent.txt"}, "absent.txt: can't be read"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, named):
    write(tmp_path, "images/a.jpg", "labels/a.png")
    (tmp_path / "list.txt").write_text("a")
    assert named in refusal(tmp_path, **options)


def test_a_map_without_values_and_colours_is_refused(tmp_path):
    assert 'neither "values" nor "colors"' in refusal(tmp_path, class_map=load_class_map("taco"))


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    assert "elsewhere: is not a folder" in refusal(tmp_path / "elsewhere")


# Through the whole preparation


def prepare(folder, **options):
    config = default.get_config("masks")
    own = {"classes": CLASSES, "values": {"0": "Background", "7": "Metal"}}
    (folder / "map.json").write_text(json.dumps(own))
    given = {"dir": str(folder), "class_map": str(folder / "map.json"), "val_fraction": 0.5}
    config.data.update({**given, "cache_dir": str(folder / "cache"), **options})
    return build.build_data(config)


def test_labels_are_prepared_as_they_are_with_pixels_and_pieces_counted(tmp_path):
    label = np.zeros((5, 8), np.uint8)
    label[0, :2] = label[3, 4:] = label[2, 3] = 7  # the last two touch at a corner
    label[4, 0] = 255
    for stem in "ab":
        write(tmp_path, f"images/{stem}.jpg")
        Image.new("RGB", (8, 5)).save(tmp_path / f"images/{stem}.jpg")
        (tmp_path / "labels").mkdir(exist_ok=True)
        Image.fromarray(label).save(tmp_path / f"labels/{stem}.png")
    data = prepare(tmp_path)
    expected = np.where(label == 7, 4, label)
    for split in ("train", "val"):
        (record,) = data.source(split)
        np.testing.assert_array_equal(decode_label(record["label"]), expected)
        pixels, objects = data.counts(split)
        assert pixels[0].tolist() == [32, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0]
        assert objects[0].tolist() == [0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0]
    again = prepare(tmp_path)
    assert again.builder.data_path == data.builder.data_path
    Image.fromarray(label[::-1]).save(tmp_path / "labels/a.png")
    assert prepare(tmp_path).builder.data_path != data.builder.data_path


def test_a_faulty_label_stops_the_preparation_or_is_skipped(tmp_path):
    write(tmp_path, *(f"images/{stem}.jpg" for stem in "abcdef"))
    write(tmp_path, *(f"labels/{stem}.png" for stem in "abcde"), value=7)
    write(tmp_path, "labels/f.png", value=8)
    with pytest.raises(InputError, match=r"f\.png: has the value 8 \(24 pixels\)"):
        prepare(tmp_path)
    data = prepare(tmp_path, skip_bad=True)
    assert [line.partition(":")[0] for line in data.problems] == [str(tmp_path / "labels/f.png")]


def test_a_label_of_the_stored_photograph_is_turned_with_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.arange(24, dtype=np.uint8).reshape(SIZE) % 11
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "images/a.jpg", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "labels/a.png")
    ((record,),) = (r for r in read(tmp_path, val_fraction=0.0).records.values() if r)
    features = load_features(record, num_classes=11, skip_bad=False)
    turned = ImageOps.exif_transpose(Image.open(record.path)).size[::-1]
    assert decode_label(features["label"]).shape == turned == (6, 4)
    np.testing.assert_array_equal(decode_label(features["label"]), np.rot90(pixels, -1))


def test_a_data_set_of_masks_needs_a_map_of_its_own(tmp_path):
    write(tmp_path, "images/a.jpg", "labels/a.png")
    with pytest.raises(InputError, match=r"--config\.data\.class_map must name a json file"):
        prepare(tmp_path, class_map=default.get_config("masks").data.class_map)
