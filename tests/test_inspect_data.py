import functools
import io
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import fixtures_browser
import inspect_data as script
import numpy as np
import pytest
from fixtures_browser import opened, overflow
from fixtures_coco import box, compressed, write_coco_folder
from inspecting import choice, suspicious, twins
from inspecting.objects import find_masks, find_owners
from inspecting.page import format_page
from PIL import Image, ImageEnhance

from configs import default
from trashseg_jax import build, train
from trashseg_jax.data.records import load_example
from trashseg_jax.data.taxonomy import CLASSES
from trashseg_jax.errors import InputError

ROOT = Path(__file__).parent.parent


def read(folder, dataset="coco", **options):
    """The page's findings of a folder, and its config."""
    config = default.get_config(dataset)
    config.data.update({"dir": str(folder), **options})
    return script.inspect(config, script.build_folder(config), []), config


def noise(seed, size=(40, 60)):
    """A picture that a JPEG keeps: blurred noise."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


def jpeg(pixels, quality):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def write_split(folder, split, images, annotations, categories=CLASSES[1:]):
    write_coco_folder(
        folder,
        images={f"{split}/{name}": image for name, image in images.items()},
        annotations=[
            {"file_name": f"{split}/{name}", "category": category, "segmentation": outline}
            for name, category, outline in annotations
        ],
        categories=categories,
        json_name=f"{split}.json",
    )


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    """Two splits of boxes that overlap: (split, image) to (class, x, y, width, height)."""
    folder = tmp_path_factory.mktemp("boxes")
    rng = np.random.default_rng(3)
    drawn = {}
    for split, count in (("train", 5), ("val", 2)):
        names = [f"{n}.png" for n in range(count)]
        for name in names:
            places = zip(rng.integers(0, 20, 6), rng.integers(0, 15, 6), strict=True)
            sizes = zip(rng.integers(3, 18, 6), rng.integers(3, 18, 6), strict=True)
            classes = rng.choice([2, 6, 9], 6)
            drawn[split, name] = [
                (int(k), *map(int, place), *map(int, size))
                for k, place, size in zip(classes, places, sizes, strict=True)
            ]
        write_split(
            folder,
            split,
            {name: noise(n + 10 * (split == "val")) for n, name in enumerate(names)},
            [(name, CLASSES[k], [box(*rest)]) for name in names for k, *rest in drawn[split, name]],
        )
    return folder, drawn


@pytest.fixture(scope="module")
def prepared_boxes(boxes):
    """They, as a training has them: a function that returns a new config, and the data."""

    def make():
        config = default.get_config("coco")
        config.data.update({"dir": str(boxes[0]), "cache_dir": str(boxes[0] / "cache")})
        return config

    return make, build.build_data(make())


def paint_slowly(objects, height=40, width=60):
    """The object on top at each pixel, -1: none. Large ones first, equals in their order."""
    areas = [min(w, width - x) * min(h, height - y) for _, x, y, w, h in objects]
    owners = np.full((height, width), -1)
    for place in sorted(range(len(objects)), key=lambda n: -areas[n]):
        _, x, y, w, h = objects[place]
        for row in range(y, min(y + h, height)):
            for column in range(x, min(x + w, width)):
                owners[row, column] = place
    return owners, areas


def test_counts_are_those_of_a_brute_force_and_of_a_training(boxes, prepared_boxes):
    folder, drawn = boxes
    found, (_, data) = read(folder)[0], prepared_boxes
    for split in ("train", "val"):
        images = found.scan.of_split(split)
        pixels, objects = data.counts(split)
        np.testing.assert_array_equal([one.facts.pixels for one in images], pixels)
        np.testing.assert_array_equal([one.facts.counted for one in images], objects)
        assert [(one.record.file_name, one.facts.digest) for one in images] == data.images(split)
        for one in images:
            placed = drawn[split, Path(one.record.file_name).name]
            owners, areas = paint_slowly(placed)
            labels = np.array([0, *(k for k, *_ in placed)])[owners + 1]
            np.testing.assert_array_equal(one.facts.pixels, np.bincount(labels.ravel(), None, 11))
            assert [thing.area for thing in one.facts.objects] == areas
            assert [thing.visible for thing in one.facts.objects] == [
                (owners == place).sum() for place in range(len(placed))
            ]


def test_what_lies_on_top_is_what_is_painted(boxes):
    found, _ = read(boxes[0])
    for one in found.scan.images:
        _, label = load_example(one.record, num_classes=11)
        masks = find_masks(one.record.source, label.classes)
        owners = find_owners(one.record.source, masks, height=40, width=60)
        np.testing.assert_array_equal(np.array([*masks.labels, 0])[owners], label.classes)


def test_label_images_have_pieces_as_objects(tmp_path):
    label = np.zeros((20, 30), np.uint8)
    label[2:6, 3:9], label[10:15, 3:9], label[2:6, 20:25] = 1, 1, 2
    for kind, pixels in (("images", noise(0, (20, 30))), ("labels", label)):
        (tmp_path / "train" / kind).mkdir(parents=True)
        for name in ("a.png", "b.png"):
            Image.fromarray(pixels).save(tmp_path / "train" / kind / name)
    own_map = tmp_path / "map.json"
    own_map.write_text(json.dumps({"classes": ["b", "x", "y"], "values": {"1": "x", "2": "y"}}))
    found, _ = read(tmp_path, "masks", class_map=str(own_map), val_fraction=0.5)
    first = found.scan.images[0].facts
    assert [(one.label, one.box, one.area, one.visible) for one in first.objects] == [
        (1, (3, 2, 6, 4), 24, 24),
        (1, (3, 10, 6, 5), 30, 30),
        (2, (20, 2, 5, 4), 20, 20),
    ]


# Images that look alike


def test_an_image_saved_anew_is_found_and_another_one_is_not(tmp_path):
    pixels = noise(1, (80, 120))
    brighter = np.asarray(ImageEnhance.Brightness(Image.fromarray(pixels)).enhance(1.1))
    half = np.asarray(Image.fromarray(pixels).resize((60, 40)))
    first = {
        "a.jpg": jpeg(pixels, 95),
        "b.jpg": jpeg(noise(2, (80, 120)), 95),
        "c.jpg": jpeg(half, 90),
    }
    val = {"d.jpg": jpeg(pixels, 40), "e.jpg": jpeg(brighter, 80), "f.jpg": jpeg(noise(3), 95)}
    write_split(tmp_path, "train", first, [])
    write_split(tmp_path, "val", val, [])
    found, _ = read(tmp_path)
    (group,) = found.twins
    names = [found.scan.images[place].record.file_name for place in group.places]
    assert names == ["train/a.jpg", "train/c.jpg", "val/d.jpg", "val/e.jpg"]
    assert group.across
    assert not group.same


def test_groups_across_splits_come_first_and_copies_are_named_as_such():
    hashes = [0, 0, 0, 2**64 - 1, 2**64 - 2, 0xFFFF]
    digests = ["a", "a", "a", "b", "c", "d"]
    groups = twins.find_twins(hashes, digests, ["t", "t", "t", "t", "v", "t"], distance=1)
    assert groups == [
        twins.Twins([3, 4], same=False, across=True),
        twins.Twins([0, 1, 2], same=True, across=False),
    ]


@pytest.mark.parametrize("block", [3, 1024])
def test_close_hashes_are_those_of_a_brute_force(monkeypatch, block):
    monkeypatch.setattr(twins, "BLOCK", block)
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**8, 40, dtype=np.uint64)
    pairs = {
        (i, j)
        for i in range(40)
        for j in range(i + 1, 40)
        if bin(int(hashes[i]) ^ int(hashes[j])).count("1") <= 2
    }
    assert {*map(tuple, twins.find_close(hashes, distance=2).tolist())} == pairs


def test_the_hash_is_that_of_imagehash():
    imagehash = pytest.importorskip("imagehash", reason="pip install ImageHash")
    for seed in range(20):
        image = Image.fromarray(noise(seed, (90, 70)))
        assert twins.perceptual_hash(image) == int(str(imagehash.phash(image)), 16)


# Suspicious annotations


def test_each_kind_of_suspicion_is_found_and_nothing_else_is(tmp_path):
    ring = np.zeros((40, 60), np.uint8)
    ring[5:25, 5:25] = 1
    annotations = [
        ("empty.png", "Paper", [box(70, 5, 10, 10)]),
        ("tiny.png", "Metal", [box(5, 5, 1, 1)]),
        ("whole.png", "Paper", [box(0, 0, 60, 39)]),
        ("outside.png", "Glass", [box(50, 10, 30, 10)]),
        ("rounding.png", "Glass", [box(50.2, 10, 10.2, 10)]),
        ("overlap.png", "Paper", [box(5, 5, 20, 20)]),
        ("overlap.png", "Plastic", [box(6, 6, 20, 20)]),
        ("hidden.png", "Paper", compressed(ring)),
        ("hidden.png", "Battery", [box(5, 5, 20, 10)]),
        ("hidden.png", "Clothing", [box(5, 15, 20, 10)]),
        ("fine.png", "Paper", [box(5, 5, 20, 20)]),
        ("fine.png", "Paper", [box(6, 6, 20, 20)]),
    ]
    names = dict.fromkeys(name for name, *_ in annotations)
    write_split(tmp_path, "train", {name: noise(n) for n, name in enumerate(names)}, annotations)
    found, _ = read(tmp_path, val_file="", image_size=64)
    kinds = {
        Path(one.record.file_name).stem: [s.kind for t in one.facts.objects for s in t.suspicions]
        for one in found.scan.images
    }
    assert kinds.pop("fine") == kinds.pop("rounding") == []
    assert kinds.pop("empty") == ["empty"]
    assert kinds == {kind: [kind] for kind in ("tiny", "whole", "outside", "overlap", "hidden")}
    by_title = {one.title: one for one in found.suspicious}
    texts = {kind: by_title[suspicious.KINDS[kind].title].shown[0].text for kind in kinds}
    assert texts == {
        "tiny": "Metal, 1 pixels",
        "whole": "Paper, 98%",
        "outside": "Glass, 20 pixels outside",
        "overlap": "Plastic and Paper, 0.82",  # 19² / (2 · 20² - 19²)
        "hidden": "Paper, 400 pixels",
    }


def test_bad_images_are_listed_and_the_others_counted(tmp_path):
    images = {"a.png": noise(0), "b.png": noise(1)}
    write_split(tmp_path, "train", images, [("a.png", "Paper", [box(5, 5, 9, 9)])])
    (tmp_path / "train/b.png").write_bytes(b"no image")
    found, config = read(tmp_path, val_file="")
    assert [one.record.file_name for one in found.scan.images] == ["train/a.png"]
    assert "b.png" in found.scan.problems[0]
    assert "b.png" in page_of(found, config)
    (tmp_path / "train/a.png").write_bytes(b"no image")
    write_split(tmp_path, "val", {"c.png": noise(2)}, [])
    with pytest.raises(InputError, match="no image of train can be used"):
        read(tmp_path)
    with pytest.raises(InputError, match="no image can be used"):
        read(tmp_path, val_file="")


# The page


class Tags(HTMLParser):
    """Refuses tags that are closed out of turn, and keeps the text that is seen."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self):
        super().__init__()
        self.open, self.text, self.images = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs)["src"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def page_of(found, config):
    return format_page(found, title="Data: x", facts=script.describe(config, found.scan))


def parse(page):
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


ODD = ('<b>"bold"', "עברית", "한국어 & 'x'")


def write_odd(folder, count):
    """Findings of a data set of so many classes, with odd names; its config, and these names."""
    names = ["Background", *ODD, *(f"class {n}" for n in range(count))][:count]
    categories = dict(zip(names[1:], names[1:], strict=True))
    own_map = folder / "map.json"
    own_map.write_text(json.dumps({"classes": names, "categories": categories}))
    images = {f"<i> {n} עב.png": noise(n) for n in range(6)}
    annotations = [
        (list(images)[k % 6], name, [box(k % 13, k % 11, 9, 9)]) for k, name in enumerate(names[1:])
    ]
    write_split(folder, "train", images, annotations, names[1:])
    write_split(folder, "val", {"<i> é.png": noise(9)}, [], names[1:])
    found, config = read(folder, class_map=str(own_map))
    return found, config, names


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A function that returns, for a number of classes, findings, the classes' names, the page."""

    @functools.cache
    def make(count):
        folder = tmp_path_factory.mktemp("odd")
        found, config, names = write_odd(folder, count)
        (folder / "data.html").write_text(page_of(found, config))
        return found, names, folder / "data.html"

    return make


@pytest.mark.parametrize("count", [2, 11, 150])
def test_a_page_shows_any_number_of_classes_with_any_names(odd, count):
    found, names, path = odd(count)
    page = path.read_text()
    tags = parse(page)
    for name in names:
        assert tags.text.count(name) >= 4  # the classes' three tables, and the legend
    assert "train/<i> 0 עב.png" in tags.text
    assert len(page) < 6e6
    assert all(source.startswith("data:image/webp;base64,") for source in tags.images)
    amounts = choice.amounts_for(count)
    holding = sum(min((one.facts.pixels > 0)[1:].sum(), 99) for one in found.scan.images)
    assert len(tags.images) >= min(holding, amounts.images)


def test_a_page_shows_a_single_image_with_nothing_in_it(tmp_path):
    write_split(tmp_path, "train", {"a.png": noise(0)}, [])
    found, config = read(tmp_path, val_file="")
    text = " ".join(parse(page_of(found, config)).text)
    assert "train has no pixel of General trash" in text
    assert "1 image of train" in text
    assert "0 objects of 10 classes" in text


@pytest.fixture(scope="module")
def browser():
    with fixtures_browser.launched() as found:
        yield found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("count", [2, 150])
def test_a_page_fits_its_window_and_asks_for_nothing(browser, odd, count, width, scheme):
    _, names, path = odd(count)
    with opened(browser, path, width=width, scheme=scheme) as page:
        assert overflow(page) == 0
        rows = page.locator("#classes tbody tr")
        assert rows.locator("bdi").all_inner_texts() == names
        page.locator("#classes th", has_text="pixels, train").get_by_role("button").click()
        shares = rows.locator("td:nth-of-type(5)").all()
        pixels = [int(cell.get_attribute("data-value")) for cell in shares]
        assert pixels == sorted(pixels, reverse=True)
        assert page.locator("#pictures img").count()
        # Their sizes are known before they are loaded, or links would lead to where nothing is.
        page.evaluate("for (const one of document.images) one.loading = 'eager'")
        page.wait_for_function("[...document.images].every((one) => one.complete)")
        sizes = page.evaluate(
            "[...document.images].map((one) => [one.naturalWidth, one.naturalHeight,"
            " +one.getAttribute('width'), +one.getAttribute('height')])"
        )
        assert all(one[:2] == one[2:] and min(one) > 0 for one in sizes)


def test_a_balance_is_that_of_the_training(prepared_boxes):
    make_config, data = prepared_boxes
    config = make_config()
    config.data.sampling.name, config.loss.alpha = "repeat_factor", "enet"
    found = script.inspect(config, script.build_folder(config), [])
    sets = build.build_training_sets(config, data)
    weights = build.mix_image_weights(config, sets)
    with pytest.warns(UserWarning, match="never occurs"):
        alpha = build.build_alpha(config, sets)
    told = train.describe_classes(sets, alpha, build.build_priors(config, sets, weights), weights)
    chosen = [next(one for one in part if one.chosen) for part in found.balance]
    assert [one.name for one in chosen] == ["enet", "repeat_factor", "repeat_factor"]
    for one, expected in zip(
        chosen, (told["alpha"], told["image_shares"]["after"], told["priors"]), strict=True
    ):
        np.testing.assert_allclose(one.values, [*expected.values()])


def test_the_command_writes_the_page_and_refuses_what_is_no_page(demo_folder, tmp_path):
    command = [sys.executable, "scripts/inspect_data.py", "--config=reference:aistage"]
    command += [f"--config.data.dir={demo_folder}"]

    def run(*more):
        return subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True)

    result = run(f"--output={tmp_path / 'new/data.html'}")
    assert result.returncode == 0, result.stderr
    assert "12 images of train" in parse((tmp_path / "new/data.html").read_text()).text
    for wrong, said in (
        (f"--output={tmp_path}", "is a folder"),
        ("--run=x", "--output is missing"),
    ):
        result = run(wrong)
        assert (result.returncode, result.stderr.count("\n")) == (2, 1)
        assert said in result.stderr
