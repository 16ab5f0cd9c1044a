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


def test_pieces_are_those_that_flooding_finds(classes):
    counts = runs.count_pieces(runs.find_runs(classes))
    np.testing.assert_array_equal(counts[:3], [flood_pieces(classes == k) for k in range(3)])
    assert not counts[3:].any()


def test_a_classes_run_lengths_and_box_are_pycocotools(classes):
    found = runs.find_runs(classes)
    for k in np.unique(classes).tolist():
        own = found.of_class(k)
        rle = mask_utils.encode(np.asfortranarray(classes == k).view(np.uint8))
        assert runs.encode(own) == {"size": rle["size"], "counts": rle["counts"].decode()}
        assert runs.measure_box(own) == mask_utils.toBbox(rle).tolist()
