"""The commands of docs/data.md read each public data set as its files come.

Small imitations of their folders, names and label encodings, by what docs/data.md says of them.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from fixtures_coco import box, data_folder, uncompressed
from PIL import Image

from trashseg_jax.build import mixed_class_map
from trashseg_jax.configs import default
from trashseg_jax.data import mix
from trashseg_jax.data.formats import FORMATS
from trashseg_jax.data.label_codec import decode_label
from trashseg_jax.data.records import load_features
from trashseg_jax.data.taxonomy import CLASSES, IGNORE_LABEL, load_class_map

PAGE = Path(__file__).parent.parent / "docs" / "data.md"
HEIGHT, WIDTH = 6, 8
ELEVEN = [*CLASSES[1:], "UNKNOWN"]


# The commands


def page():
    return PAGE.read_text()


def command(heading):
    """Returns the config of the first training command below a heading of the page."""
    section = page().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    text = section.replace("\\\n", " ").partition("-m trashseg_jax.main ")[2].partition("\n")[0]
    (preset,) = re.findall(r"--config=configs/reference\.py:(\w+)", text)
    config = default.get_config(preset)
    for key, value in re.findall(r"--config\.data\.(\w+)=(\S+)", text):
        config.data[key] = type(config.data[key])(value.strip("'"))
    return config.data


def read(data, folder):
    """Returns each split's label maps by the photographs' names, and the classes."""
    given = {key: data[key] for key in ("train_file", "val_file", "train_list", "val_list")}
    class_map = load_class_map(data.class_map)
    splits = FORMATS[data.format](data_folder(folder, class_map=class_map, **given))
    assert splits.problems == []
    labels = {
        split: {record.file_name: draw(record, len(class_map.classes)) for record in records}
        for split, records in splits.records.items()
    }
    return labels, class_map.classes


def draw(record, num_classes):
    features = load_features(record, num_classes=num_classes, skip_bad=False)
    return decode_label(features["label"]).tolist()


# What is in the files


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = np.random.default_rng(list(path.as_posix().encode()))  # one of its own
    Image.fromarray(drawn.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(path)


def label_image(path, pixels, palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(np.array(palette, np.uint8).tobytes())
    image.save(path)


def stripes(*values, ground=0, dtype=np.uint8):
    """Returns a picture of one value, with a column of each of the others from the left."""
    pixels = np.full((HEIGHT, WIDTH), ground, dtype)
    pixels[:, : len(values)] = values
    return pixels


def coco(names, columns, categories, *, flat=False, **more):
    """Returns a json: `columns` of an image are the category ids of its columns from the left.

    `categories` are names by id. `flat`: an outline is one list, as MJU-Waste has it, and the boxes
    are of another scale.
    """
    outlines = [
        (image, category, box(column, 0, 1, HEIGHT))
        for image, ids in enumerate(columns)
        for column, category in enumerate(ids)
    ]
    sizes = {"width": WIDTH, "height": HEIGHT}
    return more | {
        "images": [{"id": i, "file_name": name, **sizes} for i, name in enumerate(names)],
        "categories": [{"id": key, "name": name} for key, name in categories.items()],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "segmentation": outline if flat else [outline],
                "bbox": [9, 9, 99, 99],
                "iscrowd": 0,
            }
            for number, (image, category, outline) in enumerate(outlines)
        ],
    }


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


# The data sets: each writes its folder and returns the label maps, by split where files split


def taco(folder):
    names = ["batch_1/000000.jpg", "batch_1/000001.jpg", "batch_2/000000.JPG", "batch_2/000001.jpg"]
    for name in names:
        photo(folder / name)
    kinds = {0: "Aluminium foil", 5: "Clear plastic bottle", 58: "Unlabeled litter"}
    content = coco(names, [[0], [5, 58], [], [5]], kinds, scene_annotations=[], licenses=[])
    content["annotations"][0]["segmentation"] = uncompressed(stripes(1))
    write_json(folder / "annotations.json", content)
    metal, plastic = CLASSES.index("Metal"), CLASSES.index("Plastic")
    found = [stripes(metal), stripes(plastic, IGNORE_LABEL), stripes(), stripes(plastic)]
    return {"all": dict(zip(names, found, strict=True))}


def recycle_trash(folder):
    found = {}
    kinds = dict(enumerate(CLASSES[1:], 1))
    for split, name in (("train", "batch_01_vt/0021.jpg"), ("val", "batch_03/0007.jpg")):
        photo(folder / name)
        write_json(folder / f"{split}.json", coco([name], [[1, 10]], kinds, licenses=[]))
        found[split] = {name: stripes(1, 10)}
    return found


def recycle_trash_in_batches(folder):
    """Names with their folder in one json, without in the other: the page does not say which."""
    for batch, name in (("batch_01", "0000.jpg"), ("batch_02", "batch_02/0000.jpg")):
        photo(folder / batch / "0000.jpg")
        content = coco([name], [[2, 10]], dict(enumerate(ELEVEN)))
        write_json(folder / batch / "data.json", content)
    found = stripes(CLASSES.index("Paper pack"), IGNORE_LABEL)
    return {"all": {"batch_01/0000.jpg": found, "batch_02/0000.jpg": found}}


def uavvaste(folder):
    names = ["BATCH_d07_img_6400.jpg", "GOPR0028.JPG", "camera_img_1.jpg"]
    for name in names:
        photo(folder / "images" / name)
    content = coco(names, [[0], [0, 0], []], {0: "rubbish"}, info={}, licenses=[])
    write_json(folder / "annotations/annotations.json", content)
    lists = dict(zip(("train", "val", "test"), ([name] for name in names), strict=True))
    write_json(folder / "annotations/train_val_test_distribution_file.json", lists)
    return {"train": {names[0]: stripes(1)}, "val": {names[1]: stripes(1, 1)}}


def zerowaste(folder):
    kinds = {1: "rigid_plastic", 2: "cardboard", 3: "metal", 4: "soft_plastic"}
    found = {}
    for split, name in (("train", "09_frame_001000.PNG"), ("val", "05_frame_000001.PNG")):
        for part in (split, "test"):
            photo(folder / part / "data" / name)
            label_image(folder / part / "sem_seg" / name, stripes(1, 2, 3, 4))
            write_json(folder / part / "labels.json", coco([name], [[1, 2, 3, 4]], kinds))
        found[split] = {name: stripes(1, 2, 3, 4)}
    return found


def spectralwaste(folder, semantic=""):
    found = {}
    for split in ("train", "val", "test"):
        name = f"20220928_01_10514{len(split)}"
        photo(folder / "rgb" / split / f"{name}.png")
        (folder / "hyper" / split).mkdir(parents=True)
        (folder / "hyper" / split / f"{name}.tiff").write_bytes(b"224 bands")
        for labels in ("labels_rgb", "labels_hyper_lt"):
            value = 6 if labels == "labels_rgb" else 1
            label_image(folder / labels / split / f"{name}{semantic}.png", stripes(1, value))
        found[split] = {f"{name}.png": stripes(1, 6)}
    write_json(folder / "meta.json", {"categories": ["background", "film"], "palette": []})
    return {split: found[split] for split in ("train", "val")}


def spectralwaste_as_made(folder):
    """As the scripts of the data set write it, with an image of instances beside each label."""
    found = spectralwaste(folder, semantic="_semantic")
    for path in [*folder.glob("labels_*/*/*_semantic.png")]:
        instances = stripes(1024, 6145, dtype=np.uint16)
        label_image(Path(str(path).replace("_semantic", "_instance")), instances)
    return found


VOC = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128)]
VOC += [(0, 128, 128), (128, 128, 128), (64, 0, 0)]
# Its values in the order of the class map's classes.
BEACH = [2, 1, 3, 4, 5, 6, 7, 8]


def beachlitter(folder, *, colored=False):
    pixels = stripes(1, 3, 4, 5, 6, 7, 8, ground=2)
    for name in ("000001", "000108"):
        photo(folder / "images" / f"{name}.jpg")
        if colored:
            label_image(folder / "maskpngs" / f"{name}.png", np.array(VOC, np.uint8)[pixels])
        else:
            label_image(folder / "maskpngs" / f"{name}.png", pixels, VOC)
    found = np.searchsorted(BEACH[1:], pixels) + 1
    found[pixels == 2] = 0
    found[pixels == 1] = 1
    return {"all": {"000001.jpg": found, "000108.jpg": found}}


def beachlitter_in_color(folder):
    return beachlitter(folder, colored=True)


def mju_waste(folder):
    found = {}
    for split in ("train", "val", "test"):
        name = f"2019-12-04_16_31_35-4{len(split)}"
        photo(folder / "JPEGImages" / f"{name}_color.png")
        photo(folder / "DepthImages" / f"{name}_depth.png")
        label_image(folder / "SegmentationClass" / f"{name}_color.png", stripes(1))
        content = coco([f"{name}_color.png"], [[0, 0]], {0: "Rubbish"}, flat=True, licenses={})
        write_json(folder / f"{split}.json", content)
        (folder / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (folder / f"ImageSets/Segmentation/{split}.txt").write_text(f"{name}_color\n")
        found[split] = {f"{name}_color.png": stripes(1, 1)}
    return {split: found[split] for split in ("train", "val")}


SETS = [
    ("Recycle Trash: the competition", recycle_trash),
    ("Recycle Trash: the whole", recycle_trash_in_batches),
    ("TACO", taco),
    ("UAVVaste", uavvaste),
    ("ZeroWaste-f", zerowaste),
    ("SpectralWaste", spectralwaste),
    ("SpectralWaste", spectralwaste_as_made),
    ("BeachLitter", beachlitter),
    ("BeachLitter", beachlitter_in_color),
    ("MJU-Waste", mju_waste),
]


@pytest.mark.parametrize(("heading", "write"), SETS)
def test_the_command_of_the_page_reads_the_files_as_they_come(tmp_path, heading, write):
    expected = write(tmp_path)
    found, _ = read(command(heading), tmp_path)
    if "all" in expected:
        found = {"all": {**found["train"], **found["val"]}}
    assert found == {
        split: {name: labels.tolist() for name, labels in of_split.items()}
        for split, of_split in expected.items()
    }


def test_every_section_of_a_data_set_has_an_imitation():
    commands = re.findall(r"\n## ([^\n]+)\n(?:(?!\n## ).)*?-m trashseg_jax\.main", page(), re.S)
    assert {heading for heading, _ in SETS} <= set(commands)
    assert set(commands) - {heading for heading, _ in SETS} == {"On the eleven classes"}


def test_zerowaste_mixed_in_leaves_out_what_it_does_not_label(tmp_path):
    zerowaste(tmp_path)
    entry = mix.parse(f"masks:{tmp_path}:zerowaste_as_recycle_trash=0.2")[0]
    class_map = mixed_class_map(entry, CLASSES)
    splits = FORMATS["masks"](data_folder(tmp_path, class_map=class_map, val_file=""))
    (record,) = splits.records["train"]
    kinds = ("Plastic", "Paper", "Metal", "Plastic bag")
    expected = stripes(*map(CLASSES.index, kinds), ground=IGNORE_LABEL)
    assert draw(record, len(CLASSES)) == expected.tolist()
