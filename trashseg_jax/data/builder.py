"""Prepares a data set once, with TFDS: images as they are, label maps, counts per image."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import tensorflow_datasets as tfds  # imports TensorFlow only when used
from tqdm import tqdm

from trashseg_jax import folders
from trashseg_jax.data import copies, locks
from trashseg_jax.data.host_tensorflow import tf
from trashseg_jax.data.photos import encode_again
from trashseg_jax.data.records import DataFolder, Record, Splits, load_features
from trashseg_jax.errors import InputError

FORMAT = 5  # part of the fingerprint: raise it when what is stored changes
RECORDS_PER_WORKER = 64  # fewer are not worth a process


@dataclasses.dataclass(frozen=True)
class Contents:
    """What is to be prepared: validated records by split."""

    classes: tuple[str, ...]
    splits: Splits
    skip_bad: bool


class TrashSegmentation(tfds.core.GeneratorBasedBuilder):
    """Photographs of trash with a label map each."""

    VERSION = tfds.core.Version("2.0.0")

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
                classes=list(self.contents.classes),
                problems=self.contents.splits.problems,
                held_out=self.contents.splits.held_out,
            ),
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {name: self._generate_examples(name) for name in self.contents.splits.records}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        records, problems = self.contents.splits.records[split], []
        counts, images, notes = [], [], collections.Counter()
        for record, example in zip(records, self._load(records, split), strict=True):
            if isinstance(example, str):
                problems.append(example)
                continue
            notes.update(example.pop("notes"))
            notes["encoded_again"] += _make_decodable(example)
            counts.append((example["pixel_counts"], example["annotation_counts"]))
            images.append((record.file_name, example.pop("digest")))
            yield len(counts), example  # a key that rises: TFDS stores examples in its order
        if not counts:
            first = f"; the first fault: {problems[0]}" if problems else ""
            raise InputError(
                f"split {split!r} has no usable image; see config.data.val_fraction and skip_bad"
                f"{first}"
            )
        np.save(self.data_path / f"counts_{split}.npy", np.array(counts, np.int64))
        np.save(self.data_path / f"images_{split}.npy", np.array(images, np.str_))
        metadata: Any = self.info.metadata
        metadata[split] = {"notes": dict(+notes), "problems": problems}

    def _load(self, records: list[Record], split: str) -> Iterator[dict[str, Any] | str]:
        """Yields examples in order, loaded by as many processes as are worth it."""
        load = partial(
            load_features,
            num_classes=len(self.contents.classes),
            skip_bad=self.contents.skip_bad,
        )
        options = {"desc": f"Preparing {split}", "unit": "image", "disable": None}
        progress = partial(tqdm, total=len(records), **options)
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


def _make_decodable(example: dict[str, Any]) -> bool:
    """Encodes a JPEG again, in place, that TensorFlow can't decode; returns whether it was one.

    An eighth of the size needs all of the file's codes, and less than half of the time.
    """
    image = example["image"]
    if not image.startswith(b"\xff\xd8"):
        return False  # a PNG is our own
    try:
        tf.io.decode_jpeg(image, channels=1, ratio=8)
    except tf.errors.InvalidArgumentError:
        example["image"] = encode_again(image)
        return True
    return False


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
    """A prepared data set on disk, which nobody removes as long as this is alive."""

    builder: Any
    lock: IO | None

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.builder.info.metadata["classes"])

    @property
    def splits(self) -> tuple[str, ...]:
        """Which of "train" and "val" there are; for scoring, "val" alone may be."""
        return tuple(self.builder.info.splits)

    @property
    def held_out(self) -> bool:
        """Whether validation is a share of one list of images, held out."""
        return self.builder.info.metadata["held_out"]

    @property
    def problems(self) -> list[str]:
        """One line for each image that `skip_bad` left out."""
        metadata = self.builder.info.metadata
        splits = [metadata[split]["problems"] for split in self.builder.info.splits]
        return [*metadata["problems"], *(line for lines in splits for line in lines)]

    @property
    def notes(self) -> dict[str, int]:
        """What is to be said of the images and annotations of all splits, as counts by kind."""
        metadata = self.builder.info.metadata
        splits = (metadata[split]["notes"] for split in self.builder.info.splits)
        return dict(sum(map(collections.Counter, splits), collections.Counter()))

    def source(self, split: str) -> "Records":
        """Returns random access to a split's records, in the json's order."""
        if split not in self.builder.info.splits:
            known = ", ".join(self.builder.info.splits)
            raise InputError(f"split {split!r} of {self.builder.data_path}: must be one of {known}")
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        return Records(self.builder.as_data_source(split, deserialize_method=raw))

    def counts(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns pixels and annotations of each class in each image, both int64 [n, k]."""
        if split not in self.splits:
            raise InputError(
                f"{self.builder.data_path}: has no split {split!r} to count classes in; to score "
                "without training data, pass --config.loss.alpha=none"
            )
        counts = np.load(self.builder.data_path / f"counts_{split}.npy", allow_pickle=False)
        return counts[:, 0], counts[:, 1]

    def images(self, split: str) -> list[tuple[str, str]]:
        """Returns each image's file name and the digest of its bytes."""
        images = np.load(self.builder.data_path / f"images_{split}.npy", allow_pickle=False)
        return [(name, digest) for name, digest in images.tolist()]


def prepare(
    folder: DataFolder, *, name: str, read: Callable[[DataFolder], Splits], cache_dir: Path
) -> Prepared:
    """Prepares the data set that `read` finds unless this very one is in `cache_dir` already.

    Raises InputError for what is wrong with the data, and then leaves no data in `cache_dir`. Nor
    does an interrupted preparation leave what looks finished.
    """
    splits = read(folder)
    target = cache_dir / "prepared" / f"{name}-{fingerprint(folder, splits)}"
    builder = TrashSegmentation(
        contents=Contents(folder.class_map.classes, splits, folder.skip_bad),
        data_dir=target,
        file_format="array_record",
    )
    with folders.explained(target, "name another folder with --config.data.cache_dir"):
        lock = locks.ensure(
            target,
            is_there=partial(copies.is_whole, target),
            make=partial(_make, builder, target, cache_dir),
        )
    copies.mark_used(target)
    if not builder.info.initialized:  # another run has prepared it since the builder looked
        builder.info.read_from_directory(builder.data_path)
    return Prepared(builder, lock)


def fingerprint(folder: DataFolder, splits: Splits) -> str:
    """Returns 16 hex digits that change with the annotations, the images or the options."""
    path = folder.path.resolve()  # by whatever name the folder was reached
    digest = hashlib.sha256(repr((FORMAT, dataclasses.replace(folder, path=path))).encode())
    for split, records in splits.records.items():
        digest.update(split.encode())
        for record in records:
            stats = [file.stat() for file in (record.path, *record.source.files)]
            times = [(stat.st_size, stat.st_mtime_ns) for stat in stats]
            digest.update(repr((record, times)).encode())
    return digest.hexdigest()[:16]


def _make(builder: TrashSegmentation, target: Path, cache_dir: Path) -> None:
    """Leaves a whole copy in `target`, or nothing."""
    shutil.rmtree(target, ignore_errors=True)  # what a killed run left
    try:
        _generate(builder)
        copies.mark_whole(target)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    print(copies.describe_new(target, cache_dir))


def _generate(builder: TrashSegmentation) -> None:
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    tfds.disable_progress_bar()  # it knows no total; ours does
    with contextlib.redirect_stdout(io.StringIO()):  # "Downloading": nothing is downloaded
        builder.download_and_prepare(download_config=config)
