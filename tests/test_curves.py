"""A calibration's pictures: what is where in them."""

import numpy as np
from PIL import Image

from trashseg_jax.report import curves

SIDE = curves.WIDTH - 2 * curves.MARGIN
BINS = {"counts": [0, 400, 100, 0], "said": [0, 0.4, 0.7, 0], "true": [0, 0.25, 1.0, 0]}
REPORT = {
    "calibration": {
        "classes": ["Background", "Paper", "Battery"],
        "log_weight": [0.0, 1.0, 5.0],
        "strength": 0.5,
        "method": "prior",
    },
    "curve": {
        "strength": [0.0, 0.5, 1.0],
        "miou": [0.3, 0.3, 0.3],
        "iou": {"Background": [0.5] * 3, "Paper": [0.15] * 3, "Battery": [None, 0.0, 0.0]},
    },
    "two_fold": {
        "raw": {"ece": 0.2, "bins": BINS},
        "prior": {"ece": 0.1, "bins": {**BINS, "true": [0, 0.5, 0.5, 0]}},
    },
}


def pixel_at(picture, x, y, *, left=0):
    """The colour where x and y, both from 0 to 1, are on the axes."""
    place = left + curves.MARGIN + x * SIDE, curves.MARGIN + (1 - y) * SIDE
    return tuple(picture[round(place[1]), round(place[0])])


def test_bars_reach_what_came_true_and_no_higher(tmp_path):
    curves.save_reliability(tmp_path / "r.png", REPORT)
    picture = np.array(Image.open(tmp_path / "r.png"))
    assert pixel_at(picture, 0.375, 0.23) == curves.BLUE
    assert pixel_at(picture, 0.375, 0.27) != curves.BLUE
    assert pixel_at(picture, 0.625, 0.97) == curves.BLUE
    assert pixel_at(picture, 0.375, 0.48, left=curves.WIDTH) == curves.BLUE
    assert pixel_at(picture, 0.625, 0.53, left=curves.WIDTH) != curves.BLUE
    # An empty bin has no bar; one of a quarter as many pixels is half as wide.
    assert pixel_at(picture, 0.125, 0.02) != curves.BLUE
    line = picture[curves.MARGIN + SIDE - 8, curves.MARGIN : curves.MARGIN + SIDE]
    row = (line == curves.BLUE).all(-1)
    first, second = row[: SIDE // 2].sum(), row[SIDE // 2 :].sum()
    assert abs(first - 2 * second) <= 3


def test_a_line_is_at_its_height_and_the_strength_that_is_taken_is_marked(tmp_path):
    """The largest IoU drawn is 0.5, so that the axis ends at the next fifth, 0.6."""
    curves.save_strengths(tmp_path / "s.png", REPORT)
    picture = np.array(Image.open(tmp_path / "s.png"))
    assert pixel_at(picture, 0.25, 0.3 / 0.6) == (0, 0, 0)
    assert pixel_at(picture, 0.5, 0.9) == curves.GREY
    assert pixel_at(picture, 0.3, 0.9) == (255, 255, 255)
