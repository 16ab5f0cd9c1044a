"""The pictures of a page: what is where in them, how many bytes they are, and their file."""

import dataclasses
import io

import fixtures_pages
import numpy as np
import pytest
from PIL import Image

from trashseg_jax.data import taxonomy
from trashseg_jax.report import pictures

COLORS = taxonomy.shown_colors(taxonomy.palette(11))


def look(place=0):
    return fixtures_pages.looks([place], fixtures_pages.file_names(place + 1), 11)[0]


def decode(content, mode="RGB"):
    return np.asarray(Image.open(io.BytesIO(content)).convert(mode))


def test_label_maps_have_the_classes_colours_and_ignored_pixels_are_grey():
    one = look()
    picture = pictures.encode(one, colors=COLORS)
    np.testing.assert_array_equal(decode(picture.prediction), COLORS[one.prediction])
    truth = decode(picture.truth)
    assert (truth[0] == pictures.IGNORED).all()
    np.testing.assert_array_equal(truth[1:], COLORS[one.label[1:]])


def test_errors_are_opaque_where_the_prediction_is_wrong_and_nowhere_else():
    one = look()
    errors = decode(pictures.encode(one, colors=COLORS).errors, "RGBA")
    wrong = one.label[1:] != one.prediction[1:]
    np.testing.assert_array_equal(errors[1:, :, 3] > 0, wrong)
    assert (errors[1:][wrong][:, :3] == pictures.ERROR).all()
    assert (errors[0, :, :3] == pictures.IGNORED).all()


def test_confidence_is_lighter_the_surer():
    sure = np.arange(256, dtype=np.uint8).reshape(16, 16)
    one = dataclasses.replace(look(), confidence=sure)
    shown = decode(pictures.encode(one, colors=COLORS).confidence, "L").ravel().astype(int)
    assert (np.diff(shown) >= 0).all()
    assert len(set(shown.tolist())) == pictures.CONFIDENCE_STEPS


@pytest.mark.parametrize("classes", [2, 11, 150, 254])
def test_any_number_of_classes_survives(classes):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, (36, 48)).astype(np.uint8)
    colors = taxonomy.palette(classes)
    one = dataclasses.replace(look(), prediction=labels, label=labels)
    np.testing.assert_array_equal(
        decode(pictures.encode(one, colors=colors).prediction), colors[labels]
    )


def test_the_first_pictures_are_kept_within_the_budget(monkeypatch):
    some = [look(place) for place in range(6)]
    sizes = [pictures.encode(one, colors=COLORS).num_bytes for one in some]
    monkeypatch.setattr(pictures, "BUDGET", sum(sizes[:4]))
    kept = pictures.encode_all(some, colors=COLORS)
    assert [one.place for one in kept] == [0, 1, 2, 3]


@pytest.mark.parametrize("number", [0, 1, 5])
def test_the_file_gives_back_what_was_saved(tmp_path, number):
    some = [pictures.encode(look(place), colors=COLORS) for place in range(number)]
    pictures.save_pictures(tmp_path / "pictures.npz", some)
    assert pictures.load_pictures(tmp_path / "pictures.npz") == some
    assert pictures.load_pictures(tmp_path / "absent.npz") == []
