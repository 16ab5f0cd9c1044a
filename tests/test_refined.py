"""Predictions that a CRF refines, with engines that stand in for one."""

import contextlib

import jax
import numpy as np
import pytest
from fixtures_models import make_model

from trashseg_jax.data import scaling
from trashseg_jax.data.augment import make_normalize
from trashseg_jax.prediction.models import make_segmenter
from trashseg_jax.prediction.refined import RefinedSegmenter
from trashseg_jax.refine import pool

SIZE = (48, 96)


class Checkers:
    """Answers a board of the classes 3 and 5, and keeps what it is given."""

    def __init__(self, error=None):
        self.error, self.given = error, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, probs, image, **options):
        self.given.append((probs, image))
        return self

    def result(self):
        if self.error:
            raise self.error
        return board(self.given[0][0].shape[:2])


def board(size):
    rows, columns = np.indices(size)
    return np.where((rows // 4 + columns // 4) % 2, 3, 5).astype(np.uint8)


def segment(engine, photo):
    model = make_model()
    options = {"scale": "fit", "tile_scale": 1.0, "tta": (), "batch_size": 2, "keep_probs": False}
    refined = RefinedSegmenter(make_segmenter(model, **options), engine)
    with contextlib.ExitStack() as stack:
        stack.enter_context(engine)
        (found,) = refined.segment_seen(iter([refined.see(photo)]))
    return model, found


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


def test_classes_are_enlarged_and_each_has_the_network_s_probability_of_it(photo):
    engine = Checkers()
    model, found = segment(engine, photo)
    (probs, image), side = engine.given[0], model.image_size
    scaled = scaling.fit_photo(photo, side)
    np.testing.assert_array_equal(image, scaled)  # without the padding of the square
    pixels = make_normalize(model.normalize)(scaling.pad_photo(scaled, side)[None])
    logits = model.network.apply(model.variables, pixels, train=False)
    height, width = scaled.shape[:2]
    expected = np.asarray(jax.nn.softmax(logits))[0, :height, :width]
    np.testing.assert_allclose(probs, expected, atol=1e-4)

    classes = scaling.scale_label(board(scaled.shape[:2]), SIZE)
    np.testing.assert_array_equal(found.classes, classes)
    rows = np.minimum(((np.arange(SIZE[0]) + 0.5) * height / SIZE[0]).astype(int), height - 1)
    columns = np.minimum(((np.arange(SIZE[1]) + 0.5) * width / SIZE[1]).astype(int), width - 1)
    own = probs[rows[:, None], columns][np.arange(SIZE[0])[:, None], np.arange(SIZE[1]), classes]
    np.testing.assert_allclose(found.confidence, own, atol=1e-3)


def test_what_the_crf_fails_at_stays_as_predicted_and_is_said(photo, capsys):
    engine = Checkers(pool.CrfError("worker died (signal 9)"))
    _, found = segment(engine, photo)
    probs = engine.given[0][0]
    expected = scaling.scale_label(probs.argmax(-1).astype(np.uint8), SIZE)
    np.testing.assert_array_equal(found.classes, expected)
    assert "stays as predicted" in capsys.readouterr().out
