"""Fuzzes the COCO reader: any bytes as the json load, or raise an InputError of one line.

    python scripts/fuzz_coco.py -max_total_time=240

Options are libFuzzer's. Needs atheris, which no requirements file holds: see docs/testing.md.
"""

import contextlib
import copy
import dataclasses
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris
from PIL import Image

with atheris.instrument_imports(include=["trashseg_jax.data"]):
    from trashseg_jax.data import records, taxonomy
    from trashseg_jax.data.formats import coco

from trashseg_jax.configs import default
from trashseg_jax.errors import InputError

HEIGHT, WIDTH = 12, 16
CLASS_MAP = taxonomy.load_class_map("recycle_trash")
POLYGON = [1, 1, 9.5, 1, 9.5, 8, 1, 8]
SEGMENTATIONS: list[Any] = [
    [POLYGON, [-3, -3, 99, 4, 5, 20]],
    {"size": [HEIGHT, WIDTH], "counts": [20, 30, 142]},
    {"size": [HEIGHT, WIDTH], "counts": "d0n0^4"},  # the same runs
]
DEEP = json.loads("[" * 200 + "]" * 200)
VALUES: list[Any] = [
    *(DEEP, {"size": [HEIGHT, WIDTH], "counts": [192], "more": DEEP}, [10**4300 - 1] * 2),
    *(None, True, {}, [], "", "a.png", "b.png", "../a.png", "a.png\0", "Battery", "\ud800", "é"),
    *(-1, 0, 1, 2, 12, 16, 192, 2**31, 2**32, 2**63, 10**4300 - 1, 0.5, 1e5, 1e300),
    *(float("nan"), float("inf"), POLYGON, [POLYGON], [[0, 0, 1e5, -1e5] * 50], *SEGMENTATIONS),
]


def seeds() -> list[bytes]:
    """Returns valid jsons, one a kind of segmentation."""
    images = [
        {"id": index, "file_name": name, "height": HEIGHT, "width": WIDTH}
        for index, name in enumerate(("a.png", "b.png"))
    ]
    categories = [{"id": index, "name": name} for index, name in enumerate(taxonomy.CLASSES)]
    return [
        json.dumps(
            {
                "images": images,
                "annotations": [
                    {
                        "id": number,
                        "image_id": 0,
                        "category_id": number,
                        "segmentation": segmentation,
                        "iscrowd": number % 2,
                    }
                    for number in (4, 9)
                ],
                "categories": categories,
            }
        ).encode()
        for segmentation in SEGMENTATIONS
    ]


def make_target(folder: Path):
    """Returns the function that the fuzzer calls with bytes."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / name)
    json_file = folder / "train.json"
    defaults = default.get_config("coco").data
    names = [field.name for field in dataclasses.fields(records.DataFolder)]
    options = {name: defaults[name] for name in names if name not in ("path", "class_map")}
    given = records.DataFolder(path=folder, class_map=CLASS_MAP, **options)

    def target(data: bytes) -> None:
        json_file.write_bytes(data)
        for skip_bad, boxes in ((False, "refuse"), (True, "refuse"), (True, "ignore")):
            one = dataclasses.replace(given, skip_bad=skip_bad, boxes=boxes)
            try:
                listed, _ = coco.read_coco(json_file, one, split="train")
            except InputError as error:
                if str(json_file) not in str(error) or len(str(error).splitlines()) != 1:
                    raise AssertionError(f"not one line with the file: {error}") from error
                continue
            for record in listed:
                repr(record)  # what fingerprints are made of
                with contextlib.suppress(InputError):  # the size may be another than the image's
                    records.load_features(record, num_classes=11, skip_bad=False)

    return target


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Changes a json's values and structure; its bytes now and then, and where it is none."""
    rng = random.Random(seed)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return atheris.Mutate(data, max_size)
    if rng.random() < 0.2:
        return atheris.Mutate(data, max_size)
    for _ in range(rng.choice((1, 1, 2, 4))):
        change_one(content, rng)
    result = json.dumps(content).encode()
    return result if len(result) <= max_size else atheris.Mutate(data, max_size)


def change_one(content: Any, rng: random.Random) -> None:
    """Replaces, removes or repeats one value somewhere in a json, in place."""
    holders = [holder for holder in walk(content) if holder]
    if not holders:
        return
    holder = rng.choice(holders)
    key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    action = rng.random()
    if action < 0.15:
        del holder[key]
    elif action < 0.3 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    elif action < 0.5 and type(holder[key]) in (int, float) and abs(holder[key]) < 2**64:
        holder[key] += rng.choice((-1, 1, 7, -100))
    else:
        holder[key] = copy.deepcopy(rng.choice(VALUES))


def walk(value: Any):
    """Yields each object and list of a json, itself among them."""
    if isinstance(value, dict | list):
        yield value
        for child in value.values() if isinstance(value, dict) else value:
            yield from walk(child)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name) / "corpus"
        corpus.mkdir()
        for index, seed in enumerate(seeds()):
            (corpus / str(index)).write_bytes(seed)
        target = make_target(Path(name))
        for path in corpus.iterdir():
            target(path.read_bytes())
        atheris.Setup([*sys.argv, str(corpus)], target, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
