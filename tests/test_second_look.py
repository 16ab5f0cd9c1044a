"""A second look at images: the same predictions as the first, at the size that is shown."""

import numpy as np
import pytest

from trashseg_jax.data.label_codec import decode_label
from trashseg_jax.scoring.second_look import Chosen, look_again

SIZE = 64  # of the demo's scenes


def scored(batch_size):
    """A `score` whose prediction is the label, and which is sure of half of the columns."""

    def score(source):
        for first in range(0, len(source), batch_size):
            records = [source[i] for i in range(first, min(first + batch_size, len(source)))]
            mask = np.arange(batch_size) < len(records)
            prediction = np.zeros((batch_size, SIZE, SIZE), np.uint8)
            confidence = np.zeros_like(prediction)
            confidence[:, :, : SIZE // 2] = 255
            for row, record in enumerate(records):
                prediction[row] = decode_label(record["label"])
            size = np.full((batch_size, 2), SIZE)
            yield {"mask": mask, "size": size, "prediction": prediction, "confidence": confidence}

    return score


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_images_come_in_the_order_asked_for_with_their_own_names(prepared, batch_size):
    source, names = prepared.source("val"), [name for name, _ in prepared.images("val")]
    places = [4, 0, 3]
    looks = look_again(scored(batch_size), source, places, names=names)
    assert [one.place for one in looks] == places
    assert [one.name for one in looks] == [names[place] for place in places]
    for one in looks:
        assert one.size == (SIZE, SIZE)
        np.testing.assert_array_equal(one.label, decode_label(source[one.place]["label"]))
        np.testing.assert_array_equal(one.prediction, one.label)
        assert one.confidence is not None
        half = one.confidence.shape[1] // 2
        assert (one.confidence[:, :half] == 255).all()
        assert (one.confidence[:, half:] == 0).all()


def test_only_what_is_chosen_is_read():
    records = {3: {"id": 7}, 1: {"id": 5}}  # any other place would raise
    chosen = Chosen(records, [3, 1])
    assert len(chosen) == 2
    assert [chosen[0]["id"], chosen[1]["id"]] == [7, 5]
