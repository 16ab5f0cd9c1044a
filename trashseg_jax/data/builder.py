"""Prepares COCO folders once, with TFDS: images as they are, painted labels, counts per image."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds  # imports TensorFlow only when used
from tqdm import tqdm

from trashseg_jax.data import coco, painting
from trashseg_jax.data.host_tensorflow import tf
from trashseg_jax.data.locks import locked
from trashseg_jax.data.taxonomy import ClassMap
from trashseg_jax.errors import InputError

FORMAT = 2  # part of the fingerprint: raise it when what is stored changes
RECORDS_PER_WORKER = 64  # fewer are not worth a process


@dataclasses.dataclass(frozen=True)
class Contents:
    """What is to be prepared: validated records by split, and how their labels are painted."""

    classes: tuple[str, ...]
    splits: dict[str, list[coco.Record]]
    problems: list[str]
    paint_order: str
    skip_bad: bool


class TrashSegmentation(tfds.core.GeneratorBasedBuilder):
    """Photographs of trash with a label map each, from a folder in COCO's layout."""

    VERSION = tfds.core.Version("2.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name="demo", description="Rendered scenes; needs no download."),
        tfds.core.BuilderConfig(name="aistage", description="Recycle Trash, the competition."),
        tfds.core.BuilderConfig(name="taco", description="TACO, its 60 categories mapped."),
        tfds.core.BuilderConfig(name="coco", description="Any COCO folder with a class map."),
    ]

    def __init__(self, *, contents: Contents, **kwargs: Any):
        self.contents = contents
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        counts = tfds.features.Tensor(shape=(len(self.contents.classes),), dtype=np.int64)
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.Scalar(np.object_),  # bytes, of label_codec.encode_label
                    "id": tfds.features.Scalar(np.int64),
                    "file_name": tfds.features.Text(),
                    "pixel_counts": counts,
                    "annotation_counts": counts,
                }
            ),
            disable_shuffling=True,  # the json's order
            metadata=tfds.core.MetadataDict(
                classes=list(self.contents.classes), problems=self.contents.problems
            ),
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {name: self._generate_examples(name) for name in self.contents.splits}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        records, problems, clipped = self.contents.splits[split], [], 0
        counts = []
        for record, example in zip(records, self._load(records, split), strict=True):
            if isinstance(example, str):
                problems.append(example)
                continue
            clipped += example.pop("clipped")
            counts.append((example["pixel_counts"], example["annotation_counts"]))
            yield record.id, example
        if not counts:
            first = f"; the first fault: {problems[0]}" if problems else ""
            raise InputError(
                f"split {split!r} has no usable image; see config.data.val_fraction and skip_bad"
                f"{first}"
            )
        np.save(self.data_path / f"counts_{split}.npy", np.array(counts, np.int64))
        metadata: Any = self.info.metadata
        metadata[split] = {"clipped": clipped, "problems": problems}

    def _load(self, records: list[coco.Record], split: str) -> Iterator[dict[str, Any] | str]:
        """Yields examples in order, loaded by as many processes as are worth it."""
        load = partial(
            coco.load_features,
            num_classes=len(self.contents.classes),
            paint_order=self.contents.paint_order,
            skip_bad=self.contents.skip_bad,
        )
        progress = partial(tqdm, total=len(records), desc=f"Preparing {split}", unit="image")
        workers = min(os.cpu_count() or 1, len(records) // RECORDS_PER_WORKER)
        if workers < 2:
            yield from progress(map(load, records))
            return
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
            try:
                yield from progress(pool.map(load, records, chunksize=8))
            finally:
                pool.shutdown(cancel_futures=True)  # a bad image: do not load the others first


class Records:
    """A split's records by place: `image`, a file's bytes, `label`, those of its runs, and `id`.

    Reads these three of the features that TFDS stored; its own parser takes three times as long.
    """

    def __init__(self, examples: Any):  # a sequence of serialised tf.train.Example
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, place: int) -> dict[str, Any]:
        feature = tf.train.Example.FromString(self.examples[place]).features.feature
        return {
            "image": feature["image"].bytes_list.value[0],
            "label": feature["label"].bytes_list.value[0],
            "id": feature["id"].int64_list.value[0],
        }


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared data set on disk."""

    builder: Any

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.builder.info.metadata["classes"])

    @property
    def problems(self) -> list[str]:
        """One line for each image that `skip_bad` left out."""
        metadata = self.builder.info.metadata
        splits = [metadata[split]["problems"] for split in self.builder.info.splits]
        return [*metadata["problems"], *(line for lines in splits for line in lines)]

    @property
    def clipped(self) -> int:
        """The number of annotations that reached outside their image."""
        metadata = self.builder.info.metadata
        return sum(metadata[split]["clipped"] for split in self.builder.info.splits)

    def source(self, split: str) -> "Records":
        """Returns random access to a split's records, in the json's order."""
        if split not in self.builder.info.splits:
            known = ", ".join(self.builder.info.splits)
            raise InputError(f"split {split!r} of {self.builder.data_path}: must be one of {known}")
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        return Records(self.builder.as_data_source(split, deserialize_method=raw))

    def counts(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns pixels and annotations of each class in each image, both int64 [n, k]."""
        counts = np.load(self.builder.data_path / f"counts_{split}.npy", allow_pickle=False)
        return counts[:, 0], counts[:, 1]


def prepare(
    *,
    name: str,
    folder: Path,
    train_file: str,
    val_file: str,
    val_fraction: float,
    class_map: ClassMap,
    paint_order: str,
    skip_bad: bool,
    cache_dir: Path,
) -> Prepared:
    """Prepares the data set in `folder` unless this very one is in `cache_dir` already.

    Raises InputError for what is wrong with the data, and then leaves no data in `cache_dir`. Nor
    does an interrupted preparation leave what looks finished: TFDS writes into a folder of
    another name and renames it at the end.
    """
    if paint_order not in painting.PAINT_ORDERS:
        raise InputError(
            f"config.data.paint_order={paint_order!r}: must be one of "
            f"{', '.join(painting.PAINT_ORDERS)}"
        )
    splits, problems = read_splits(
        folder, train_file, val_file, class_map, val_fraction=val_fraction, skip_bad=skip_bad
    )
    options = (FORMAT, train_file, val_file, val_fraction, paint_order, skip_bad)
    key = fingerprint(folder, splits, class_map, options=options)
    target = cache_dir / "prepared" / f"{name}-{key}"
    contents = Contents(class_map.classes, splits, problems, paint_order, skip_bad)
    builder = TrashSegmentation(
        contents=contents, config=name, data_dir=target, file_format="array_record"
    )
    if not builder.data_path.exists():
        with locked(target):
            if not builder.data_path.exists():  # another run may have prepared it meanwhile
                shutil.rmtree(target, ignore_errors=True)  # what a killed one left
                try:
                    _generate(builder)
                except BaseException:
                    shutil.rmtree(target, ignore_errors=True)
                    raise
    if not builder.info.initialized:  # another run has prepared it since the builder looked
        builder.info.read_from_directory(builder.data_path)
    return Prepared(builder)


def read_splits(
    folder: Path,
    train_file: str,
    val_file: str,
    class_map: ClassMap,
    *,
    val_fraction: float,
    skip_bad: bool,
) -> tuple[dict[str, list[coco.Record]], list[str]]:
    """Returns the records of "train" and "val", and a line for each bad image left out.

    Where both files are one, "val" are the images whose file names have the lowest hashes: the
    json's order does not matter, and images that are added change little.
    """
    if train_file == val_file and not 0 < val_fraction < 1:
        raise InputError(
            f"config.data.val_fraction={val_fraction}: must be between 0 and 1, the share of the "
            f"images of {folder / train_file} to hold out"
        )
    read = partial(coco.read_coco, folder=folder, class_map=class_map, skip_bad=skip_bad)
    train, problems = read(folder / train_file)
    if train_file != val_file:
        val, more = read(folder / val_file)
        return {"train": train, "val": val}, problems + more
    by_hash = sorted(train, key=lambda record: hashlib.sha256(record.file_name.encode()).digest())
    held_out = {record.id for record in by_hash[: round(len(train) * val_fraction)]}
    return {
        "train": [record for record in train if record.id not in held_out],
        "val": [record for record in train if record.id in held_out],
    }, problems


def fingerprint(
    folder: Path,
    splits: dict[str, list[coco.Record]],
    class_map: ClassMap,
    *,
    options: tuple[Any, ...],
) -> str:
    """Returns 16 hex digits that change with the annotations, the images or the options."""
    digest = hashlib.sha256(repr((str(folder.resolve()), options)).encode())
    digest.update(json.dumps([class_map.classes, dict(class_map.categories)]).encode())
    for split, records in splits.items():
        digest.update(split.encode())
        for record in records:
            stat = record.path.stat()
            digest.update(repr((record, stat.st_size, stat.st_mtime_ns)).encode())
    return digest.hexdigest()[:16]


def _generate(builder: TrashSegmentation) -> None:
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    tfds.disable_progress_bar()  # it knows no total; ours does
    with contextlib.redirect_stdout(io.StringIO()):  # "Downloading": nothing is downloaded
        builder.download_and_prepare(download_config=config)
