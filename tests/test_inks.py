"""Classes' colours as lines that can be seen on light and on dark pages."""

import numpy as np
import pytest

from trashseg_jax.data import taxonomy
from trashseg_jax.report import inks

COLORS = taxonomy.palette(100)


def luminance(text):
    """WCAG 2's relative luminance."""
    share = np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_oklab_is_turned_back_exactly_and_has_its_published_white_and_red():
    np.testing.assert_array_equal(inks.from_oklab(inks.to_oklab(COLORS)), COLORS)
    white, red = inks.to_oklab(np.array([[255, 255, 255], [255, 0, 0]], np.uint8))
    assert white == pytest.approx((1, 0, 0), abs=1e-3)
    assert red == pytest.approx((0.628, 0.225, 0.126), abs=1e-3)


def test_lines_have_the_contrast_that_graphics_need():
    """WCAG 2.1, 1.4.11: 3 to 1, against the pages' surfaces."""
    light, dark = inks.inks(COLORS)
    assert min(contrast(one, "#ffffff") for one in light) >= 3
    assert min(contrast(one, "#171b21") for one in dark) >= 3


def test_a_colour_that_can_be_seen_stays():
    color = np.array([[0, 102, 204]], np.uint8)
    assert inks.inks(color)[0] == ["#0066cc"]
