"""A map of classes as runs of equal pixels."""

from unittest import mock

import numpy as np
import pytest
from fixtures_pieces import draw_spiral, flood_pieces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as mask_utils

from trashseg_jax.data import class_runs as runs

SIZES = [(1, 1), (1, 9), (9, 1), (2, 3), (13, 8), (3, runs.STRIP + 9)]


@pytest.fixture(params=SIZES)
def classes(request):
    """Three classes at random: pieces that touch at corners and at the columns' ends."""
    return np.random.default_rng(0).integers(3, size=request.param, dtype=np.uint8)


@pytest.mark.parametrize("at_a_time", [1, 2, 7, runs.AT_A_TIME])
def test_pieces_are_those_that_flooding_finds(classes, monkeypatch, at_a_time):
    monkeypatch.setattr(runs, "AT_A_TIME", at_a_time)
    counts = runs.count_pieces(runs.find_runs(classes))
    np.testing.assert_array_equal(counts[:3], [flood_pieces(classes == k) for k in range(3)])
    assert not counts[3:].any()


@given(
    arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 9))),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_pieces_are_counted_across_the_borders_of_strips(mask, strip, at_a_time):
    with mock.patch.multiple(runs, STRIP=strip, AT_A_TIME=at_a_time):
        counts = runs.count_pieces(runs.find_runs(mask.astype(np.uint8)))
    assert counts[1] == flood_pieces(mask)


@pytest.mark.parametrize("at_a_time", [1, 2, 7, 64])
def test_a_spiral_is_one_piece_wherever_its_runs_are_parted(monkeypatch, at_a_time):
    monkeypatch.setattr(runs, "AT_A_TIME", at_a_time)
    classes = draw_spiral()
    counts = runs.count_pieces(runs.find_runs(classes))
    assert counts[1] == flood_pieces(classes == 1) == 1
    assert counts[0] == flood_pieces(classes == 0)


def test_a_classes_run_lengths_and_box_are_pycocotools(classes):
    found = runs.find_runs(classes)
    for k in np.unique(classes).tolist():
        own = found.of_class(k)
        rle = mask_utils.encode(np.asfortranarray(classes == k).view(np.uint8))
        assert runs.encode(own) == {"size": rle["size"], "counts": rle["counts"].decode()}
        assert runs.measure_box(own) == mask_utils.toBbox(rle).tolist()
