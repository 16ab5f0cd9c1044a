"""The corpus of malformed.py: each case gives the right label map, or one line and nothing else."""

import io
import json
import subprocess
import sys
from pathlib import Path

import malformed
import numpy as np
import pytest
from fixtures_coco import data_folder
from malformed import CASES, spoil_folder
from PIL import Image, ImageFile

from trashseg_jax.data import builder, photos
from trashseg_jax.data.formats import coco
from trashseg_jax.data.label_codec import decode_label
from trashseg_jax.data.records import load_features
from trashseg_jax.errors import InputError

ROOT = Path(__file__).parent.parent
REMEDIES = (
    "or leave such images out with --config.data.skip_bad=True",
    "correct the file or export it again",
    "was it copied whole?",
    "save it so",
    "give each its own",
    "check the data folder and the name",
    "add it to a class map of your own",
)


def prepare(tmp_path, case):
    """Spoils a folder as the case says, and prepares it."""
    spoil_folder(tmp_path / "data", case)
    folder = data_folder(tmp_path / "data")
    cache_dir = tmp_path / "cache"
    return builder.prepare(folder, name="coco", read=coco.read_splits, cache_dir=cache_dir)


def read(tmp_path, case, **options):
    folder = tmp_path / "data"
    spoil_folder(folder, case)
    return coco.read_coco(folder / "train.json", data_folder(folder, **options), split="train")


def names_of(choose):
    return [name for name, case in CASES.items() if choose(case)]


@pytest.mark.parametrize("name", names_of(lambda case: case.label is not None))
def test_an_odd_folder_loads_to_its_label_map(tmp_path, name):
    data = prepare(tmp_path, CASES[name])
    assert data.problems == []
    stored = {one["id"]: one for one in data.source("train")}
    assert len(stored) == 3
    np.testing.assert_array_equal(decode_label(stored[7]["label"]), CASES[name].label)
    image = np.asarray(Image.open(io.BytesIO(stored[7]["image"])).convert("L"))
    np.testing.assert_array_equal(image > 128, malformed.CORNER > 0)  # it lies as the label does


@pytest.mark.parametrize("name", names_of(lambda case: case.label is None))
def test_a_malformed_folder_is_refused_in_one_line_and_leaves_nothing(tmp_path, name):
    case = CASES[name]
    with pytest.raises(InputError) as error:
        prepare(tmp_path, case)
    line = str(error.value)
    assert line.splitlines() == [line]
    assert line.isprintable()
    assert len(line) < 700
    assert str(tmp_path / "data" / case.file) in line
    for part in case.named:
        assert part in line
    assert any(remedy in line for remedy in REMEDIES)
    assert not list((tmp_path / "cache").rglob("*/*/"))


@pytest.mark.parametrize("name", names_of(lambda case: case.bad_image))
def test_skip_bad_leaves_a_bad_image_out_and_reports_it(tmp_path, name):
    case = CASES[name]
    listed, problems = read(tmp_path, case, skip_bad=True)
    results = [load_features(record, num_classes=11, skip_bad=True) for record in listed]
    problems += [result for result in results if isinstance(result, str)]
    assert [result["id"] for result in results if isinstance(result, dict)] == [8, 9]
    (problem,) = problems
    assert str(tmp_path / "data" / case.file) in problem
    assert case.named[0] in problem


@pytest.mark.parametrize("name", names_of(lambda case: case.label is None and not case.bad_image))
def test_skip_bad_does_not_pass_over_a_fault_of_the_file(tmp_path, name):
    with pytest.raises(InputError) as error:
        read(tmp_path, CASES[name], skip_bad=True)
    for part in CASES[name].named:
        assert part in str(error.value)


@pytest.mark.parametrize("name", malformed.BOMBS)
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, name, monkeypatch):
    path = tmp_path / "bomb"
    path.write_bytes(malformed.BOMBS[name])
    decoded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: decoded.append(image))
    with pytest.raises(InputError, match="pixels; scale it"):
        photos.read_photo(path, upright=True)
    assert not decoded


COMMANDS = """
import contextlib, io, json, sys
from absl import flags
from trashseg_jax import main
for folder in sys.argv[1:]:
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)  # as in a new process
    sys.argv = ["main", "--config=configs/reference.py:aistage", f"--config.data.dir={folder}/data",
        f"--config.data.cache_dir={folder}/cache", f"--workdir={folder}/run"]
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        try:
            main.run(main.main, main.parse_flags)
            code = 0
        except SystemExit as exit:
            code = exit.code
    print(json.dumps([code, stderr.getvalue()]))
"""


def test_the_command_line_says_it_in_one_line_and_writes_nothing(tmp_path):
    """One process for a fault of each kind: most of a command's time is its imports."""
    names = [
        "json: truncated",
        "encoding: Latin-1",
        "structure: annotation of an unlisted category",
        "categories: unknown name",
        "polygon: NaN",
        "RLE: right but for 32 bits",
        "path: link out of the folder",
        "photo: half a JPEG",
    ]
    folders = [tmp_path / str(index) for index in range(len(names))]
    for name, folder in zip(names, folders, strict=True):
        folder.mkdir()
        spoil_folder(folder / "data", CASES[name])
    result = subprocess.run(
        [sys.executable, "-c", COMMANDS, *map(str, folders)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stderr == ""
    for name, folder, line in zip(names, folders, result.stdout.splitlines(), strict=True):
        code, stderr = json.loads(line)
        error, end = stderr.split("\n")
        assert (code, end) == (2, "")
        assert error.startswith(f"error: {folder}/data/{CASES[name].file}: ")
        assert CASES[name].named[-1] in error
        assert not list((folder / "cache").rglob("*/*/"))
        assert not (folder / "run").exists()
