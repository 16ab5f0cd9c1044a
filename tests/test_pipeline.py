import io
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from trashseg_jax.data import crops, paste, pipeline
from trashseg_jax.data.host_tensorflow import tf
from trashseg_jax.data.label_codec import encode_label

SIZE = 16


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def record(index, height, width):
    """An image whose pixels all are `index`, and whose label says how far left they are."""
    label = np.broadcast_to(np.arange(width) * 8 // width, (height, width)).astype(np.uint8)
    image = np.full((height, width, 3), index, np.uint8)
    return {"image": png(image), "label": encode_label(label), "id": 100 + index}


SOURCE = [record(i, 20 + i, 40) for i in range(7)]


def train_batches(source=SOURCE, *, start_step=0, process=(0, 1), seed=0, **options):
    index, count = process
    defaults = {
        "index_of": lambda position: position * 3 % 7,
        "crop_area": (0.3, 0.9),
        "crop_ratio": (0.8, 1.25),
        "object_crops": 0.0,
        "paste": None,
        "batch_size": 4,
    }
    return pipeline.train_batches(
        source,
        seed=seed,
        image_size=SIZE,
        start_step=start_step,
        process_index=index,
        process_count=count,
        **{**defaults, **options},
    )


def eval_batches(process=(0, 1)):
    index, count = process
    return list(
        pipeline.eval_batches(
            SOURCE, batch_size=4, image_size=SIZE, process_index=index, process_count=count
        )
    )


def assert_same(actual, expected):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        for key in b:
            np.testing.assert_array_equal(a[key], b[key])


def test_stream_holds_the_images_that_the_index_names_in_its_order():
    batches = list(islice(train_batches(), 3))
    first_pixels = np.concatenate([b["image"][:, 0, 0, 0] for b in batches])
    assert first_pixels.tolist() == [position * 3 % 7 for position in range(12)]
    assert (batches[0]["image"].dtype, batches[0]["image"].shape) == (np.uint8, (4, SIZE, SIZE, 3))
    assert (batches[0]["label"].dtype, batches[0]["label"].shape) == (np.uint8, (4, SIZE, SIZE))


def test_resumed_stream_equals_the_rest_of_the_uninterrupted_one():
    whole = list(islice(train_batches(), 4))
    assert_same(list(islice(train_batches(start_step=2), 2)), whole[2:])


def test_rows_of_two_processes_are_the_batches_of_one():
    whole = list(islice(train_batches(), 3))
    halves = [list(islice(train_batches(process=(p, 2)), 3)) for p in (0, 1)]
    joined = [
        {key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*halves, strict=True)
    ]
    assert_same(joined, whole)


def mark(image, label, position, sides):
    """Pastes what tells the position, the content's size, and the sides."""
    image[:, 0, 1] = position
    image[:, 0, 2] = np.round(np.minimum(sides, 255)).astype(np.uint8).max()
    label[:] = 7


@pytest.mark.parametrize("area", [(0.3, 0.9), (1.0, 1.0)])
def test_pasting_is_done_in_the_content_by_its_position(area):
    for batch in islice(train_batches(start_step=3, crop_area=area, paste=mark), 2):
        sizes = batch["crop"] if area != (1.0, 1.0) else batch["size"]
        for label, (height, width) in zip(batch["label"], sizes, strict=True):
            padding = label.copy()
            padding[:height, :width] = 7
            assert np.all(label[:height, :width] == 7)
            np.testing.assert_array_equal(label == 7, padding == 7)
    assert batch["image"][:, 0, 0, 1].tolist() == [16, 17, 18, 19]


def test_pasting_knows_the_photographs_longer_side_at_the_rows_scale():
    """Of 40 pixels: fitted they become 16; of a crop as many as its scale makes of them."""
    (batch,) = islice(train_batches(crop_area=(1.0, 1.0), paste=mark), 1)
    assert np.all(batch["image"][:, 0, 0, 2] == SIZE)
    found = []

    def note(image, label, position, sides):
        found.append(sides)

    crops = np.concatenate([batch["crop"] for batch in islice(train_batches(paste=note), 6)])
    for sides, crop in zip(found, crops, strict=False):  # more are read ahead
        if np.all(crop == SIZE):  # a larger one, scaled down: of at most 26x40 pixels
            assert sides[0] >= 40 * SIZE / 26
            assert sides[1] >= 40 * SIZE / 40
        else:
            assert sides == (40.0, 40.0)


def test_pasted_stream_resumes_and_is_that_of_two_processes():
    bank = paste.Bank(
        np.full((36, 4), 255, np.uint8),
        np.array([[6, 6]]),
        np.array([40.0]),
        np.array([3]),
        np.array([0, 0, 0, 1]),
    )
    options = {"objects": 2, "scale": (0.5, 1.5), "power": 0.5, "flip": True}
    pasting = paste.make_paste(bank, seed=0, probability=0.7, **options)
    given = {"paste": pasting, "object_crops": 0.5}
    whole = list(islice(train_batches(**given), 4))
    assert_same(list(islice(train_batches(start_step=2, **given), 2)), whole[2:])
    halves = [list(islice(train_batches(process=(p, 2), **given), 4)) for p in (0, 1)]
    joined = [
        {key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*halves, strict=True)
    ]
    assert_same(joined, whole)
    assert any(np.any(batch["image"] == 255) for batch in whole)


@pytest.mark.parametrize("crop_area", [(0.3, 0.9), (1.0, 1.0)])
def test_pasting_nothing_leaves_the_stream_as_it_is(crop_area):
    plain = list(islice(train_batches(crop_area=crop_area), 3))
    given = {"crop_area": crop_area, "paste": lambda *_: None}
    assert_same(list(islice(train_batches(**given), 3)), plain)


def test_object_crops_hold_an_object():
    """A pixel in 40x40 is labelled; a crop of a tenth rarely holds it by itself."""
    label = np.zeros((40, 40), np.uint8)
    label[3, 36] = 5
    source = [
        {"image": png(np.zeros((40, 40, 3), np.uint8)), "label": encode_label(label), "id": 1}
    ]
    given = {"index_of": lambda _: 0, "crop_area": (0.1, 0.1), "object_crops": 1.0}
    for batch in islice(train_batches(source, **given), 5):
        assert np.all((batch["label"] == 5).any((1, 2)))


def test_crops_depend_on_seed_and_position():
    (one,), (same,), (other,) = (list(islice(train_batches(seed=s), 1)) for s in (0, 0, 1))
    np.testing.assert_array_equal(one["label"], same["label"])
    assert np.any(one["label"] != other["label"])
    assert len({row.tobytes() for row in one["label"]}) == 4


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"format": "JPEG", "subsampling": 0}),
        ("RGB", {"format": "JPEG", "subsampling": 1}),
        ("RGB", {"format": "JPEG", "subsampling": 2}),
        ("RGB", {"format": "JPEG", "subsampling": 2, "progressive": True}),
        ("RGB", {"format": "JPEG", "subsampling": 2, "restart_marker_blocks": 3}),
        ("L", {"format": "JPEG"}),
        ("RGB", {"format": "PNG"}),
        ("L", {"format": "PNG"}),
    ],
)
def test_decoding_a_crop_is_cropping_the_decoded(mode, options):
    rng = np.random.default_rng(0)
    for height, width in [(61, 83), (48, 64), (5, 130)]:
        pixels = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).convert(mode)
        file = io.BytesIO()
        pixels.save(file, **options)
        whole = tf.io.decode_image(file.getvalue(), channels=3).numpy()
        for _ in range(60):
            (top, bottom), (left, right) = (
                np.sort(rng.choice(n + 1, 2, replace=False)).tolist() for n in (height, width)
            )
            box = (top, left, bottom - top, right - left)
            window = crops.decoding_window(box, width)
            encoded, box, window = map(tf.constant, (file.getvalue(), box, window))
            actual = pipeline.decode_crop(encoded, box, window)
            np.testing.assert_array_equal(actual, whole[top:bottom, left:right])


def test_label_is_cut_as_the_image_is():
    """Of an image and a label with the same values, where nothing is scaled."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 14), np.uint8)
    image = np.stack([pixels] * 3, -1)
    source = [{"image": png(image), "label": encode_label(pixels), "id": 1}]
    options = {"crop_area": (0.1, 0.9), "crop_ratio": (0.5, 2.0), "index_of": lambda _: 0}
    for batch in islice(train_batches(source, **options), 10):
        for row, label, (height, width) in zip(
            batch["image"], batch["label"], batch["crop"], strict=True
        ):
            np.testing.assert_array_equal(row[..., 0], label)
            cut = label[:height, :width]
            windows = np.lib.stride_tricks.sliding_window_view(pixels, (height, width))
            assert np.any(np.all(windows == cut, axis=(2, 3)))


def test_small_crops_fill_the_corner_and_larger_ones_were_scaled_to_the_square():
    """An image's pixels are its index, in 1..6; the padding is 0."""
    sizes = set()
    for batch in islice(train_batches(crop_area=(0.1, 0.9)), 12):
        for image, crop, record_id in zip(batch["image"], batch["crop"], batch["id"], strict=True):
            height, width = crop
            expected = np.zeros((SIZE, SIZE))
            expected[:height, :width] = record_id - 100
            np.testing.assert_array_equal(image[..., 0], expected)
            sizes.add((height, width))
    assert (SIZE, SIZE) in sizes
    assert min(h for h, _ in sizes) < SIZE
    assert min(w for _, w in sizes) < SIZE


def test_without_cropping_the_whole_image_is_fitted():
    (batch,) = islice(train_batches(crop_area=(1.0, 1.0)), 1)
    for key in ("image", "size"):
        everything = np.concatenate([b[key] for b in eval_batches()])
        np.testing.assert_array_equal(batch[key], everything[[0, 3, 6, 2]])


@pytest.mark.parametrize(
    ("shape", "content"), [((20, 40), (8, 16)), ((40, 20), (16, 8)), ((5, 5), (16, 16))]
)
def test_fit_keeps_the_aspect_and_ignores_the_padding(shape, content):
    image, label = pipeline.fit(
        tf.fill((*shape, 3), np.uint8(9)), tf.fill(shape, np.uint8(2)), SIZE
    )
    height, width = content
    expected = np.full((SIZE, SIZE), 255)
    expected[:height, :width] = 2
    np.testing.assert_array_equal(label, expected)
    np.testing.assert_array_equal(image[..., 0], np.where(expected == 2, 9, 0))


def test_image_of_the_right_size_is_left_alone():
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    actual, _ = pipeline.fit(tf.constant(image), tf.constant(image[..., 0]), SIZE)
    np.testing.assert_array_equal(actual, image)


def test_scaling_shifts_image_and_label_by_no_pixel():
    """Blocks of 4x4 pixels, each of one value: scaled to a quarter, each becomes one pixel."""
    small = np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE)
    large = np.kron(small, np.ones((4, 4), np.uint8))
    image, label = pipeline.fit(tf.constant(np.stack([large] * 3, -1)), tf.constant(large), SIZE)
    np.testing.assert_array_equal(label, small)
    # The antialiasing triangle reaches into the neighbours, symmetrically, so a ramp stays.
    np.testing.assert_allclose(image[1:-1, 1:-1, 0], small[1:-1, 1:-1], atol=1)


def test_evaluation_sees_every_record_once_in_order_and_masks_the_filling():
    batches = eval_batches()
    mask = np.concatenate([b["mask"] for b in batches])
    ids = np.concatenate([b["id"] for b in batches])
    labels = np.concatenate([b["label"] for b in batches])
    assert mask.tolist() == [True] * 7 + [False]
    assert ids[mask].tolist() == [100 + i for i in range(7)]
    assert np.all(labels[~mask] == 255)


def test_size_is_that_of_the_content():
    """20 + i by 40 pixels, the longer side scaled to 16: 8 + 0.4 i rows, all of value i."""
    for batch in eval_batches():
        for image, (height, width), record_id, valid in zip(
            batch["image"], batch["size"], batch["id"], batch["mask"], strict=True
        ):
            assert (height, width) == (round((20 + record_id - 100) * 0.4), 16)
            expected = np.zeros((SIZE, SIZE), int)
            expected[:height, :width] = record_id - 100
            assert not valid or np.array_equal(image[..., 0], expected)


def test_evaluation_on_two_processes_covers_the_same_records():
    whole = eval_batches()
    halves = zip(eval_batches((0, 2)), eval_batches((1, 2)), strict=True)
    joined = [{key: np.concatenate([a[key], b[key]]) for key in a} for a, b in halves]
    assert_same(joined, whole)
