import concurrent.futures
import dataclasses
import html
import json
import re

import fixtures_pages
import numpy as np
import pytest
from PIL import Image

from trashseg_jax import metrics
from trashseg_jax.data import taxonomy
from trashseg_jax.report import page, pictures
from trashseg_jax.report.files import replaced_folder, write_json
from trashseg_jax.report.sheet import CELL, MARGIN, Sample, save_samples
from trashseg_jax.report.table import NOTES, format_balance, format_table

CLASSES = ("Background", "Metal", "Glass<i>")
SHOWN = taxonomy.shown_colors(taxonomy.palette(3))
CONFUSION = np.array([[[90, 2, 0], [4, 4, 0], [0, 0, 0]]])


def figures(**changes):
    scores = metrics.summarize(CONFUSION, classes=CLASSES, common_share=0.0, resamples=10)
    return fixtures_pages.figures_of(CONFUSION, CLASSES, **{**scores, **changes})


def write_html(path, found, per_image=CONFUSION):
    """Writes the page, and returns what it says."""
    details = fixtures_pages.details_of(per_image, log=path.with_name("log.jsonl"))
    page.write_html(path, found, details)
    return path.read_text()


def read_table(text, name):
    """Returns the cells of a table of the page, as text, by the row's heading."""
    table = re.search(f'<table[^>]* id="{name}">(.*?)</table>', text, re.DOTALL)
    rows = re.findall("<tr.*?</tr>", table[1], re.DOTALL)
    cells = [re.findall("<t[hd].*?</t[hd]>", row, re.DOTALL) for row in rows]
    plain = [[html.unescape(re.sub("<[^>]*>|\n", "", c)).strip() for c in row] for row in cells]
    return {row[0]: row[1:] for row in plain}


def sample(seed=0, size=32):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, (size, size)).astype(np.uint8)
    label[0] = 255
    image = rng.integers(0, 256, (size, size, 3)).astype(np.uint8)
    return Sample(image, label, (label % 3).astype(np.uint8))


def test_table_shows_each_class_and_says_what_is_absent_or_never_hit():
    table = format_table(figures())
    rows = {line[:14].strip(): line[14:].split() for line in table.splitlines()}
    assert rows["Background"][0] == "0.9375"  # 90 / 96
    assert rows["Metal"][0] == "0.4000"  # 4 / 10
    assert rows["Glass<i>"][0] == "absent"
    assert rows["mIoU"] == ["0.6687"]  # (0.9375 + 0.4) / 2 = 0.66875, rounded to even
    counts = np.array([[[9, 1, 1], [1, 0, 0], [0, 0, 0]]])
    found = metrics.summarize(counts, classes=("a", "b", "c"), common_share=0.0, resamples=10)
    lines = format_table(figures() | found).splitlines()
    assert lines[2].endswith("never hit")
    assert lines[3].endswith("not in the truth")


def test_balance_shows_alpha_and_shares_by_class():
    shares = {"before": {"Metal": 1.0, "Battery": 0.021}, "after": {"Metal": 0.9, "Battery": 0.2}}
    alpha, priors = {"Metal": 1, "Battery": 147.79}, {"Metal": 0.9995, "Battery": 0.0005}
    text = format_balance({"alpha": alpha, "priors": priors, "image_shares": shares})
    assert text.splitlines()[1:] == [
        "Metal            1          100.0%     90.0%           99.95%",
        "Battery      147.8            2.1%     20.0%            0.05%",
    ]


def test_balance_shows_the_objects_to_paste_where_any_are():
    shares = {"before": {"Battery": 0.021}, "after": {"Battery": 0.2}}
    derived = {"alpha": {"Battery": 1}, "image_shares": shares, "paste_objects": {"Battery": 63}}
    derived["priors"] = {"Battery": 0.0005}
    title, line = format_balance(derived).splitlines()
    assert title.endswith("pixels as drawn  objects to paste")
    assert line.endswith("20.0%            0.05%                63")


def test_table_and_page_show_raw_and_refined_side_by_side(tmp_path):
    refined = np.array([[[92, 0, 0], [4, 4, 0], [0, 0, 0]]])
    crf = {
        **metrics.summarize(refined, classes=CLASSES, common_share=0.0, resamples=10),
        "failed": [],
    }
    shown = read_table(write_html(tmp_path / "report.html", figures(crf=crf)), "class-table")
    # 90 / 96 and 92 / 96; 4 / 10 and 4 / 8; their means.
    rows = {
        "Background": ("0.9375", "0.9583", "+0.0208"),
        "Metal": ("0.4000", "0.5000", "+0.1000"),
        "Glass<i>": ("absent", "absent"),
        "mIoU": ("0.6687", "0.7292", "+0.0604"),
    }
    table = {line[:10].strip(): line[10:].split() for line in _lines(figures(crf=crf))}
    for name, cells in rows.items():
        assert tuple(table[name][: len(cells)]) == cells
    assert table["class"][:3] == ["IoU", "CRF", "change"]
    places = [shown["Class"].index(title) for title in ("IoU", "CRF", "Change")]
    on_page = {name: [cells[at] for at in places] for name, cells in shown.items()}
    assert on_page["Background"] == [".9375", ".9583", "+.0208"]
    assert on_page["Metal"] == [".4000", ".5000", "+.1000"]
    assert on_page["Glass<i> not in the truth"][:2] == ["absent", "absent"]


def test_table_and_page_show_boundary_iou_where_it_was_counted(tmp_path):
    """By class and their mean, raw and refined; other rows have none."""
    raw = {"boundary_iou": {"Background": 0.5, "Metal": 0.25, "Glass<i>": None}}
    refined = {"boundary_iou": {"Background": 0.75, "Metal": None, "Glass<i>": None}}
    raw, refined = {**raw, "boundary_miou": 0.375}, {**refined, "boundary_miou": 0.75}
    found = figures(**raw, crf={**figures(), **refined, "failed": []})
    table = {line[:14].strip(): line[14:].split() for line in _lines(found)}
    head = ["IoU", "CRF", "change", "boundary", "CRF", "change"]
    assert table["class"] == [*head, "share", "of", "pixels"]
    assert table["Background"][3:6] == ["0.5000", "0.7500", "+0.2500"]
    assert table["Metal"][3:5] == ["0.2500", "absent"]
    assert table["mIoU"][3:] == ["0.3750", "0.7500", "+0.3750"]
    assert len(table["mean Dice"]) == 3
    shown = read_table(write_html(tmp_path / "report.html", found), "class-table")
    place = shown["Class"].index("Boundary IoU")
    assert shown["Class"][place + 1] == "Boundary, CRF"
    assert shown["Background"][place : place + 2] == [".500", ".750"]
    assert shown["Metal"][place] == ".250"
    alone = {line[:14].strip(): line[14:].split() for line in _lines(figures(**raw))}
    assert alone["class"] == ["IoU", "boundary", "share", "of", "pixels"]
    assert alone["mIoU"] == ["0.6687", "0.3750"]


def _lines(found):
    return format_table(found).splitlines()


def test_table_and_page_tell_warnings_loss_and_updates_left_out(tmp_path):
    found = figures(warnings=["2 of 3 images are <seen>"], skipped_updates=3, loss=None)
    shown, text = write_html(tmp_path / "report.html", found), format_table(found)
    assert "warning: 2 of 3 images are <seen>" in text
    assert "warning: 2 of 3 images are &lt;seen&gt;" in shown
    for both in (shown, text):
        assert "updates left out as not finite: 3 of 7" in both
    assert "loss undefined" in text
    assert '<dt>loss</dt><dd><span class="value">undefined</span>' in shown
    assert "loss 1.5000" in format_table(figures())


@pytest.mark.parametrize(
    ("scored", "line"),
    [
        ({"resolution": "scaled"}, "pixels of images scaled to 64"),
        ({}, "pixels of the photographs at their own size, in windows of 64, views: flip"),
        (
            {"tile_scale": 0.5},
            "pixels of the photographs at their own size, in windows of 64 at 0.5 of their scale, "
            "views: flip",
        ),
        (
            {"scale": "fit", "tta": ""},
            "pixels of the photographs at their own size, scaled to 64",
        ),
    ],
)
def test_table_and_page_say_which_pixels_were_counted(tmp_path, scored, line):
    found = figures(**scored)
    assert line in format_table(found).splitlines()
    assert f"<span>{line}</span>" in write_html(tmp_path / "report.html", found)


def test_table_and_page_name_skipped_images_and_count_clipped_ones(tmp_path):
    found = figures(skipped=["x.jpg: is damaged"], data_notes={"clipped": 3})
    for text in (format_table(found), write_html(tmp_path / "report.html", found)):
        assert "skipped as bad: 1" in text
        assert "x.jpg: is damaged" in text
        assert "clipped: 3" in text


def test_each_note_on_the_data_has_its_line_in_the_table_and_the_page(tmp_path):
    counts = {kind: 101 + place for place, kind in enumerate(NOTES)}
    found = figures(data_notes=counts)
    for text in (format_table(found), write_html(tmp_path / "report.html", found)):
        for kind, count in counts.items():
            assert f"{NOTES[kind]}: {count}" in html.unescape(text)


def test_sheet_shows_image_truth_and_prediction_pixel_for_pixel(tmp_path):
    one = sample()
    save_samples(tmp_path / "sheet.png", [one], classes=CLASSES)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    scale = CELL // 32
    palette = SHOWN
    for column, expected in enumerate(
        (one.image, palette[one.label % 255], palette[one.prediction])
    ):
        left = MARGIN + column * (CELL + MARGIN)
        panel = sheet[24 : 24 + CELL : scale, left : left + CELL : scale]
        if column == 1:  # ignored pixels are grey
            expected = expected.copy()
            expected[0] = 128
        np.testing.assert_array_equal(panel, expected)


def test_refined_prediction_is_a_fourth_panel(tmp_path):
    one = sample()
    refined = (one.prediction + 1) % 3
    one = dataclasses.replace(one, refined=refined)
    save_samples(tmp_path / "sheet.png", [one, one], classes=CLASSES)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    pitch, scale = CELL + MARGIN, CELL // 32
    for second in (0, 1):
        left = MARGIN + 3 * pitch + second * (4 * pitch + 2 * MARGIN)
        panel = sheet[24 : 24 + CELL : scale, left : left + CELL : scale]
        np.testing.assert_array_equal(panel, SHOWN[refined])


def test_sheet_without_samples_is_not_written(tmp_path):
    save_samples(tmp_path / "sheet.png", [], classes=CLASSES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("classes", "most"), [(11, 600_000), (150, 1_300_000)])
def test_the_page_of_3000_images_is_bounded_in_size(tmp_path, classes, most):
    """What it holds besides the pictures, whose bytes have a budget of their own."""
    path, _, details = fixtures_pages.write_page(tmp_path, classes=classes, images=3000)
    drawn = sum(one.num_bytes for one in details.pictures)
    assert drawn <= pictures.BUDGET
    assert path.stat().st_size - 4 / 3 * drawn < most


def test_the_page_asks_for_nothing_and_escapes_names(tmp_path):
    text = write_html(tmp_path / "report.html", figures())
    assert "Glass&lt;i&gt;" in text
    assert "Glass<i>" not in text
    assert not re.search("https?:", text)
    assert re.findall('src="(.{11})', text) == ["data:image/"] * text.count(' src="')


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"a": 1})
    for bad in ({"a": float("nan")}, {"a": object()}):
        try:
            write_json(path, bad)
        except (TypeError, ValueError):
            pass
        else:
            raise AssertionError("json without NaN was expected")
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_folder_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "evaluations" / "val-7"
    for text in ("first", "second"):
        with replaced_folder(target) as folder:
            (folder / f"{text}.txt").write_text(text)
    with pytest.raises(FileNotFoundError), replaced_folder(target) as folder:
        (folder / "absent" / "third.txt").write_text("third")
    assert [path.name for path in target.iterdir()] == ["second.txt"]
    assert list(target.parent.iterdir()) == [target]


def test_folders_replaced_at_once_do_not_mix(tmp_path):
    """Eight writers, each many times, of two files that must agree."""
    target = tmp_path / "val-7"

    def write(writer):
        for turn in range(20):
            with replaced_folder(target) as folder:
                for name in ("a", "b"):
                    (folder / name).write_text(f"{writer} {turn}")

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(write, writer) for writer in range(8)]:
            future.result()
    assert (target / "a").read_text() == (target / "b").read_text()
    assert list(tmp_path.iterdir()) == [target]
