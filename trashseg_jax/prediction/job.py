"""Photographs to files: reading, the device and writing at the same time."""

import collections
import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from trashseg_jax import inference
from trashseg_jax.ahead import map_ahead
from trashseg_jax.data.photos import count_pixels, read_pixels
from trashseg_jax.errors import InputError
from trashseg_jax.prediction.inputs import Photo
from trashseg_jax.prediction.outputs import Outputs, fingerprint
from trashseg_jax.prediction.overlay import shrink_photo
from trashseg_jax.prediction.progress import Progress

NOTHING = np.zeros((0, 0, 3), np.uint8)
# Of the photographs that are read at a time, and of those that are written: one panorama.
MOST_PIXELS = 100_000_000


class Read(NamedTuple):
    photo: Photo
    file: list[int]  # see outputs.fingerprint
    picture: np.ndarray  # u8[h,w,3], as small as the overlay
    fault: str


@runtime_checkable
class Segments(Protocol):
    """What makes classes of photographs; any thread may `see` one."""

    def see(self, image: np.ndarray) -> inference.Seen: ...

    def segment_seen(self, photos: Iterator[inference.Seen]) -> Iterator[inference.Segmented]: ...


def predict_photos(
    photos: Sequence[Photo], segmenter: Segments, outputs: Outputs, *, threads: int
) -> None:
    """Writes the files of each photograph; of a bad one a record that says what is wrong.

    At most `threads` photographs more than the device takes at once wait on either side of it,
    fewer where these have more than MOST_PIXELS together.
    """
    fed: collections.deque[Read] = collections.deque()

    def views(reads: Iterator[tuple[Read, inference.Seen]], bar: Progress) -> Iterator[Any]:
        for read, seen in reads:
            if read.fault:
                outputs.write_fault(read.photo, read.fault)
                bar.write(f"warning: {read.fault}")
                bar.add()
                continue
            fed.append(read)
            yield seen
            del seen  # while the next one is waited for, its pixels may go

    ahead = map_ahead(
        partial(_read, see=segmenter.see),
        photos,
        threads=threads,
        weigh=lambda photo: count_pixels(photo.path),
        at_most=MOST_PIXELS,
    )
    reading = contextlib.closing(ahead)
    with reading as reads, _threads(threads) as writers, Progress(len(photos)) as bar:
        writing: collections.deque[tuple[Future[None], int]] = collections.deque()
        for found in segmenter.segment_seen(views(reads, bar)):
            read, pixels = fed.popleft(), found.classes.size
            while writing and (writing[0][0].done() or _is_full(writing, pixels, threads)):
                writing.popleft()[0].result()
                bar.add()
            writes = writers.submit(outputs.write, read.photo, read.picture, found, read.file)
            writing.append((writes, pixels))
            del read, found  # the pixels go when they are written
        while writing:
            writing.popleft()[0].result()
            bar.add()


def _is_full(writing: Sequence[tuple[Any, int]], pixels: int, threads: int) -> bool:
    """Whether a photograph of so many pixels has to wait until others are written."""
    return len(writing) >= threads or pixels + sum(count for _, count in writing) > MOST_PIXELS


@contextlib.contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Yields a pool that, when an error or a signal ends the job, only ends what it has begun."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _read(photo: Photo, *, see: Callable[[np.ndarray], Any]) -> tuple[Read, Any]:
    """Returns what a photograph's files need of it, and what the segmenter does."""
    file = fingerprint(photo.path)
    if photo.fault:
        return Read(photo, file, NOTHING, f"{photo.path}: {photo.fault}"), None
    try:
        image = read_pixels(photo.path)
    except InputError as error:
        return Read(photo, file, NOTHING, str(error)), None
    return Read(photo, file, shrink_photo(image), ""), see(image)
