"""Images' confusion matrices: on disk, and which images a cell owes most to."""

import fixtures_pages
import numpy as np
import pytest

from trashseg_jax.report import cells
from trashseg_jax.report.confusions import load_confusions, save_confusions


@pytest.mark.parametrize(("images", "classes"), [(1, 2), (20, 11), (30, 254)])
def test_the_file_gives_back_what_was_saved(tmp_path, images, classes):
    names = fixtures_pages.file_names(images)
    kinds = [str(i) for i in range(classes)]
    per_image = fixtures_pages.confusions(images, classes)
    per_image[0, 0, 0] = 12_000_000  # a photograph of 4000x3000 pixels
    save_confusions(tmp_path / "c.npz", names, kinds, per_image)
    found = load_confusions(tmp_path / "c.npz")
    assert (found.names, found.classes) == (names, kinds)
    np.testing.assert_array_equal(found.per_image, per_image)


def test_a_cells_images_are_those_of_a_sort_of_all():
    per_image = fixtures_pages.confusions(40, 5)
    found = cells.top_images(per_image)
    for t in range(5):
        for p in range(5):
            counts = per_image[:, t, p]
            order = np.argsort(-counts, kind="stable")[: cells.TOP]
            expected = [(int(i), int(counts[i])) for i in order if counts[i]]
            assert found.get(f"{t}-{p}", []) == (expected if t != p else [])


def test_only_the_largest_cells_have_their_images(monkeypatch):
    monkeypatch.setattr(cells, "MOST_CELLS", 1)
    per_image = np.zeros((2, 3, 3), int)
    per_image[0, 0, 1], per_image[1, 1, 2] = 5, 6
    assert cells.top_images(per_image) == {"1-2": [(1, 6)]}


def test_shares_are_of_rows_or_columns_and_absent_cells_are_told_apart():
    confusion = np.array([[90, 10, 0], [0, 0, 0], [300, 1, 99]])
    assert cells.shares(confusion, axis=1) == [[90, 10, -1], [-1, -1, -1], [75, 0, 25]]
    assert cells.shares(confusion, axis=0)[0] == [23, 91, -1]
