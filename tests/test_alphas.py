"""Class weights, worked by hand from the papers' formulas."""

import numpy as np
import pytest

from trashseg_jax import alphas
from trashseg_jax.errors import InputError

# Recycle Trash's annotations of classes 1 to 10; the background has none.
COMPETITION = np.array([0, 2782, 9311, 659, 562, 610, 3090, 1343, 7643, 63, 177])


def test_annotation_ratio_is_the_references_list():
    expected = [1, 3, 1, 14, 17, 15, 3, 7, 1, 148, 53]
    assert alphas.annotation_ratio(COMPETITION).tolist() == expected


def test_annotation_ratio_does_not_look_at_the_background():
    counts = np.array([10**6, 20, 5])
    assert alphas.annotation_ratio(counts).tolist() == [1, 1, 4]


def test_counts_are_pixels_images_and_annotations():
    pixels = np.array([[90, 10, 0], [50, 0, 0], [40, 0, 0], [0, 7, 3]])
    annotations = np.array([[0, 2, 0], [0, 0, 0], [0, 0, 0], [0, 1, 4]])
    counts = alphas.class_counts(pixels, annotations)
    assert counts["pixels"].tolist() == [180, 17, 3]
    assert counts["images"].tolist() == [3, 2, 1]
    assert counts["annotations"].tolist() == [3, 3, 4]  # the background: its three images


def test_inverse_frequency_of_power_one_is_total_over_classes_times_count():
    counts = np.array([6, 3, 1])
    np.testing.assert_allclose(
        alphas.inverse_frequency(counts, power=1.0), [10 / 18, 10 / 9, 10 / 3]
    )


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_inverse_frequency_has_ratios_to_the_power_and_a_mean_of_one(power):
    counts = np.array([16, 4, 0, 1])
    weights = alphas.inverse_frequency(counts, power=power)
    np.testing.assert_allclose(weights[[1, 3]] / weights[0], [4**power, 16**power])
    np.testing.assert_allclose((counts * weights).sum() / counts.sum(), 1)


def test_median_frequency_counts_only_images_with_the_class():
    """Frequencies 120/200, 60/200 and 20/100 (it occurs in the second image alone)."""
    pixels = np.array([[70, 30, 0], [50, 30, 20]])
    np.testing.assert_allclose(alphas.median_frequency(pixels), [0.5, 1, 1.5])


def test_median_is_of_the_frequencies_of_classes_that_occur():
    """Of 0.2, 0.3 and 0.6, so 0.3; with an absent class's 0 it would be 0.25."""
    pixels = np.array([[0, 70, 30, 0], [0, 50, 30, 20]])
    np.testing.assert_allclose(alphas.median_frequency(pixels), [0, 0.5, 1, 1.5])


def test_effective_number_of_small_counts():
    """beta 0.5: E = 1, 1.5, 1.75 for 1, 2, 3 samples; the inverses, scaled to a sum of 3."""
    inverses = np.array([1, 2 / 3, 4 / 7])
    actual = alphas.effective_number(np.array([1, 2, 3]), beta=0.5)
    np.testing.assert_allclose(actual, 3 * inverses / inverses.sum())


def test_effective_number_goes_from_equal_weights_to_inverse_counts():
    counts = np.array([10, 100, 1000])
    np.testing.assert_allclose(alphas.effective_number(counts, beta=0.0), [1, 1, 1])
    nearly_one = alphas.effective_number(counts, beta=1 - 1e-9)
    np.testing.assert_allclose(nearly_one / nearly_one[2], [100, 10, 1], rtol=1e-5)


def test_effective_number_of_pixel_counts_is_the_same_for_all():
    """Why build_alpha refuses them."""
    weights = alphas.effective_number(np.array([10**6, 10**8, 10**9]), beta=0.9999)
    np.testing.assert_allclose(weights, [1, 1, 1])


def test_enet_is_one_over_the_shifted_logarithm():
    actual = alphas.enet(np.array([75, 25, 0]))
    np.testing.assert_allclose(actual, [1 / np.log(1.77), 1 / np.log(1.27), 0])


def test_enet_is_bounded_as_the_paper_says():
    """ "We set c to 1.02, to bound the weights between 1 and 50"."""
    low, high = alphas.enet(np.array([10**12, 1]))
    assert 1 < low < high < 50.5


@pytest.mark.parametrize(
    "weights",
    [
        lambda c: alphas.annotation_ratio(c[0]),
        lambda c: alphas.inverse_frequency(c[0], power=1.0),
        lambda c: alphas.median_frequency(c),
        lambda c: alphas.effective_number(c[0], beta=0.9),
        lambda c: alphas.enet(c[0]),
    ],
)
def test_class_that_never_occurs_weighs_nothing(weights):
    with np.errstate(all="raise"):
        actual = weights(np.array([[50, 0, 5]]))
        nothing = weights(np.zeros((1, 3), int))
    assert (actual > 0).tolist() == [True, False, True]
    assert not np.any(nothing[1:])


NAMES = ("Background", "Battery", "Plastic bag")


def test_own_weights_are_one_a_class_or_by_name():
    np.testing.assert_array_equal(alphas.own_weights((0, 1, 2.5), classes=NAMES), [0, 1, 2.5])
    actual = alphas.own_weights("plastic bag = 2, Battery=2e1", classes=NAMES)
    np.testing.assert_array_equal(actual, [1, 20, 2])


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ((1.0, 2.0), "has 2 weights; it must have one for each of the 3 classes, Background, Bat"),
        ((0.0, 0.0, 0.0), "is 0 for every class; at least one weight must be above 0"),
        ("Background=0,Battery=0,Plastic bag=0", "is 0 for every class"),
        ("Batery=2", "there is no class 'Batery'; the nearest is 'Battery'"),
        ("Battery", "'Battery' must be CLASS=NUMBER"),
        ("Battery=2,", "'' must be CLASS=NUMBER"),
        ("Battery=2,battery=3", "class 'Battery' appears twice; remove one"),
        ("Battery=-2", "the weight '-2' must be a number from 0 to 1000000"),
        ("Battery=nan", "the weight 'nan' must be"),
        ("Battery=1e400", "the weight '1e400' must be"),
        ("Battery=many", "the weight 'many' must be"),
    ],
)
def test_own_weights_that_fit_no_class_are_refused(values, line):
    with pytest.raises(InputError) as caught:
        alphas.own_weights(values, classes=NAMES)
    assert str(caught.value).startswith("config.loss.alpha_values=")
    assert line in str(caught.value)


def test_logarithms_of_priors_have_a_floor_and_are_0_for_absent_classes():
    """An absent class is trained to be unlikely, as without adjustment."""
    actual = alphas.log_priors(np.array([0.9, 0.1 - 1e-9, 1e-9, 0.0]))
    np.testing.assert_allclose(actual, [np.log(0.9), np.log(0.1 - 1e-9), np.log(1e-6), 0])
