"""The bank of objects for `paste.py`: cut out of the training split once, kept in the cache."""

import dataclasses
import hashlib
import heapq
import math
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from trashseg_jax import folders
from trashseg_jax.data import locks
from trashseg_jax.data.label_codec import decode_runs
from trashseg_jax.data.paste import WHOLE, Bank, scale_cutout
from trashseg_jax.data.pieces import find_pieces
from trashseg_jax.data.scaling import decode_photo
from trashseg_jax.data.taxonomy import IGNORE_LABEL

FORMAT = 1  # part of a bank's name: raise it when what is stored changes
MARGIN = 4  # pixels of its photograph around an object: enough for a blurred edge
SEED = 0  # of the choice, which is the same for all runs


@dataclasses.dataclass(frozen=True)
class BankOptions:
    """Which objects a bank holds, and how large."""

    per_class: int  # at most so many of a class
    size: tuple[float, float]  # the longer side of an object's box over its photograph's
    side: int  # larger photographs are scaled to this longer side
    border: float  # pixels; standard deviation of the Gaussian that blurs the edge of alpha


Cutout = tuple[int, np.ndarray, float]  # class, colours and mask, the photograph's longer side


class Piece(NamedTuple):
    """A connected piece of a label map."""

    record: int
    label: int
    top: int
    left: int
    mask: Bool[np.ndarray, "h w"]


def load_bank(folder: Path, source: Any, options: BankOptions, *, num_classes: int) -> Bank:
    """Returns the bank of a prepared training split; makes it if it is not in `folder` yet.

    `folder` is that of the prepared data, so that what it holds never changes, and the bank goes
    when they go. `source` holds records with `image` and `label`, as `builder.Records` does.
    """
    key = hashlib.sha256(repr((FORMAT, MARGIN, SEED, options)).encode()).hexdigest()[:16]
    path = folder / f"objects-{key}.npz"
    make = partial(_make, path, source, options, num_classes)
    with folders.explained(folder, "name another folder with --config.data.cache_dir"):
        if lock := locks.ensure(path, is_there=path.exists, make=make):
            lock.close()
    with np.load(path, allow_pickle=False) as stored:
        return Bank(**{name: stored[name] for name in stored.files})


def collect(source: Any, options: BankOptions, *, num_classes: int) -> Bank:
    """Cuts objects out of the records: whole ones of the right size, `per_class` by lot.

    An object is a connected piece of a class other than the background, away from the image's
    border: what touches that may be a part of an object. Two that touch each other count as one.
    """
    best: list[list[tuple[float, int, Piece]]] = [[] for _ in range(num_classes)]
    found = np.zeros(num_classes, np.int64)
    lots = np.random.Generator(np.random.Philox(key=[SEED, 0]))
    for piece in _all_pieces(source, options):
        found[piece.label] += 1
        # Those with the highest lots stay: a sample of `per_class`, each as likely.
        entry = (float(lots.random()), int(found[piece.label]), piece)
        heap = best[piece.label]
        if len(heap) < options.per_class:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)
    return _pack(_cut_all(source, [piece for heap in best for *_, piece in heap], options), found)


def _make(path: Path, source: Any, options: BankOptions, num_classes: int) -> None:
    """Leaves a whole file at `path`, or none."""
    bank = collect(source, options, num_classes=num_classes)
    arrays: Any = {field.name: getattr(bank, field.name) for field in dataclasses.fields(bank)}
    with folders.replaced_file(path) as file:
        np.savez(file, **arrays)
    classes = np.count_nonzero(bank.counts)
    print(f"{path}: {len(bank.classes)} objects of {classes} classes for data.paste")


def _cut_all(source: Any, pieces: list[Piece], options: BankOptions) -> list[Cutout]:
    """Returns the pieces cut out, in the order of their classes and then of the records."""
    by_record = defaultdict(list)
    for piece in sorted(pieces, key=lambda piece: piece[:-1]):
        by_record[piece.record].append(piece)
    cutouts = []
    progress = tqdm(by_record.items(), desc="Cutting objects out", unit="image", disable=None)
    for record, of_record in progress:
        photo = decode_photo(source[record]["image"])
        cutouts += [(piece.label, *_cut_out(photo, piece, options)) for piece in of_record]
    return sorted(cutouts, key=lambda cutout: cutout[0])


def _all_pieces(source: Any, options: BankOptions) -> Iterator[Piece]:
    records = tqdm(range(len(source)), desc="Finding objects", unit="image", disable=None)
    for record in records:
        runs = decode_runs(source[record]["label"])
        label = runs.expand()
        for k in sorted({*runs.labels.tolist()} - {0, IGNORE_LABEL}):
            yield from _pieces(label == k, record, k, options)


def _pieces(mask: np.ndarray, record: int, label: int, options: BankOptions) -> Iterator[Piece]:
    """Yields the pieces of a class that have the right size and lie away from the border."""
    side = max(mask.shape)
    margin = _margin(side, options.side)
    low, high = (share * side for share in options.size)
    # Looking for pieces where there is nothing takes as long as where there is something.
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    for (ys, xs), piece in find_pieces(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]):
        top, left = int(rows[0]) + ys.start, int(columns[0]) + xs.start
        below, right = mask.shape[0] - top - piece.shape[0], mask.shape[1] - left - piece.shape[1]
        if low <= max(piece.shape) <= high and min(top, left, below, right) >= margin:
            yield Piece(record, label, top, left, piece)


def _margin(side: int, stored_side: int) -> int:
    """Returns how many pixels of a photograph with this longer side become MARGIN in the bank."""
    return math.ceil(MARGIN * max(1.0, side / stored_side))


def _cut_out(
    photo: UInt8[np.ndarray, "h w 3"], piece: Piece, options: BankOptions
) -> tuple[UInt8[np.ndarray, "a b 4"], float]:
    """Returns colours and alpha with a margin, and the photograph's longer side at their scale."""
    side = max(photo.shape)
    margin = _margin(side, options.side)
    height, width = (length + 2 * margin for length in piece.mask.shape)
    top, left = piece.top - margin, piece.left - margin
    colours = photo[top : top + height, left : left + width]
    cutout = np.dstack([colours, np.pad(piece.mask, margin).astype(np.uint8) * 255])
    if side > options.side:
        scale = options.side / side
        size = max(1, round(height * scale)), max(1, round(width * scale))
        cutout, side = np.array(scale_cutout(cutout, size, part=WHOLE)), options.side
    if options.border:
        alpha = cutout[..., 3].astype(np.float32)
        cutout[..., 3] = np.rint(gaussian_filter(alpha, options.border, mode="constant"))
    return cutout, float(side)


def _pack(cutouts: list[Cutout], found: np.ndarray) -> Bank:
    pixels = [cutout.reshape(-1, 4) for _, cutout, _ in cutouts]
    return Bank(
        pixels=np.concatenate([np.zeros((0, 4), np.uint8), *pixels]),
        shapes=np.array([cutout.shape[:2] for _, cutout, _ in cutouts], np.int64).reshape(-1, 2),
        sides=np.array([side for *_, side in cutouts], np.float64),
        classes=np.array([label for label, *_ in cutouts], np.int64),
        found=found,
    )
