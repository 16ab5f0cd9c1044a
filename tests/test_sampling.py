import io
from functools import partial
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from trashseg_jax.data import pipeline, sampling
from trashseg_jax.data.label_codec import encode_label


def stream(start, stop, seed=0, size=7):
    return [sampling.uniform_index(p, seed=seed, size=size) for p in range(start, stop)]


def test_each_epoch_holds_every_record_once():
    for epoch in range(5):
        assert sorted(stream(7 * epoch, 7 * epoch + 7)) == list(range(7))


def test_stream_is_a_function_of_seed_and_position_alone():
    whole = stream(0, 40)
    sampling.permutation.cache_clear()
    assert stream(25, 40) == whole[25:]
    assert stream(0, 40, seed=1) != whole


def test_epochs_differ_and_places_are_uniform():
    """Chi-square of the record at the first place over 2,000 epochs: 6 degrees of freedom."""
    first = [sampling.uniform_index(7 * epoch, seed=3, size=7) for epoch in range(2000)]
    counts = np.bincount(first, minlength=7)
    statistic = ((counts - 2000 / 7) ** 2 / (2000 / 7)).sum()
    assert statistic < 22.46  # its 99.9 % quantile


WEIGHTS = np.array([5.0, 0.1, 1.0, 0.0, 2.5, 1.0, 0.4])


def weighted(start, stop, seed=0, weights=WEIGHTS):
    table = sampling.alias_table(weights)
    return [sampling.weighted_index(p, seed=seed, table=table) for p in range(start, stop)]


@pytest.mark.parametrize(
    "weights",
    [WEIGHTS, np.ones(5), np.array([3.0]), np.random.default_rng(0).exponential(size=3000) ** 3],
    ids=["mixed", "equal", "single", "many"],
)
def test_alias_table_has_exactly_the_weights(weights):
    keep, other = sampling.alias_table(weights)
    assert np.all((keep >= 0) & (keep <= 1))
    shares = keep.copy()
    np.add.at(shares, other, 1 - keep)
    np.testing.assert_allclose(shares / len(keep), weights / weights.sum(), rtol=0, atol=1e-12)


def test_drawn_frequencies_are_the_weights():
    """Chi-square over the six records of positive weight: 5 degrees of freedom."""
    counts = np.bincount(weighted(0, 20_000), minlength=7)
    expected = 20_000 * WEIGHTS / WEIGHTS.sum()
    assert counts[3] == 0
    drawn = WEIGHTS > 0
    statistic = ((counts - expected)[drawn] ** 2 / expected[drawn]).sum()
    assert statistic < 20.52  # its 99.9 % quantile


def test_neighbouring_draws_are_independent():
    """Chi-square of pairs against the product of their shares: 15 degrees of freedom."""
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    draws = np.array(weighted(0, 20_000, weights=weights)).reshape(-1, 2)
    counts = np.bincount(4 * draws[:, 0] + draws[:, 1], minlength=16)
    expected = 10_000 * np.outer(weights, weights).ravel() / 100
    assert ((counts - expected) ** 2 / expected).sum() < 37.70  # its 99.9 % quantile


def test_weighted_stream_is_a_function_of_seed_and_position_alone():
    whole = weighted(0, 60)
    assert weighted(37, 60) == whole[37:]  # a resume
    assert weighted(0, 60, seed=1) != whole
    assert weighted(10**12, 10**12 + 60) != whole


def read_records(process, count):
    """The records that a process reads in three batches of eight, from step 2 on."""
    table = sampling.alias_table(WEIGHTS)
    batches = pipeline.train_batches(
        [
            {"image": png(i), "label": encode_label(np.zeros((4, 4), np.uint8)), "id": i}
            for i in range(7)
        ],
        index_of=partial(sampling.weighted_index, seed=0, table=table),
        seed=0,
        batch_size=8,
        image_size=4,
        crop_area=(1.0, 1.0),
        crop_ratio=(1.0, 1.0),
        object_crops=0.0,
        paste=None,
        start_step=2,
        process_index=process,
        process_count=count,
    )
    return np.stack([b["image"][:, 0, 0, 0] for b in islice(batches, 3)])


def png(value):
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_four_hosts_read_the_weighted_stream_of_one_interleaved():
    whole = read_records(0, 1)
    assert whole.ravel().tolist() == weighted(16, 40)
    four = np.concatenate([read_records(process, 4) for process in range(4)], axis=1)
    np.testing.assert_array_equal(four, whole)


def test_class_balanced_weighs_by_the_rarest_class_in_the_image():
    """Class 1 is in two of four images, class 2 in one; the last holds ignored pixels alone."""
    pixels = np.array([[9, 1, 0], [9, 0, 0], [5, 2, 3], [0, 0, 0]])
    actual = sampling.class_balanced(pixels, power=0.5)
    np.testing.assert_allclose(actual, [2**0.5, (4 / 3) ** 0.5, 2, 1])
    np.testing.assert_allclose(sampling.class_balanced(pixels, power=0.0), np.ones(4))


def test_repeat_factor_is_the_root_of_threshold_over_share():
    """LVIS by hand: shares 1/4 and 1/2 at threshold 0.36 give 1.2 and 1; background gives 1."""
    pixels = np.array([[9, 1, 0], [1, 0, 0], [5, 2, 3], [9, 0, 0]])
    actual = sampling.repeat_factor(pixels, threshold=0.36)
    np.testing.assert_allclose(actual, [1, 1, 1.2, 1])


def test_repeat_factor_counts_an_image_by_a_single_pixel():
    """Class 1 in one of four images, of one pixel: at threshold 1 the root of 4."""
    pixels = np.array([[9, 1], [9, 0], [9, 0], [9, 0]])
    np.testing.assert_allclose(sampling.repeat_factor(pixels, threshold=1.0), [2, 1, 1, 1])


def test_repeat_factor_leaves_the_background_out():
    pixels = np.array([[0, 1], [0, 1], [0, 1], [7, 1]])
    np.testing.assert_allclose(sampling.repeat_factor(pixels, threshold=1.0), np.ones(4))


def test_expected_shares_are_those_of_the_drawn_images():
    pixels = np.array([[9, 1, 0], [9, 0, 0], [5, 2, 3]])
    weights = np.array([1.0, 1.0, 2.0])
    shares = sampling.expected_shares(weights, pixels)
    np.testing.assert_allclose(shares, [1, 0.75, 0.5])
    drawn = weighted(0, 4000, weights=weights)
    observed = (pixels[drawn] > 0).mean(0)
    np.testing.assert_allclose(observed, shares, atol=0.03)  # 3.8 standard deviations
