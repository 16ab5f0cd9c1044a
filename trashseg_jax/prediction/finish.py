"""The files of all photographs together, out of their records."""

import dataclasses
import json
from pathlib import Path

from trashseg_jax.errors import InputError
from trashseg_jax.prediction import dataset, submission
from trashseg_jax.prediction.coco_results import to_results
from trashseg_jax.prediction.inputs import Photo
from trashseg_jax.prediction.manifest import Manifest
from trashseg_jax.prediction.outputs import Outputs, Record, read_mask
from trashseg_jax.prediction.page import format_page
from trashseg_jax.prediction.summary import format_summary
from trashseg_jax.report.files import write_text


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is asked for besides the summaries; None: nothing."""

    sample: Path | None
    dataset: Path | None
    val_fraction: float

    def check(self, photos: tuple[Photo, ...]) -> None:
        """Raises InputError for what could not be written when all is predicted."""
        if self.sample is not None:
            submission.match_sample(submission.read_sample(self.sample), photos, sample=self.sample)
        if self.dataset is not None:
            dataset.check_target(self.dataset)
            dataset.count_held_out(self.dataset, len(photos), val_fraction=self.val_fraction)


def finish(outputs: Outputs, manifest: Manifest, wanted: Wanted) -> list[str]:
    """Writes the summaries and what is `wanted`; returns why photographs are not in them.

    Raises InputError where photographs have no record: a shard's may still be under way.
    """
    good, bad, absent = [], [], []
    for photo in manifest.photos:
        record = outputs.read_record(photo)
        if record is None or not outputs.is_current(record) or record["listed"] != photo.listed:
            absent.append(photo.listed)
        elif "fault" in record:
            bad.append(record["fault"])
        else:
            good.append((photo, record))
    if absent:
        raise InputError(
            f"{outputs.folder}: {len(absent)} of {len(manifest.photos)} photographs are not "
            f"predicted yet, {absent[0]} for one; start the shards that are missing"
        )
    write_summaries(outputs, good, bad=len(bad))
    if wanted.sample is not None:
        _write_submission(outputs, manifest, good, wanted.sample)
    if wanted.dataset is not None:
        counts = dataset.write_dataset(
            wanted.dataset, good, outputs, val_fraction=wanted.val_fraction
        )
        _say_dataset(wanted.dataset, counts)
    return bad


def write_summaries(outputs: Outputs, good: list[tuple[Photo, Record]], *, bad: int) -> None:
    folder, names = outputs.folder, outputs.options.classes
    write_text(folder / "summary.csv", format_summary(good, names=names))
    write_text(folder / "predictions.json", json.dumps(to_results(good, names=names)) + "\n")
    write_text(folder / "index.html", format_page(good, names=names, bad=bad))


def _write_submission(
    outputs: Outputs, manifest: Manifest, good: list[tuple[Photo, Record]], sample: Path
) -> None:
    matched = submission.match_sample(
        submission.read_sample(sample), manifest.photos, sample=sample
    )
    there = {photo.name for photo, _ in good}
    if bad := [name for name, photo in matched.items() if photo.name not in there]:
        print(f"submission.csv: not written, since {len(bad)} of its photographs are bad: {bad[0]}")
        return
    masks = ((name, read_mask(outputs.mask(photo))) for name, photo in matched.items())
    write_text(outputs.folder / "submission.csv", submission.format_submission(masks))


def _say_dataset(folder: Path, counts: dict[str, int]) -> None:
    print(
        f"{folder}: {counts['train']} images of train and {counts['val']} of val; train on them "
        f"with --config=reference:coco --config.data.dir={folder} "
        f"--config.data.class_map={folder / 'class_map.json'}"
    )
