"""A map of classes as runs of equal pixels."""

import numpy as np
import pytest
from fixtures_pieces import flood_pieces
from pycocotools import mask as mask_utils

from trashseg_jax.prediction import runs

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


@pytest.mark.parametrize("at_a_time", [1, 2, 7, 64])
def test_a_spiral_is_one_piece_wherever_its_runs_are_parted(monkeypatch, at_a_time):
    monkeypatch.setattr(runs, "AT_A_TIME", at_a_time)
    classes = np.zeros((41, 41), np.uint8)
    for ring in range(0, 20, 2):  # each ring opens into the next
        classes[ring, max(ring - 2, 0) : 41 - ring] = classes[ring : 41 - ring, 40 - ring] = 1
        classes[40 - ring, ring : 41 - ring] = classes[ring + 2 : 41 - ring, ring] = 1
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
