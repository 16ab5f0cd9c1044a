"""Which images a page shows."""

import numpy as np

from trashseg_jax.report import choice


def images(ious):
    """Two classes; the second has this IoU in each image and the first is all right."""
    per_image = np.zeros((len(ious), 2, 2), int)
    for one, iou in zip(per_image, ious, strict=True):
        one[0, 0], one[1, 1], one[1, 0] = 10**6, round(1000 * iou), 1000 - round(1000 * iou)
    return per_image


def test_the_worst_come_first_then_the_best_and_those_in_the_middle():
    ious = np.random.default_rng(0).permutation(np.linspace(0.1, 0.9, 81))
    order = np.argsort(ious).tolist()
    found = choice.choose_images(images(ious), most=18)
    worst, best, median = choice.WORST, choice.BEST, choice.MEDIAN
    assert found[:worst] == order[:worst]
    assert found[worst : worst + best] == order[::-1][:best]
    assert found[worst + best :] == order[38 : 38 + median]  # around the 41st of 81


def test_some_are_the_same_in_all_runs():
    spread = choice.spread(500)
    assert len(spread) == choice.SPREAD
    assert (spread[0], spread[-1]) == (0, 499)
    for seed in range(3):
        ious = np.random.default_rng(seed).uniform(0.1, 0.9, 500)
        assert set(spread) <= set(choice.choose_images(images(ious), most=48))


def test_the_image_that_makes_a_large_error_and_each_classes_worst_are_there():
    """Of 400 alike images one has most of an error, another one alone has the third class."""
    per_image = np.zeros((400, 3, 3), int)
    per_image[:, 0, 0] = per_image[:, 1, 1] = 1000
    per_image[:, 0, 1] = 500
    per_image[137, 1, 0] = 400
    per_image[251, 2, 2], per_image[251, 0, 1] = 20, 0
    found = choice.choose_images(per_image, most=48)
    assert {137, 251} <= set(found)


def test_no_image_comes_twice_and_none_without_a_pixel_is_ranked():
    per_image = images([0.5, 0.2, 0.9])
    per_image[1] = 0
    assert choice.rank_images(per_image) == [0, 2]
    assert sorted(choice.choose_images(per_image, most=48)) == [0, 1, 2]
