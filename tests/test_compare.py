"""Several runs on one page: what may be compared, the paired differences, the page in a browser."""

import json
import subprocess
import sys
from pathlib import Path

import fixtures_browser
import fixtures_pages
import numpy as np
import pytest
from fixtures_browser import opened, overflow

from trashseg_jax import metrics
from trashseg_jax.data import taxonomy
from trashseg_jax.errors import InputError
from trashseg_jax.report import compare, confusions, pictures
from trashseg_jax.report.files import write_json

SCRIPT = Path(__file__).parent.parent / "scripts/compare_runs.py"
CLASSES = 6
NAMES = fixtures_pages.class_names(CLASSES)


def write_run(folder, *, seed=0, images=40, names=NAMES, places=(0, 3, 7), files=None, **changes):
    """Leaves what an evaluation leaves."""
    folder.mkdir()
    per_image = fixtures_pages.confusions(images, len(names), seed=seed)
    files = files or fixtures_pages.file_names(images)
    write_json(folder / "metrics.json", fixtures_pages.figures_of(per_image, names, **changes))
    confusions.save_confusions(folder / confusions.FILE, files, names, per_image)
    looks = fixtures_pages.looks(list(places), files, len(names))
    drawn = pictures.encode_all(looks, colors=taxonomy.palette(len(names)))
    pictures.save_pictures(folder / pictures.FILE, drawn)
    fixtures_pages.write_log(folder / "log.jsonl", names)
    write_json(folder / "config.json", {"seed": seed, "loss": {"name": "focal"}, "derived": {}})
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    names = ("first", "<i>second</i>", "third")
    return [write_run(folder / name.replace("/", "_"), seed=i) for i, name in enumerate(names)]


def test_differences_are_paired_and_over_the_same_classes(runs):
    first, second, _ = compare.read_runs(runs)
    row = compare.describe_run(second, first)
    before, after = first.images.per_image, second.images.per_image
    there = before.sum((0, 2)) > 0
    means = [np.mean(metrics.iou(one.sum(0))[there]) for one in (before, after)]
    assert row["change"] == pytest.approx(means[1] - means[0])
    assert row["interval"] == metrics.difference_interval(before, after, resamples=1000)
    assert compare.describe_run(first, first)["change"] is None


def test_a_difference_counts_as_sure_where_its_interval_leaves_out_zero():
    assert compare.is_clear([0.01, 0.2])
    assert compare.is_clear([-0.2, -0.01])
    assert not compare.is_clear([-0.01, 0.2])
    assert not compare.is_clear(None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": 41}, "number of images is 41"),
        ({"split": "train"}, "split is train, and that of .*first is val"),
        ({"dataset": "taco"}, "data set is taco"),
        ({"resolution": "scaled"}, "resolution is scaled"),
        ({"names": fixtures_pages.class_names(11)}, "classes is Background, General trash"),
        ({"files": [f"{i}.jpg" for i in range(40)]}, "was scored on other images"),
    ],
)
def test_runs_of_other_images_or_classes_are_refused(runs, tmp_path, change, said):
    other = write_run(tmp_path / "other", **change)
    with pytest.raises(InputError, match=f"other: .*{said}"):
        compare.read_runs([runs[0], other])


def test_a_folder_of_an_older_version_one_run_and_one_run_twice_are_refused(runs, tmp_path):
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(InputError, match=r"confusions\.npz: does not exist.*--mode=evaluate"):
        compare.read_runs([runs[0], tmp_path])
    with pytest.raises(InputError, match="only one run"):
        compare.read_runs(runs[:1])
    with pytest.raises(InputError, match="appears twice"):
        compare.read_runs([runs[0], runs[0]])


def test_only_options_that_differ_are_listed(runs):
    assert compare.different_options(compare.read_runs(runs)) == {"seed": [0, 1, 2]}


def test_images_that_all_runs_show_are_side_by_side(runs, tmp_path):
    other = write_run(tmp_path / "other", seed=5, places=(3, 7, 9))
    both = compare.read_runs([runs[0], other])
    shots = compare.describe(both)["shots"]
    assert {shot["first"].place for shot in shots} == {3, 7}
    assert [one["name"] for one in shots[0]["all"]] == ["first", "other"]


def test_the_script_writes_the_page_or_says_in_one_line_why_not(runs, tmp_path):
    out = tmp_path / "page.html"
    command = [sys.executable, SCRIPT, f"--out={out}"]
    done = subprocess.run([*command, *runs], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert out.is_file()
    miou = json.loads((runs[0] / "metrics.json").read_text())["miou"]
    assert f"first: mIoU {miou:.4f}" in done.stdout
    done = subprocess.run([*command, runs[0], tmp_path], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path}/metrics.json: does not exist")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_of_three_runs_in_a_browser(runs, tmp_path, width, scheme):
    path = tmp_path / "comparison.html"
    compare.write_comparison(path, compare.read_runs(runs))
    with (
        fixtures_browser.launched() as browser,
        opened(browser, path, width=width, scheme=scheme) as page,
    ):
        assert overflow(page) <= 0
        names = page.locator("#run-table tbody th bdi").all_inner_texts()
        assert names == [folder.name for folder in runs]
        page.get_by_role("button", name="mIoU", exact=True).click()
        shown = page.locator("#run-table tbody td:nth-child(3)").all_inner_texts()
        assert shown == sorted(shown, reverse=True)
        first = page.locator("#shots figure").first
        assert first.locator("img.prediction:visible").count() == 3
        page.get_by_role("button", name="Errors", exact=True).click()
        assert first.locator("img.prediction:visible").count() == 0
        assert first.locator("img.errors:visible").count() == 3
