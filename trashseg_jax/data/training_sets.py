"""The data sets that a run trains on, seen as one: the main one, and those of `config.data.mix`."""

import bisect
import collections
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

if TYPE_CHECKING:
    from trashseg_jax.data.builder import Prepared


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """A prepared data set, what it is called, and its share of the training images drawn."""

    name: str
    share: float
    data: "Prepared"


@dataclasses.dataclass(frozen=True)
class TrainingSets:
    """The main data set, the first, and those that are mixed in, of which only `train` is used.

    Stands in for a `builder.Prepared` wherever training images are read or counted: they come in
    the order of the sets.
    """

    sets: tuple[TrainingSet, ...]

    @property
    def main(self) -> "Prepared":
        return self.sets[0].data

    @property
    def mixed_in(self) -> tuple[TrainingSet, ...]:
        return self.sets[1:]

    @property
    def sizes(self) -> list[int]:
        """How many training images each set has."""
        return [len(one.data.counts("train")[0]) for one in self.sets]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.main.classes

    @property
    def problems(self) -> list[str]:
        return [line for one in self.sets for line in one.data.problems]

    @property
    def notes(self) -> dict[str, int]:
        notes = (one.data.notes for one in self.sets)
        return dict(sum(map(collections.Counter, notes), collections.Counter()))

    def counts(self, split: str) -> tuple[Int64[np.ndarray, "n k"], Int64[np.ndarray, "n k"]]:
        """Returns pixels and annotations of each class in each image; of "val" the main set's."""
        if split != "train":
            return self.main.counts(split)
        pixels, annotations = zip(*(one.data.counts(split) for one in self.sets), strict=True)
        return np.concatenate(pixels), np.concatenate(annotations)

    def source(self) -> Any:
        """Returns random access to the training records.

        Where sets are mixed, a record's `id` is its place among all: sets may share their own ids.
        """
        sources = [one.data.source("train") for one in self.sets]
        return Concatenation(sources) if self.mixed_in else sources[0]

    def name_images(self, ids: Int64[np.ndarray, "b"]) -> list[int] | list[str]:
        """Returns how messages call images of a training batch: by id, of mixed sets by file."""
        if not self.mixed_in:
            return ids.tolist()
        names = [f"{one.name}/{name}" for one in self.sets for name, _ in one.data.images("train")]
        return [names[place] for place in ids.tolist()]

    def describe(self) -> dict[str, Any]:
        """Returns what a run records of its sets, nothing where there is one alone."""
        if not self.mixed_in:
            return {}
        pairs = zip(self.sets, self.sizes, strict=True)
        return {
            "mix": [{"name": one.name, "images": n, "share": one.share} for one, n in pairs],
        }


class Concatenation:
    """Several sources one after the other, their records numbered through."""

    def __init__(self, sources: Sequence[Any]):
        self._sources = sources
        self._starts = [0, *np.cumsum([len(source) for source in sources]).tolist()]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, place: int) -> dict[str, Any]:
        number = bisect.bisect_right(self._starts, place) - 1
        return {**self._sources[number][place - self._starts[number]], "id": place}
