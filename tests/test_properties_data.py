"""Laws of painting, storing and sampling, for whatever hypothesis draws."""

import numpy as np
import pytest
from fixtures_coco import box, compressed, data_folder, uncompressed, write_coco_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trashseg_jax.data import painting, sampling
from trashseg_jax.data.formats import coco
from trashseg_jax.data.label_codec import decode_label
from trashseg_jax.data.records import load_features
from trashseg_jax.data.taxonomy import IGNORE_LABEL, ClassMap

law = settings(deadline=None, max_examples=60, derandomize=True, database=None)

HEIGHT, WIDTH = 7, 9


@st.composite
def masks(draw):
    """Draws (segmentation, mask, length): one to three boxes on the grid, or an RLE of any mask.

    The mask is filled pixel by pixel; the length is what the order "reference" ranks it by.
    """
    if draw(st.booleans()):
        mask = draw(hnp.arrays(np.uint8, (HEIGHT, WIDTH), elements=st.integers(0, 1)))
        segmentation = draw(st.sampled_from([compressed, uncompressed]))(mask)
        return segmentation, mask, len(uncompressed(mask)["counts"])
    side = st.integers(1, 12)
    corner = st.tuples(st.integers(-4, WIDTH + 2), st.integers(-4, HEIGHT + 2), side, side)
    boxes = draw(st.lists(corner, min_size=1, max_size=3))
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for x, y, width, height in boxes:
        for row in range(HEIGHT):
            for column in range(WIDTH):
                mask[row, column] |= y <= row < y + height and x <= column < x + width
    return [box(*one) for one in boxes], mask, 8


objects = st.lists(st.tuples(masks(), st.integers(0, 10), st.booleans()), max_size=6)


def brute_force(drawn, paint_order):
    """Returns the label map, each pixel from the last object, in painting order, that holds it."""
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    ranks = {
        "area": lambda mask, length: -int(mask.sum()),
        "reference": lambda mask, length: length,
    }
    ranked = sorted(
        (not ignored, ranks[paint_order](mask, length), place)
        for place, ((_, mask, length), _, ignored) in enumerate(drawn)
    )
    for _, _, place in ranked:
        (_, mask, _), value, ignored = drawn[place]
        for row in range(HEIGHT):
            for column in range(WIDTH):
                if mask[row, column]:
                    label[row, column] = IGNORE_LABEL if ignored else value
    return label


@pytest.mark.parametrize("paint_order", ["area", "reference"])
@law
@given(objects)
def test_painting_equals_a_loop_over_pixels(paint_order, drawn):
    annotations = [
        painting.Annotation(place, value, segmentation, ignored)
        for place, ((segmentation, _, _), value, ignored) in enumerate(drawn)
    ]
    size = {"height": HEIGHT, "width": WIDTH}
    classes, areas = painting.paint(annotations, **size, paint_order=paint_order)
    np.testing.assert_array_equal(classes, brute_force(drawn, paint_order))
    assert list(areas) == [mask.sum() for (_, mask, _), _, _ in drawn]


@law
@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20), fill=st.nothing())
)
def test_a_label_map_is_stored_and_read_without_loss(tmp_path_factory, label):
    """As annotations of one value each, through the reader, and back out of the stored PNG."""
    folder = tmp_path_factory.mktemp("folder")
    names = {int(value): f"class {value}" for value in np.unique(label)}
    annotations = [
        {
            "file_name": "a.png",
            "category": name,
            "segmentation": compressed((label == value).astype(np.uint8)),
        }
        for value, name in names.items()
    ]
    json_file = write_coco_folder(
        folder,
        images={"a.png": np.zeros((*label.shape, 3), np.uint8)},
        annotations=annotations,
        categories=list(names.values()),
    )
    labels = {name: value for value, name in names.items()}
    class_map = ClassMap(tuple(map(str, range(IGNORE_LABEL))), labels)
    given = data_folder(folder, class_map=class_map)
    (record,), _ = coco.read_coco(json_file, given, split="train")
    features = load_features(record, num_classes=255, skip_bad=False)
    stored = decode_label(features["label"])
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored, label)
    counts = [(label == value).sum() for value in range(255)]
    np.testing.assert_array_equal(features["pixel_counts"], counts)


# Of any ratio, 0 among them, but not of 0 alone.
weights = hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(0, 1e12)).filter(
    lambda drawn: drawn.max() > 1e-12
)
seeds = st.integers(0, 2**63 - 1)
positions = st.integers(0, 2**62)


@law
@given(weights)
def test_an_alias_table_implies_the_weights(drawn):
    keep, other = sampling.alias_table(drawn)
    assert np.all((keep >= 0) & (keep <= 1))
    shares = keep.copy()
    np.add.at(shares, other, 1 - keep)
    np.testing.assert_allclose(shares / len(keep), drawn / drawn.sum(), rtol=0, atol=1e-9)


@law
@given(weights, seeds, positions)
def test_a_draw_is_a_record_of_positive_weight(drawn, seed, position):
    table = sampling.alias_table(drawn)
    for place in range(position, position + 20):
        index = sampling.weighted_index(place, seed=seed, table=table)
        assert type(index) is int
        assert 0 <= index < len(drawn)
        assert drawn[index] > 0


@law
@given(weights, seeds, positions, st.permutations(range(12)))
def test_the_weighted_stream_does_not_depend_on_what_was_drawn_before(drawn, seed, start, order):
    """Read in any order, each place from a table of its own, it is the same stream."""
    table = sampling.alias_table(drawn)
    stream = [sampling.weighted_index(start + i, seed=seed, table=table) for i in range(12)]
    for i in order:
        fresh = sampling.alias_table(drawn.copy())
        assert sampling.weighted_index(start + i, seed=seed, table=fresh) == stream[i]


@law
@given(st.integers(1, 50), seeds, st.integers(0, 2**40))
def test_each_epoch_is_a_permutation(size, seed, epoch):
    start = size * epoch
    dealt = [sampling.uniform_index(start + i, seed=seed, size=size) for i in range(size)]
    assert sorted(dealt) == list(range(size))


@law
@given(st.integers(1, 50), seeds, positions)
def test_the_uniform_stream_does_not_depend_on_what_was_read_before(size, seed, start):
    stream = [sampling.uniform_index(start + i, seed=seed, size=size) for i in range(10)]
    sampling.permutation.cache_clear()
    again = [sampling.uniform_index(start + i, seed=seed, size=size) for i in reversed(range(10))]
    assert again == stream[::-1]
