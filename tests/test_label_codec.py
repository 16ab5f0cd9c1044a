import zlib

import numpy as np
import pytest

from trashseg_jax.data import label_codec

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "label",
    [
        np.zeros((1, 1), np.uint8),
        np.full((300, 500), 255, np.uint8),
        RNG.integers(0, 256, (37, 53), np.uint8),
        np.repeat(RNG.integers(0, 11, (40, 8), np.uint8), 8, axis=1),
        np.arange(6, dtype=np.uint8).reshape(2, 3).T,  # not contiguous
    ],
)
def test_decoding_gives_back_what_was_encoded(label):
    decoded = label_codec.decode_label(label_codec.encode_label(label))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, label)


def test_layout_is_the_documented_one():
    content = zlib.decompress(
        label_codec.encode_label(np.array([[7, 7, 7], [7, 2, 255]], np.uint8))
    )
    header = np.array([2, 3, 3], "<u4").tobytes()
    assert content == header + np.array([4, 1, 1], "<u4").tobytes() + bytes([7, 2, 255])
