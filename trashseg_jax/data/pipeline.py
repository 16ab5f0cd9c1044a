"""tf.data pipelines: records to uint8 batches, for training a stream, for evaluation a pass."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from trashseg_jax.data.taxonomy import IGNORE_LABEL

tf.config.set_visible_devices([], "GPU")  # the accelerator is JAX's alone

Batch = dict[str, np.ndarray]


def train_batches(
    source: Any,
    *,
    index_of: Callable[[int], int],
    seed: int,
    batch_size: int,
    image_size: int,
    crop_area: tuple[float, float],
    crop_ratio: tuple[float, float],
    start_step: int,
    process_index: int,
    process_count: int,
) -> Iterator[Batch]:
    """Yields this process's rows of each global batch from `start_step` on, without end.

    `image` u8[b,s,s,3], `label` u8[b,s,s] and `id` i64[b] are those of `index_of(position)`. A
    position's crop depends on `seed` and the position alone, and the rows of all processes, in
    order, are the batch that a single one would read.
    """
    rows = batch_size // process_count
    first = process_index * rows

    def positions(step):
        return step * batch_size + first + tf.range(rows, dtype=tf.int64)

    def load(position):
        image, label, record_id = _read(source, index_of, position)
        if crop_area == (1.0, 1.0):
            image, label = fit(image, label, image_size)
        else:
            image, label = random_crop(image, label, (seed, position), crop_area, crop_ratio)
            image, label = _resize(image, label, tf.constant([image_size, image_size]))
        return {"image": image, "label": label, "id": record_id}

    dataset = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max).map(positions).unbatch()
    dataset = dataset.map(load, tf.data.AUTOTUNE, deterministic=True)
    batches: Any = dataset.batch(rows, drop_remainder=True).prefetch(2).as_numpy_iterator()
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

    def load(place):
        mask = place < len(source)
        image, label, record_id = _read(source, lambda i: min(i, len(source) - 1), place)
        size = fitted_size(image, image_size)
        image, label = fit(image, label, image_size)
        label = tf.where(mask, label, np.uint8(IGNORE_LABEL))
        return {"image": image, "label": label, "mask": mask, "id": record_id, "size": size}

    dataset = tf.data.Dataset.from_tensor_slices(places[:, process_index].ravel())
    dataset = dataset.map(load, tf.data.AUTOTUNE, deterministic=True)
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


def random_crop(
    image: tf.Tensor,
    label: tf.Tensor,
    seed: tuple[Any, Any],
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[tf.Tensor, tf.Tensor]:
    """Cuts out a box with a random share of the image's area and a random width over height."""
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        bounding_boxes=tf.zeros((1, 0, 4)),
        seed=tf.stack([tf.cast(s, tf.int64) for s in seed]),
        min_object_covered=0.0,
        aspect_ratio_range=ratio,
        area_range=area,
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.slice(image, begin, size), tf.slice(label, begin[:2], size[:2])


def _read(
    source: Any, index_of: Callable[[int], int], position: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns u8[h,w,3], u8[h,w] and the id of the record at `index_of(position)`."""

    def read(position):
        record = source[index_of(int(position))]
        return record["image"], record["label"], np.int64(record["id"])

    image, label, record_id = tf.numpy_function(read, [position], [tf.string, tf.string, tf.int64])
    image = tf.io.decode_image(image, channels=3, expand_animations=False)
    label = tf.io.decode_png(label, channels=1)
    return tf.ensure_shape(image, (None, None, 3)), label[..., 0], tf.reshape(record_id, [])


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
