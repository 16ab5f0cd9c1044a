"""Which runs may judge which images: those that were not trained on them."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from inspecting.scan import Scan, Scanned, digest_of
from trashseg_jax import build, settings
from trashseg_jax.ahead import map_ahead
from trashseg_jax.configs import default
from trashseg_jax.data import mix
from trashseg_jax.data.formats import FORMATS
from trashseg_jax.data.photos import read_photo
from trashseg_jax.data.records import DataFolder, Record
from trashseg_jax.errors import InputError
from trashseg_jax.inference import Segmenter
from trashseg_jax.model_description import holds_model
from trashseg_jax.prediction import models
from trashseg_jax.scored_models import check_named_once

BATCH_SIZE = 4


class Judge(NamedTuple):
    """Runs whose probabilities are averaged, and the images that none of them was trained on."""

    runs: tuple[Path, ...]
    images: list[Scanned]
    segmenter: Segmenter


def check_runs(runs: Sequence[Path]) -> None:
    """Raises InputError unless each is a run, named once."""
    check_named_once("run", runs)
    for run in runs:
        if holds_model(run):
            raise InputError(
                f"--run={run}: is a model's folder, which does not say on which images it was "
                "trained; name the run"
            )


def appoint(runs: Sequence[Path], scan: Scan, folder: DataFolder) -> list[Judge]:
    """Returns a judge for each set of images that the same runs were not trained on.

    `folder` is that of the scan. Raises InputError where a run's training images can't be read,
    its classes are others, or all runs were trained on all images.
    """
    trained = [training_digests(run, scan, folder) for run in runs]
    groups: dict[tuple[int, ...], list[Scanned]] = {}
    for image in scan.images:
        free = tuple(n for n, seen in enumerate(trained) if image.facts.digest not in seen)
        groups.setdefault(free, []).append(image)
    groups.pop((), None)
    if not groups:
        raise InputError(
            f"--run={runs[0]}: was trained on all of these images, so it cannot judge their "
            "labels; name a run that some were held out from, or several of different folds"
        )
    return [
        Judge(chosen, images, _make_segmenter(chosen, scan.classes))
        for free, images in groups.items()
        for chosen in [tuple(runs[n] for n in free)]
    ]


def training_digests(run: Path, scan: Scan, folder: DataFolder) -> set[str]:
    """Returns the digests of the images that a run was trained on, also those mixed in."""
    config: Any = settings.read_config(run, defaults=default.get_config)
    own = build.build_folder(config)
    if _same_folder(own, folder):
        digests = {image.facts.digest for image in scan.of_split("train")}
    else:
        digests = set(_digest_all(_read(own, config.data.format)))
    for entry in mix.parse(config.data.mix):
        mixed_in = build.mixed_folder(config, entry, own.class_map.classes)
        digests |= set(_digest_all(_read(mixed_in, default.data_format(entry.preset))))
    return digests


def _same_folder(one: DataFolder, other: DataFolder) -> bool:
    pair = [dataclasses.replace(f, path=f.path.resolve(), skip_bad=True) for f in (one, other)]
    return pair[0] == pair[1]


def _read(folder: DataFolder, data_format: str) -> list[Record]:
    return FORMATS[data_format](dataclasses.replace(folder, skip_bad=True)).records["train"]


def _digest_all(records: Sequence[Record]) -> Iterator[str]:
    yield from filter(None, map_ahead(_digest, records))


def _digest(record: Record) -> str:
    try:
        return digest_of(read_photo(record.path, upright=record.upright)[1])
    except InputError:  # which no training could use either
        return ""


def _make_segmenter(runs: Sequence[Path], classes: tuple[str, ...]) -> Segmenter:
    loaded = models.load_all(runs, checkpoint=models.LATEST, calibration=True)
    for run, model in zip(runs, loaded, strict=True):
        if model.classes != classes:
            raise InputError(
                f"--run={run}: its classes are {', '.join(model.classes)}, and those of the data "
                f"{', '.join(classes)}; name the run's class map as --config.data.class_map"
            )
    make = partial(models.make_segmenter, scale="fit", tile_scale=1.0, tta=(), keep_probs=True)
    return make(*loaded, batch_size=BATCH_SIZE)
