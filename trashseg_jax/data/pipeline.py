"""tf.data pipelines: records to uint8 batches, for training a stream, for evaluation a pass."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from trashseg_jax.data.crops import Box, decoding_window, object_box, random_box, whole_box
from trashseg_jax.data.host_tensorflow import tf
from trashseg_jax.data.label_codec import Runs, decode_runs
from trashseg_jax.data.paste import Pasting
from trashseg_jax.data.taxonomy import IGNORE_LABEL

Batch = dict[str, np.ndarray]
PARALLEL = {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}


def train_batches(
    source: Any,
    *,
    index_of: Callable[[int], int],
    seed: int,
    batch_size: int,
    image_size: int,
    crop_area: tuple[float, float],
    crop_ratio: tuple[float, float],
    object_crops: float,
    paste: Pasting | None,
    start_step: int,
    process_index: int,
    process_count: int,
) -> Iterator[Batch]:
    """Yields this process's rows of each global batch from `start_step` on, without end.

    `image` u8[b,s,s,3], `label` u8[b,s,s] and `id` i64[b] are those of `index_of(position)`. Where
    crops are asked for, each lies in the upper left corner, `crop` i32[b,2] is its height and
    width, and `warp.scale_crops` makes it fill the square: enlarging it is much work for a
    processor and little for an accelerator. Larger crops are scaled to the square here. Where none
    are asked for, images are fitted, and `size` i32[b,2] is as in `eval_batches`. `object_crops`
    is the probability of `crops.object_box`. `paste`, if any, has the last word on a row's content.

    A position's row depends on `seed` and the position alone, and the rows of all processes, in
    order, are the batch that a single one would read.
    """
    rows = batch_size // process_count
    first = process_index * rows
    crops = crop_area != (1.0, 1.0)

    def positions(step):
        return step * batch_size + first + tf.range(rows, dtype=tf.int64)

    def choose(position, runs):
        if not crops:
            return whole_box(runs.shape)
        drawn = {"seed": seed, "position": position}
        box = random_box(runs.shape, area=crop_area, ratio=crop_ratio, **drawn)
        return object_box(box, runs, probability=object_crops, **drawn) if object_crops else box

    def load(fields):
        label, record_id = _unpack(fields["label"], fields["box"]), fields["id"]
        if not crops:
            image = _decode(fields["image"])
            size = fitted_size(image, image_size)
            image, label = fit(image, label, image_size)
            return {"image": image, "label": label, "id": record_id, "size": size}
        image = decode_crop(fields["image"], fields["box"], fields["window"])
        image, label = _shrink(image, label, image_size)
        return {"image": image, "label": label, "id": record_id, "crop": tf.shape(label)}

    dataset = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max).map(positions)
    dataset = _read(dataset, source, index_of, choose)
    if paste:
        loaded = dataset.map(lambda fields: (load(fields), fields), **PARALLEL)
        dataset = loaded.map(partial(_paste, paste))  # Python, so in one thread
    else:
        dataset = dataset.map(load, **PARALLEL)
    square = (image_size, image_size)
    shapes = {"image": (*square, 3), "label": square, "id": (), "crop": (2,), "size": (2,)}
    fields: Any = dataset.element_spec
    shapes = {key: shapes[key] for key in fields}
    dataset = dataset.padded_batch(rows, shapes, drop_remainder=True)
    batches: Any = dataset.prefetch(2).as_numpy_iterator()  # annotated as arrays
    return batches


def eval_batches(
    source: Any, *, batch_size: int, image_size: int, process_index: int, process_count: int
) -> Iterator[Batch]:
    """Yields every record once, in order: `image`, `label`, `mask`, `id` i64[b], `size` i32[b,2].

    Images are fitted into the square; `size` is the height and width that they then have without
    the padding. The last batch is filled up with rows whose `mask` bool[b] is False, and each of
    several processes gets its rows of every global batch.
    """
    rows = batch_size // process_count
    steps = -(-len(source) // batch_size)
    places = np.arange(steps * batch_size).reshape(steps, process_count, rows)

    def load(fields):
        mask, record_id = fields["position"] < len(source), fields["id"]
        image, label = _decode_exactly(fields["image"]), _unpack(fields["label"], fields["box"])
        size = fitted_size(image, image_size)
        image, label = fit(image, label, image_size)
        label = tf.where(mask, label, np.uint8(IGNORE_LABEL))
        return {"image": image, "label": label, "mask": mask, "id": record_id, "size": size}

    dataset = tf.data.Dataset.from_tensor_slices(places[:, process_index])
    dataset = _read(
        dataset,
        source,
        index_of=lambda place: min(place, len(source) - 1),
        choose=lambda _, runs: whole_box(runs.shape),
    )
    dataset = dataset.map(load, **PARALLEL)
    batches: Any = dataset.batch(rows).prefetch(2).as_numpy_iterator()  # annotated as arrays
    return batches


def fit(image: tf.Tensor, label: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Scales the longer side to `size` and pads below and right: black, ignored."""
    image, label = _resize(image, label, fitted_size(image, size))
    below, right = size - tf.shape(image)[0], size - tf.shape(image)[1]
    image = tf.pad(image, tf.stack([[0, below], [0, right], [0, 0]]))
    label = tf.pad(label, tf.stack([[0, below], [0, right]]), constant_values=IGNORE_LABEL)
    return tf.ensure_shape(image, (size, size, 3)), tf.ensure_shape(label, (size, size))


def fitted_size(image: tf.Tensor, size: int) -> tf.Tensor:
    """Returns i32[2], the height and width of an image whose longer side is scaled to `size`."""
    shape = tf.cast(tf.shape(image)[:2], tf.float64)
    scaled = tf.cast(tf.round(shape * (size / tf.reduce_max(shape))), tf.int32)
    return tf.maximum(scaled, 1)


def decode_crop(encoded: tf.Tensor, box: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
    """Returns u8[h,w,3], exactly the box of the whole decoded image.

    Of a JPEG only the window is decoded: `crops.decoding_window` of the box.
    """
    image = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.image.decode_and_crop_jpeg(encoded, window, channels=3),
        lambda: _cut(_decode(encoded), window),
    )
    return _cut(image, box - tf.stack([window[0], window[1], 0, 0]))


def _cut(image: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    top, left, height, width = tf.unstack(box)
    return image[top : top + height, left : left + width]


def _read(
    positions: tf.data.Dataset,
    source: Any,
    index_of: Callable[[int], int],
    choose: Callable[[int, Runs], Box],
) -> tf.data.Dataset:
    """Turns batches of positions into records, each cut to the box that `choose` gives it.

    An element has `position`, `image`, encoded, `label`, the box's as bytes, `box`, `window`, which
    is to be decoded, `id`, and `side`, the photograph's longer one. `choose` takes the position and
    the image's label map.

    A batch is read by one call of Python, in one thread: calls by several would spend several
    times the work on waiting for the interpreter's lock.
    """
    types = {"image": tf.string, "label": tf.string, "id": tf.int64}
    types |= {"box": tf.int32, "window": tf.int32, "side": tf.int32}

    def read_one(position):
        record = source[index_of(position)]
        runs = decode_runs(record["label"])
        top, left, height, width = box = choose(position, runs)
        part = runs.expand()[top : top + height, left : left + width]
        window = decoding_window(box, runs.shape[1])
        return record["image"], part.tobytes(), record["id"], box, window, max(runs.shape)

    def read(positions):
        columns = zip(*map(read_one, positions.tolist()), strict=True)
        return [np.array(c, t.as_numpy_dtype) for c, t in zip(columns, types.values(), strict=True)]

    def read_batch(positions):
        fields = tf.numpy_function(read, [positions], list(types.values()))
        fields = dict(zip(types, fields, strict=True))
        for name, field in fields.items():
            field.set_shape((None, 4) if name in ("box", "window") else (None,))
        return {"position": positions, **fields}

    return positions.map(read_batch).prefetch(1).unbatch()


def _paste(paste: Pasting, row: dict[str, tf.Tensor], fields: dict[str, tf.Tensor]):
    """Pastes objects into the part of the row that is no padding."""

    def paste_in(image, label, extent, box, side, position):
        image, label = image.copy(), label.copy()  # TensorFlow's own may not be written to
        height, width = extent
        sides = tuple((side * extent / box[2:]).tolist())
        paste(image[:height, :width], label[:height, :width], int(position), sides)
        return image, label

    extent = row["crop"] if "crop" in row else row["size"]
    given = [row["image"], row["label"], extent]
    given += [fields[name] for name in ("box", "side", "position")]
    image, label = tf.numpy_function(paste_in, given, [tf.uint8, tf.uint8])
    image.set_shape(row["image"].shape)
    label.set_shape(row["label"].shape)
    return {**row, "image": image, "label": label}


def _unpack(label: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tf.io.decode_raw(label, tf.uint8), box[2:])


def _decode(encoded: tf.Tensor) -> tf.Tensor:
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return tf.ensure_shape(image, (None, None, 3))


def _decode_exactly(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG as Pillow does, and so prediction; TensorFlow's own way is faster."""
    image = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: _decode(encoded),
    )
    return tf.ensure_shape(image, (None, None, 3))


def _shrink(image: tf.Tensor, label: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Scales to the square what does not fit into it."""
    return tf.cond(
        tf.reduce_any(tf.shape(label) > size),
        lambda: _resize(image, label, tf.constant([size, size])),
        lambda: (image, label),
    )


def _resize(image, label, size):
    """Scales the image with antialiasing and the label to the nearest pixel, both u8."""
    same = tf.reduce_all(tf.shape(image)[:2] == size)
    return tf.cond(
        same, lambda: (image, label), lambda: (_scale_image(image, size), _scale_label(label, size))
    )


def _scale_image(image, size):
    image = tf.image.resize(image, size, "bilinear", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)


def _scale_label(label, size):
    return tf.image.resize(label[..., None], size, "nearest")[..., 0]
