import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trashseg_jax.data import paste

COLOURS = {1: (200, 100, 40), 2: (20, 240, 120), 3: (90, 10, 250)}
MARGIN = 3


def make_bank(objects, found, side=100.0):
    """Of `(class, height, width)`: rectangles of COLOURS, the photograph around them white."""
    cutouts = []
    for k, height, width in objects:
        cutout = np.full((height + 2 * MARGIN, width + 2 * MARGIN, 4), (255, 255, 255, 0), np.uint8)
        cutout[MARGIN:-MARGIN, MARGIN:-MARGIN] = (*COLOURS[k], 255)
        cutouts.append(cutout)
    return paste.Bank(
        pixels=np.concatenate([cutout.reshape(-1, 4) for cutout in cutouts]),
        shapes=np.array([cutout.shape[:2] for cutout in cutouts]),
        sides=np.full(len(cutouts), side),
        classes=np.array([k for k, *_ in objects]),
        found=np.array(found),
    )


BANK = make_bank([(1, 6, 9), (1, 12, 4), (2, 8, 8), (3, 5, 20)], found=[0, 100, 25, 4])
OPTIONS = {"seed": 0, "probability": 1.0, "objects": 1, "scale": (1.0, 1.0), "power": 0.5}


def pasted(position=0, *, shape=(64, 64), bank=BANK, sides=(100.0, 100.0), **changes):
    """An ignored, black image with objects."""
    image, label = np.zeros((*shape, 3), np.uint8), np.full(shape, 255, np.uint8)
    options = {**OPTIONS, "flip": False, **changes}
    paste.make_paste(bank, **options)(image, label, position, sides)
    return image, label


def inner(mask):
    """Pixels whose eight neighbours, and theirs, are of the mask, the image's border left out."""
    return np.lib.stride_tricks.sliding_window_view(np.pad(mask, 2), (5, 5)).all((2, 3))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(0, 10**12), st.integers(1, 3), st.tuples(st.integers(1, 60), st.integers(1, 60)))
def test_a_pasted_pixel_has_its_objects_class_and_colour(position, objects, shape):
    image, label = pasted(position, objects=objects, shape=shape, scale=(0.5, 2.0), flip=True)
    for k, colour in COLOURS.items():
        assert np.all(image[inner(label == k)] == colour)
    assert set(np.unique(label)) <= {1, 2, 3, 255}
    assert np.all(image[inner(label == 255)] == 0)


def test_at_its_own_scale_an_object_is_copied_pixel_by_pixel():
    for position in range(20):
        image, label = pasted(position, shape=(200, 200))
        (k,) = set(np.unique(label)) - {255}
        assert np.all(image[label == k] == COLOURS[k])
        assert not np.any(image[label == 255])  # the photograph around it stays away


def test_what_reaches_beyond_the_image_is_cut_off():
    """Pasting into a part of an image gives that part of what is pasted into the whole."""
    for row, column, flipped in np.ndindex(5, 5, 2):
        placed = paste.Placed(3, 1.3, bool(flipped), (0.0, 0.0))
        centre = (row * 5.0, column * 5.0)
        whole, part = np.zeros((60, 60, 3), np.uint8), np.zeros((20, 20, 3), np.uint8)
        labels, label = np.zeros((60, 60), np.uint8), np.zeros((20, 20), np.uint8)
        at = [placed._replace(centre=tuple(np.array(centre) / 20)) for _ in range(2)]
        at[0] = placed._replace(centre=tuple((np.array(centre) + 20) / 60))
        paste.paste_object(whole, labels, BANK, at[0], sides=(100.0, 100.0))
        paste.paste_object(part, label, BANK, at[1], sides=(100.0, 100.0))
        np.testing.assert_array_equal(part, whole[20:40, 20:40])
        np.testing.assert_array_equal(label, labels[20:40, 20:40])


@pytest.mark.parametrize("sides", [(100.0, 100.0), (200.0, 200.0), (300.0, 100.0), (100.0, 50.0)])
@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_size_is_the_share_of_the_photographs_side_times_the_scale(sides, scale):
    """8x8 of a photograph of 100: 8 % of the sides."""
    bank = make_bank([(2, 8, 8)], found=[0, 0, 1])
    image, label = (np.zeros((200, 200, 3), np.uint8), np.zeros((200, 200), np.uint8))
    placed = paste.Placed(0, scale, False, (0.5, 0.5))
    paste.paste_object(image, label, bank, placed, sides=sides)
    rows, columns = (np.count_nonzero(label.any(axis)) for axis in (1, 0))
    np.testing.assert_allclose([rows, columns], np.array(sides) * 0.08 * scale, atol=1)


def test_scale_is_within_its_ends_and_its_logarithm_is_uniform():
    """By the width of an object of 40 pixels, in 400 draws: standard deviation of a share 1/40.

    One of w pixels is cut off in w / 400 of its places: the mean of w is 20 / log 2 below 40, twice
    that above, and so 0.928 / (0.928 + 0.856) of those left are below.
    """
    bank = make_bank([(1, 4, 40)], found=[0, 1])
    widths = []
    for position in range(400):
        _, label = pasted(position, bank=bank, shape=(40, 400), scale=(0.5, 2.0))
        columns = np.flatnonzero((label == 1).any(0))
        if columns[0] > 0 and columns[-1] < 399:  # not cut off
            widths.append(len(columns))
    widths = np.array(widths)
    assert widths.min() >= 18
    assert widths.max() <= 82
    assert abs(np.mean(widths < 40) - 0.52) < 4 / 40


def test_class_weights_are_powers_of_what_was_found():
    np.testing.assert_allclose(
        paste.class_weights(BANK, power=0.5), np.array([0, 1 / 10, 1 / 5, 1 / 2]) / 0.8
    )
    np.testing.assert_allclose(paste.class_weights(BANK, power=0.0), [0, 1 / 3, 1 / 3, 1 / 3])
    absent = dataclasses.replace(BANK, found=np.array([7, 100, 25, 4, 0]))
    assert paste.class_weights(absent, power=1.0)[[0, 4]].tolist() == [0, 0]


def test_classes_come_as_often_as_their_weights_say_and_their_objects_alike():
    """Objects are told by class and shape; chi-square, 3 degrees of freedom."""
    counts = np.zeros(4)
    whole = [np.prod(shape - 2 * MARGIN) for shape in BANK.shapes]
    for position in range(800):
        _, label = pasted(position, shape=(200, 200))
        k, area = label.min(), np.count_nonzero(label != 255)
        rows = np.count_nonzero((label != 255).any(1))
        counts[{1: 1 if rows > 6 or (rows < 6 and area < 6 * 4) else 0, 2: 2, 3: 3}[int(k)]] += 1
    assert whole == [54, 48, 64, 100]
    expected = 800 * np.array([1 / 16, 1 / 16, 1 / 4, 5 / 8])
    assert ((counts - expected) ** 2 / expected).sum() < 16.27  # its 99.9 % quantile


def test_a_share_of_the_images_gets_objects_and_the_others_stay():
    touched = [np.any(pasted(p, probability=0.25)[1] != 255) for p in range(400)]
    assert abs(np.sum(touched) - 100) < 4 * np.sqrt(400 * 0.25 * 0.75)


def test_up_to_so_many_objects_are_pasted(monkeypatch):
    numbers = []
    monkeypatch.setattr(paste, "paste_object", lambda *args, **kwargs: numbers.append(args))
    pasting = paste.make_paste(BANK, **{**OPTIONS, "objects": 3, "flip": True})
    counts, flips = np.zeros(4), 0
    for position in range(300):
        numbers.clear()
        pasting(None, None, position, (100.0, 100.0))
        counts[len(numbers)] += 1
        flips += numbers[0][3].flipped
    assert counts[0] == 0
    assert ((counts[1:] - 100) ** 2 / 100).sum() < 13.82  # chi-square, 2 degrees of freedom
    assert abs(flips - 150) < 4 * np.sqrt(300 / 4)


def test_flip_mirrors_colours_and_mask():
    ramp = np.zeros((4, 6, 4), np.uint8)
    ramp[..., :3] = np.arange(6)[None, :, None] * 10
    ramp[..., 3] = np.array([0, 255, 255, 255, 0, 0])
    bank = dataclasses.replace(
        make_bank([(1, 4, 6)], found=[0, 1]), pixels=ramp.reshape(-1, 4), shapes=np.array([[4, 6]])
    )
    results = []
    for flipped in (False, True):
        image, label = np.zeros((8, 10, 3), np.uint8), np.zeros((8, 10), np.uint8)
        placed = paste.Placed(0, 1.0, flipped, (0.5, 0.5))
        paste.paste_object(image, label, bank, placed, sides=(100.0, 100.0))
        results.append((image, label))
    (image, label), (mirrored, mirrored_label) = results
    np.testing.assert_array_equal(label[3, 3:6], [1, 1, 1])
    np.testing.assert_array_equal(mirrored, image[:, ::-1])
    np.testing.assert_array_equal(mirrored_label, label[:, ::-1])


def test_blended_edge_is_the_mean_weighed_by_alpha_and_labelled_from_half_on():
    alpha = np.array([0, 51, 127, 128, 204, 255], np.uint8)
    cutout = np.full((1, 6, 4), 200, np.uint8)
    cutout[0, :, 3] = alpha
    bank = paste.Bank(
        cutout.reshape(-1, 4),
        np.array([[1, 6]]),
        np.array([10.0]),
        np.array([1]),
        np.array([0, 1]),
    )
    image, label = np.full((1, 6, 3), 100, np.uint8), np.zeros((1, 6), np.uint8)
    placed = paste.Placed(0, 1.0, False, (0.5, 0.5))
    paste.paste_object(image, label, bank, placed, sides=(10.0, 10.0))
    np.testing.assert_allclose(image[0, :, 0], 100 + 100 * (alpha / 255), atol=0.51)
    assert label[0].tolist() == [0, 0, 0, 1, 1, 1]


def test_seed_and_position_decide_what_is_pasted_where():
    def labels(seed):
        return [pasted(p, seed=seed, objects=3, scale=(0.5, 1.5))[1].tobytes() for p in range(10)]

    assert labels(0) == labels(0)
    assert len({*labels(0), *labels(1)}) == 20
