"""Curves: what the log tells, and where it is on the axes."""

import json
import re

import fixtures_pages
import numpy as np
import pytest

from trashseg_jax.report import charts
from trashseg_jax.report.history import Series, read_history, smooth, thin


def series(values, first=1):
    return Series(tuple(range(first, first + len(values))), tuple(values))


def test_the_log_is_read_up_to_a_line_that_was_cut_off(tmp_path):
    log = fixtures_pages.write_log(tmp_path / "log.jsonl", ("a", "step"), steps=20)
    log.write_text(log.read_text() + '{"step": 21, "lo')
    history = read_history(log)
    assert history.loss == Series(tuple(range(1, 21)), tuple(2 / step for step in range(1, 21)))
    assert history.miou == Series((10, 20), (0.5, 1.0))
    assert history.iou["step"] == Series((10, 20), (0.25, 0.5))


def test_what_is_not_finite_is_left_out_and_a_run_without_a_log_has_no_curve(tmp_path):
    log = tmp_path / "log.jsonl"
    assert charts.training_charts(read_history(log)) == []
    log.write_text(
        "".join(json.dumps({"step": i, "loss": v}) + "\n" for i, v in ((1, 2), (2, None)))
    )
    assert read_history(log).loss == Series((1,), (2,))


def test_smoothing_is_the_weighted_mean_of_what_came_before():
    values = np.random.default_rng(0).uniform(size=30)
    decay = 1 - 1 / 5
    expected = [
        np.average(values[: i + 1], weights=decay ** np.arange(i, -1, -1)) for i in range(30)
    ]
    assert smooth(series(values.tolist()), window=5.0).values == pytest.approx(expected)


def test_thinned_points_are_means_and_the_ends_stay():
    values = list(range(1000))
    found = thin(series(values), most=10)
    assert found.values == tuple(np.reshape(values, (10, 100)).mean(1))
    assert (found.steps[0], found.steps[-1]) == (1, 1000)
    assert thin(series(values), most=1000) == series(values)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, (0, 0.25, 0.5, 0.75, 1)),
        (0, 0.7, (0, 0.2, 0.4, 0.6, 0.8)),
        (0, 4200, (0, 2000, 4000, 6000)),
        (-0.3, 0.3, (-0.4, -0.2, 0, 0.2, 0.4)),
        (0, 0, (0, 0.25, 0.5, 0.75, 1)),
    ],
)
def test_axes_have_round_ticks_around_the_values(low, high, ticks):
    assert charts.round_axis(low, high, count=4).ticks == pytest.approx(ticks)


def test_a_path_goes_through_its_points_from_below_to_the_top():
    chart = charts.make_chart("k", "t", [charts.Line("a", Series((0, 5, 10), (0.0, 1.0, 0.5)))])
    assert chart is not None
    points = re.findall(r"[ML](\d+) (\d+)", chart.path(chart.lines[0]))
    assert points == [("0", "1000"), ("500", "0"), ("1000", "500")]


def test_a_logarithmic_axis_has_powers_of_ten():
    axis = charts.logarithmic_axis(0.02, 30)
    assert axis.ticks == pytest.approx((0.01, 0.1, 1, 10, 100))
    assert axis.place(1.0) == pytest.approx(0.5)


def test_ticks_of_an_axis_are_written_alike():
    axis = charts.round_axis(0, 0.002, count=4)
    assert [axis.label(tick) for tick in axis.ticks] == ["0", "0.5e-3", "1e-3", "1.5e-3", "2e-3"]
    assert charts.round_axis(0, 40_000, count=4).label(20_000) == "20k"


def test_long_runs_of_many_classes_have_few_points(tmp_path):
    lines = [charts.Line(str(i), series([0.5] * 5000)) for i in range(150)]
    chart = charts.make_chart("k", "t", lines)
    assert chart is not None
    assert sum(len(one.series.steps) for one in chart.lines) <= charts.ALL_POINTS
    assert len(chart.to_json()["steps"]) == 1  # they share their steps
