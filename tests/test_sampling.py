import numpy as np

from trashseg_jax.data import sampling


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
