"""Pages from templates: text is escaped, what is missing is said, figures are short."""

import jinja2
import pytest

from trashseg_jax.report import render


def test_a_page_lacks_no_name_that_its_template_uses():
    with pytest.raises(jinja2.UndefinedError, match="photos"):
        render.render("prediction.html", names=[])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, ".500"), (1.0, "1.000"), (0.0, ".000"), (None, render.MISSING), (-0.25, "-0.250")],
)
def test_scores_lack_the_zero_that_tells_nothing(value, text):
    assert render.format_score(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "+.500"),
        (-0.0625, "\N{MINUS SIGN}.062"),
        (0.0, "±.000"),
        (None, render.MISSING),
    ],
)
def test_changes_have_a_sign(value, text):
    assert render.format_change(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0 %"), (1.0, "100 %"), (0.123, "12 %"), (0.0123, "1.2 %"), (0.00123, "0.12 %")],
)
def test_percents_have_two_digits_that_tell(value, text):
    assert render.format_percent(value) == text
    assert render.format_percent(1e-7) == "< 0.01 %"


def test_counts_are_in_groups_of_three_digits():
    assert (
        render.format_count(1234567) == "1\N{NARROW NO-BREAK SPACE}234\N{NARROW NO-BREAK SPACE}567"
    )
