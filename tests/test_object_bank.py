import io

import numpy as np
import pytest
from fixtures_pieces import flood_pieces
from PIL import Image

from trashseg_jax import build
from trashseg_jax.data import builder, object_bank
from trashseg_jax.data.label_codec import encode_label
from trashseg_jax.data.pieces import find_pieces
from trashseg_jax.errors import InputError

OPTIONS = object_bank.BankOptions(per_class=5, size=(0.1, 0.5), side=1000, border=0.0)


def record(label, image=None):
    if image is None:
        image = np.random.default_rng(int(label.sum()) + label.size).integers(
            0, 256, (*label.shape, 3), np.uint8
        )
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return {"image": file.getvalue(), "label": encode_label(label), "id": 0}, image


def scene(*boxes, shape=(40, 60)):
    """A label map of rectangles: class, top, left, height, width."""
    label = np.zeros(shape, np.uint8)
    for k, top, left, height, width in boxes:
        label[top : top + height, left : left + width] = k
    return label


def collect(*labels, **changes):
    options = object_bank.dataclasses.replace(OPTIONS, **changes)
    return object_bank.collect([record(label)[0] for label in labels], options, num_classes=4)


def test_pieces_are_disjoint_connected_and_make_up_the_mask():
    mask = np.random.default_rng(0).random((20, 30)) < 0.3
    pieces, total = find_pieces(mask), np.zeros(mask.shape, int)
    for box, piece in pieces:
        total[box] += piece
        assert flood_pieces(piece) == 1
    np.testing.assert_array_equal(total, mask)
    assert len(pieces) == flood_pieces(mask)


def test_cutout_is_the_photographs_pixels_around_the_object_and_its_mask():
    label = scene((2, 10, 20, 8, 12))
    label[12, 23] = 3  # a hole, of another class, and too small to be an object
    stored, image = record(label)
    bank = object_bank.collect([stored], OPTIONS, num_classes=4)
    assert (bank.classes.tolist(), bank.sides.tolist()) == ([2], [60.0])
    cutout, around = bank.cutout(0), np.s_[10 - 4 : 18 + 4, 20 - 4 : 32 + 4]
    np.testing.assert_array_equal(cutout[..., :3], image[around])
    np.testing.assert_array_equal(cutout[..., 3], np.where(label[around] == 2, 255, 0))


@pytest.mark.parametrize(
    ("box", "taken"),
    [
        ((1, 10, 20, 6, 4), True),
        ((1, 10, 20, 5, 5), False),  # a tenth of 60: 6
        ((1, 5, 10, 30, 30), True),
        ((1, 5, 10, 5, 31), False),
        ((1, 4, 4, 8, 8), True),  # MARGIN pixels from the border
        ((1, 3, 4, 8, 8), False),
        ((1, 28, 48, 8, 8), True),
        ((1, 28, 49, 8, 8), False),
        ((255, 10, 20, 8, 8), False),
        ((0, 10, 20, 8, 8), False),
    ],
)
def test_objects_are_of_the_right_size_and_away_from_the_border(box, taken):
    bank = collect(scene(box))
    assert bank.found.tolist() == [0, int(taken), 0, 0]
    assert bank.counts.tolist() == [0, int(taken), 0, 0]


def test_a_class_keeps_at_most_so_many_and_all_are_counted():
    """Twelve of class 1 in three images, one of class 3; those kept are different ones."""
    four = [(1, 5 + 12 * (i % 2), 5 + 12 * (i // 2), 7, 7) for i in range(4)]
    labels = [scene(*four), scene(*four, (3, 5, 40, 7, 9)), scene(*four, shape=(50, 60))]
    bank = collect(*labels)
    assert bank.found.tolist() == [0, 12, 0, 1]
    assert bank.classes.tolist() == [1, 1, 1, 1, 1, 3]
    assert len({bank.cutout(i).tobytes() for i in range(6)}) == 6
    again = collect(*labels)
    np.testing.assert_array_equal(again.pixels, bank.pixels)


def test_each_object_is_as_likely_to_be_kept(monkeypatch):
    """Of one image's three, two: each two times in three, over 60 seeds."""
    three = scene(*((1, 10, 5 + 15 * i, 6 + i, 7) for i in range(3)))
    kept = np.zeros(3, int)
    for seed in range(60):
        monkeypatch.setattr(object_bank, "SEED", seed)
        heights = collect(three, per_class=2).shapes[:, 0]
        kept[heights - 6 - 2 * object_bank.MARGIN] += 1
    assert np.all(np.abs(kept - 40) < 4 * np.sqrt(60 * 2 / 9))


def test_larger_photographs_are_scaled_to_the_side():
    """To half: a box of 16x20, and its colour, which has no edge within the margin."""
    label = scene((2, 30, 40, 16, 20), shape=(80, 120))
    stored, _ = record(label, np.full((80, 120, 3), 77, np.uint8))
    options = object_bank.dataclasses.replace(OPTIONS, side=60)
    bank = object_bank.collect([stored], options, num_classes=4)
    assert bank.sides.tolist() == [60.0]
    assert bank.shapes.tolist() == [[8 + 8, 10 + 8]]
    assert np.all(bank.pixels[:, :3] == 77)
    expected = np.zeros((16, 18), bool)
    expected[4:-4, 4:-4] = True
    np.testing.assert_array_equal(bank.cutout(0)[..., 3] >= 128, expected)


def test_blurred_edge_is_half_where_a_straight_side_runs():
    """Of a Gaussian that is symmetric, the two pixels at a side's middle sum to 1."""
    bank = collect(scene((1, 10, 20, 14, 14)), border=1.5)
    alpha = bank.cutout(0)[..., 3].astype(int)
    middle = alpha[4 + 7]
    assert np.all(np.diff(middle[:11]) >= 0)
    assert abs(middle[3] + middle[4] - 255) <= 1
    np.testing.assert_array_equal(middle >= 128, [False] * 4 + [True] * 14 + [False] * 4)


# The file.


def test_bank_is_made_once_and_read_as_it_was_made(tmp_path):
    source = [record(scene((1, 10, 20, 8, 8), (3, 25, 20, 8, 9)))[0]]
    (made, read) = (
        object_bank.load_bank(tmp_path, given, OPTIONS, num_classes=4) for given in (source, None)
    )
    for field in object_bank.dataclasses.fields(made):
        np.testing.assert_array_equal(getattr(read, field.name), getattr(made, field.name))
    assert len(list(tmp_path.glob("*.npz"))) == 1


def test_other_options_make_another_bank(tmp_path):
    source = [record(scene((1, 10, 20, 8, 8)))[0]]
    for changes in ({}, {"per_class": 4}, {"size": (0.1, 0.4)}, {"side": 50}, {"border": 1.0}):
        options = object_bank.dataclasses.replace(OPTIONS, **changes)
        object_bank.load_bank(tmp_path, source, options, num_classes=4)
    assert len(list(tmp_path.glob("*.npz"))) == 5


def test_interrupted_making_leaves_no_bank(tmp_path, monkeypatch):
    def stop(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    source = [record(scene((1, 10, 20, 8, 8)))[0]]
    monkeypatch.setattr(object_bank.np, "savez", stop)
    with pytest.raises(KeyboardInterrupt):
        object_bank.load_bank(tmp_path, source, OPTIONS, num_classes=4)
    assert {path.suffix for path in tmp_path.iterdir()} == {".lock"}


# From a config.

no_warning = pytest.mark.filterwarnings("ignore:config.data.paste.size")


@pytest.fixture
def config(tiny_config):
    config = tiny_config()
    config.data.paste.probability = 1.0
    return config


@no_warning
def test_bank_is_of_the_training_split_alone(config, prepared, monkeypatch, tmp_path):
    source, splits = builder.Prepared.source, []
    monkeypatch.setattr(
        builder.Prepared, "source", lambda self, split: splits.append(split) or source(self, split)
    )
    bank = build.build_bank(config, prepared)
    assert set(splits) == {"train"}
    expected = object_bank.collect(
        source(prepared, "train"),
        object_bank.BankOptions(per_class=300, size=(0.03, 0.5), side=64, border=1.0),
        num_classes=11,
    )
    assert bank.counts.sum() > 10
    np.testing.assert_array_equal(bank.pixels, expected.pixels)


def test_no_bank_is_made_where_nothing_is_pasted(config):
    config.data.paste.probability = 0.0
    assert build.build_bank(config, None) is None


def test_split_without_an_object_to_paste_is_refused(config, prepared):
    config.data.paste.size = (0.99, 1.0)
    with pytest.raises(InputError, match=r"paste\.size=\(0\.99, 1\.0\): the training split has no"):
        build.build_bank(config, prepared)


def test_class_without_an_object_to_paste_is_named(config, prepared):
    config.data.paste.size = (0.4, 0.5)
    with pytest.warns(UserWarning, match=r"paste\.size=.*: class \w.* has no such object to paste"):
        build.build_bank(config, prepared)
