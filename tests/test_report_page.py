"""report.html as people use it, in a browser."""

import dataclasses

import fixtures_browser
import fixtures_pages
import numpy as np
import pytest
from fixtures_browser import opened, overflow

from trashseg_jax import metrics
from trashseg_jax.report import choice
from trashseg_jax.report.page import write_html

ELEVEN = 11


@pytest.fixture(scope="module")
def browser():
    with fixtures_browser.launched() as found:
        yield found


@pytest.fixture(scope="module")
def eleven(tmp_path_factory):
    """A page of the competition's classes and 60 images, and what it shows."""
    folder = tmp_path_factory.mktemp("eleven")
    return fixtures_pages.write_page(folder, classes=ELEVEN, images=60)


def column(page, table: str, index: int) -> list[str]:
    return page.locator(f"#{table} tbody tr > :nth-child({index + 1})").all_inner_texts()


@pytest.mark.parametrize("classes", [2, ELEVEN, 150])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_is_no_wider_than_its_window(browser, tmp_path, classes, width, scheme):
    path, _, _ = fixtures_pages.write_page(tmp_path, classes=classes, images=30)
    with opened(browser, path, width=width, scheme=scheme) as page:
        assert overflow(page) <= 0
        matrix = page.locator("#matrix")
        assert matrix.locator("tbody td").count() == classes**2
        box = page.locator("#confusion .scroll")
        inner, outer = (box.evaluate(f"one => one.{key}") for key in ("scrollWidth", "clientWidth"))
        assert (inner > outer) == (classes == 150 or (classes == ELEVEN and width == 390))


def test_headings_of_the_matrix_stay_in_view(browser, tmp_path):
    path, _, _ = fixtures_pages.write_page(tmp_path, classes=150, images=30)
    with opened(browser, path) as page:
        box = page.locator("#confusion .scroll")
        box.evaluate("one => one.scrollTo(900, 900)")
        outer = box.bounding_box()
        column_heading = page.locator("#matrix thead th").nth(80).bounding_box()
        row_heading = page.locator("#matrix tbody th").nth(70).bounding_box()
        assert column_heading["y"] == pytest.approx(outer["y"], abs=1)
        assert row_heading["x"] == pytest.approx(outer["x"], abs=1)


@pytest.mark.parametrize("classes", [6, 150])
def test_names_in_any_script_are_shown_as_they_are(browser, tmp_path, classes):
    path, _, details = fixtures_pages.write_page(tmp_path, classes=classes, images=30)
    with opened(browser, path) as page:
        names = page.locator("#class-table tbody th bdi").all_inner_texts()
        assert names == list(fixtures_pages.class_names(classes))
        shown = page.locator("#gallery .name").all_inner_texts()
        assert shown == [one.name for one in details.pictures]


def test_without_a_script_the_figures_and_the_pictures_are_there(browser, eleven):
    path, figures, details = eleven
    with opened(browser, path, scripts=False) as page:
        assert page.locator("#class-table tbody tr").count() == ELEVEN
        assert page.locator("#gallery img.prediction").count() == len(details.pictures)
        assert page.locator("#gallery img.prediction").first.is_visible()
        assert not page.locator("#filter").is_visible()
        score = page.locator(".tile .value").first.inner_text()
        assert score == f"{figures['miou']:.3f}"[1:]


@pytest.mark.parametrize(("images", "log"), [(1, True), (3, False)])
def test_a_run_of_one_image_and_one_without_a_log_have_a_page(browser, tmp_path, images, log):
    path, _, _ = fixtures_pages.write_page(tmp_path, classes=ELEVEN, images=images, log=log)
    with opened(browser, path) as page:
        assert page.locator("#gallery figure").count() == images
        assert page.locator("#curves").count() == (1 if log else 0)


def test_a_page_without_pictures_says_why(browser, tmp_path):
    """As several processes leave it."""
    names, per_image = fixtures_pages.class_names(2), fixtures_pages.confusions(3, 2)
    details = fixtures_pages.details_of(per_image, log=tmp_path / "log.jsonl", most=0)
    details = dataclasses.replace(details, confidence=None)
    path = tmp_path / "report.html"
    write_html(path, fixtures_pages.figures_of(per_image, names), details)
    with opened(browser, path) as page:
        assert page.get_by_text("This page has no pictures").is_visible()
        page.locator("#matrix tbody td").nth(1).click()
        assert page.locator("#cell li").count() == (per_image[:, 0, 1] > 0).sum() > 0
        assert page.locator("#cell li button").count() == 0


def test_a_click_on_a_heading_sorts_and_a_second_one_turns_the_order(browser, eleven):
    path, figures, _ = eleven
    with opened(browser, path) as page:
        heading = page.get_by_role("button", name="IoU", exact=True).first
        heading.click()
        shown = [float(text) for text in column(page, "class-table", 1)]
        assert shown == sorted(shown, reverse=True)
        assert sorted(shown) == sorted(round(iou, 4) for iou in figures["iou"].values())
        heading.press("Enter")
        assert [float(text) for text in column(page, "class-table", 1)] == shown[::-1]
        assert page.locator("#class-table th[aria-sort]").get_attribute("aria-sort") == "ascending"


def test_another_published_experiment_changes_the_differences(browser, eleven):
    path, figures, _ = eleven
    with opened(browser, path) as page:
        battery = page.locator("#class-table tbody tr", has_text="Battery")
        assert battery.locator(".published").inner_text() == ".0000"
        page.locator("#published").select_option("focal, balanced alpha")
        assert battery.locator(".published").inner_text() == ".6648"
        change = figures["iou"]["Battery"] - 0.6648
        text = battery.locator(".difference").inner_text()
        assert float(text.replace("\N{MINUS SIGN}", "-")) == pytest.approx(change, abs=6e-5)


def test_cells_show_shares_of_rows_of_columns_and_pixels(browser, eleven):
    path, figures, _ = eleven
    confusion = np.array(figures["confusion"])
    totals = {
        "% of the truth": confusion.sum(1)[0],
        "% of the prediction": confusion.sum(0)[0],
    }
    with opened(browser, path) as page:
        cell = page.locator("#matrix tbody td").first
        for name, total in totals.items():
            page.get_by_role("button", name=name).click()
            assert cell.inner_text() == f"{100 * confusion[0, 0] / total:.0f}"
        choices = page.get_by_role("group", name="What the cells show")
        choices.get_by_role("button", name="Pixels", exact=True).click()
        assert float(cell.inner_text()[:-1]) * 1000 == pytest.approx(confusion[0, 0], rel=5e-3)


def test_a_cell_names_the_images_that_it_owes_most_to_and_opens_them(browser, eleven):
    path, _, details = eleven
    last = ELEVEN - 1  # which is always missed, for the background
    counts = details.per_image[:, last, 0]
    expected = [details.names[i] for i in np.argsort(-counts, kind="stable")[:5] if counts[i]]
    with opened(browser, path) as page:
        page.locator("#matrix tbody tr").nth(last).locator("td").first.click()
        assert page.locator("#cell h3").inner_text() == "Clothing taken for Background"
        assert page.locator("#cell li bdi").all_inner_texts() == expected
        page.locator("#cell li button").first.click()
        assert page.locator("#viewer").is_visible()
        page.keyboard.press("Escape")
        assert not page.locator("#viewer").is_visible()


def test_arrow_keys_move_through_the_matrix_and_enter_chooses(browser, eleven):
    path, _, _ = eleven
    with opened(browser, path) as page:
        page.locator("#matrix tbody td").first.focus()
        for key in ("ArrowRight", "ArrowDown", "ArrowRight", "Enter"):
            page.keyboard.press(key)
        assert page.locator("#cell h3").inner_text() == "General trash taken for Paper"


@pytest.mark.parametrize("view", ["truth", "prediction", "errors", "confidence"])
def test_what_is_laid_over_a_photograph_is_toggled(browser, eleven, view):
    path, _, _ = eleven
    with opened(browser, path) as page:
        page.get_by_role("button", name=view.capitalize(), exact=True).click()
        shown = page.evaluate(
            "Array.from(document.querySelectorAll('#gallery figure:first-child .layer'))"
            ".filter(one => getComputedStyle(one).opacity > 0).map(one => one.classList[1])"
        )
        assert shown == [view]
        pressed = page.locator("[data-for=gallery] [aria-pressed=true]").all_inner_texts()
        assert pressed == [view.capitalize()]


def test_pictures_keep_their_aspect_ratio_and_have_a_readable_size(browser, eleven):
    path, _, _ = eleven
    with opened(browser, path) as page:
        page.locator("#gallery .frame").first.click()
        box = page.locator("#viewer-panels img").first.bounding_box()
        assert box["width"] / box["height"] == pytest.approx(48 / 36, rel=0.01)
        assert box["width"] >= 320


def test_images_of_a_class_come_with_the_worst_first(browser, eleven):
    path, _, details = eleven
    label = 4
    scores = metrics.iou(details.per_image)[:, label]
    places = [one.place for one in details.pictures if not np.isnan(scores[one.place])]
    with opened(browser, path) as page:
        page.locator("#filter").select_option(f"class:{label}")
        shown = page.locator("#gallery figure:visible")
        found = [int(one) for one in shown.evaluate_all("all => all.map(one => one.dataset.place)")]
        assert sorted(found) == sorted(places)
        assert [scores[place] for place in found] == sorted(scores[place] for place in found)
        page.locator("#filter").select_option("group:Worst")
        worst = choice.rank_images(details.per_image)[: choice.WORST]
        found = [int(one) for one in shown.evaluate_all("all => all.map(one => one.dataset.place)")]
        assert found == worst


def test_the_pointer_and_the_arrow_keys_show_a_curves_values(browser, eleven):
    path, _, _ = eleven
    with opened(browser, path) as page:
        chart = page.locator("[data-chart=loss]")
        box = chart.locator(".plot").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
        assert "step 20" in chart.locator(".tip").inner_text()  # of 40
        assert "training, as logged\n0.100" in chart.locator(".tip").inner_text()  # 2 / 20
        page.mouse.move(0, 0)
        assert not chart.locator(".tip").is_visible()
        chart.locator(".plot").focus()
        page.keyboard.press("Home")
        assert "step 1\n" in chart.locator(".tip").inner_text()


def test_a_classes_curve_is_toggled_by_its_name(browser, eleven):
    path, _, _ = eleven
    with opened(browser, path) as page:
        chart = page.locator("[data-chart=classes]")
        assert chart.locator(".curve:not(.dots):not([hidden])").count() == ELEVEN
        chart.get_by_role("button", name="Paper", exact=True).click()
        assert chart.locator(".curve:not(.dots):not([hidden])").count() == ELEVEN - 1
        chart.get_by_role("button", name="None", exact=True).click()
        assert chart.locator(".curve:not([hidden])").count() == 0
