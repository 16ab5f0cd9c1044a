"""Photographs to files: reading, the device and writing at the same time."""

import collections
import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from trashseg_jax import inference
from trashseg_jax.ahead import map_ahead
from trashseg_jax.data.photos import read_pixels
from trashseg_jax.errors import InputError
from trashseg_jax.prediction.inputs import Photo
from trashseg_jax.prediction.outputs import Outputs, fingerprint
from trashseg_jax.prediction.progress import Progress

NOTHING = np.zeros((0, 0, 3), np.uint8)


class Read(NamedTuple):
    photo: Photo
    file: list[int]  # see outputs.fingerprint
    image: np.ndarray  # u8[h,w,3], of no pixels where there is a fault
    fault: str


def predict_photos(
    photos: Sequence[Photo], segmenter: inference.Segmenter, outputs: Outputs, *, threads: int
) -> None:
    """Writes the files of each photograph; of a bad one a record that says what is wrong.

    At most `threads` photographs more than the device takes at once wait on either side of it.
    """
    fed: collections.deque[Read] = collections.deque()

    def images(reads: Iterator[Read], progress: Progress) -> Iterator[np.ndarray]:
        for read in reads:
            if read.fault:
                outputs.write_fault(read.photo, read.fault)
                progress.write(f"warning: {read.fault}")
                progress.add()
                continue
            fed.append(read)
            yield read.image

    reading = contextlib.closing(map_ahead(_read, photos, threads=threads))
    with reading as reads, _threads(threads) as writers, Progress(len(photos)) as bar:
        writing: collections.deque[Future[None]] = collections.deque()
        for found in segmenter.segment(images(reads, bar)):
            read = fed.popleft()
            writing.append(writers.submit(outputs.write, read.photo, read.image, found, read.file))
            del read, found  # the pixels go when they are written
            while len(writing) > threads or (writing and writing[0].done()):
                writing.popleft().result()
                bar.add()
        while writing:
            writing.popleft().result()
            bar.add()


@contextlib.contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Yields a pool that, when an error or a signal ends the job, only ends what it has begun."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _read(photo: Photo) -> Read:
    file = fingerprint(photo.path)
    if photo.fault:
        return Read(photo, file, NOTHING, f"{photo.path}: {photo.fault}")
    try:
        return Read(photo, file, read_pixels(photo.path), "")
    except InputError as error:
        return Read(photo, file, NOTHING, str(error))
