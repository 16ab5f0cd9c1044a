"""Writes one page on a data set before anyone trains: what is in it, and what to look at.

    python scripts/inspect_data.py --config=reference:aistage --config.data.dir=FOLDER \
        --output=data.html

It reads the images and annotations as a training would, and needs no training, no copy in the
cache and no network. After a training, --run=RUN (repeated, for runs of several folds) adds the
objects and images whose annotation the run contradicts, of images that it was not trained on, and
writes them to label_errors.json beside the page, a COCO json for annotation tools.
docs/inspect_data.md says what the page shows.
"""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

sys.path.insert(1, str(Path(__file__).parent.parent))

from trashseg_jax.errors import InputError
from trashseg_jax.main import COMPILATION_CACHE, check_devices, parse_flags, read_config, run

if TYPE_CHECKING:
    from inspecting.label_errors import LabelErrors
    from inspecting.scan import Scan

    from trashseg_jax.data.records import DataFolder

OUTPUT = flags.DEFINE_string("output", None, "The page to write.", allow_override=True)
RUN = flags.DEFINE_multi_string(
    "run", [], "A run that judges the labels of images that it was not trained on; repeatable."
)
ERRORS = "label_errors.json"


def main(argv: list[str]) -> None:
    del argv
    if not OUTPUT.value:
        raise InputError("--output is missing; it must name the page to write")
    config: Any = read_config()
    output = Path(OUTPUT.value).expanduser()
    if output.is_dir():
        raise InputError(f"--output={output}: is a folder; name the page to write in it")
    runs = [Path(name).expanduser() for name in RUN.value]

    # Imported late: --help and a wrong flag answer at once, and so do the scan's processes.
    from inspecting.coco_list import to_coco
    from inspecting.judges import check_runs
    from inspecting.page import format_page

    from trashseg_jax import build, folders
    from trashseg_jax.report.files import write_json, write_text

    remedy = "name a page in a folder that can be written"
    folders.check_writable(output.parent, remedy)
    build.check_options(config)
    check_runs(runs)  # before the images are looked at
    found = inspect(config, build_folder(config), runs)
    page = format_page(found, title=f"Data: {config.data.name}", facts=describe(config, found.scan))
    with folders.explained(output.parent, remedy):
        output.parent.mkdir(parents=True, exist_ok=True)
        write_text(output, page)
        print(f"{output}: {len(page) / 1e6:.1f} MB")
        if found.errors:
            coco = to_coco(found.errors, classes=found.scan.classes)
            write_json(output.with_name(ERRORS), coco)
            print(f"{output.with_name(ERRORS)}: {len(coco['annotations'])} doubtful objects")


def build_folder(config: Any) -> "DataFolder":
    """Returns the config's data folder; what is bad in it does not stop the reading."""
    from trashseg_jax import build

    return dataclasses.replace(build.build_folder(config), skip_bad=True)


def inspect(config: Any, folder: "DataFolder", runs: list[Path]) -> Any:
    """Returns the page.Findings of a data set."""
    from inspecting import balance, choice, statistics, suspicious, twins
    from inspecting.page import Findings
    from inspecting.scan import scan

    from trashseg_jax.data.formats import FORMATS

    classes, size = folder.class_map.classes, config.data.image_size
    splits = FORMATS[config.data.format](folder)
    scanned = scan(splits.records, classes=classes, problems=splits.problems, image_size=size)
    images, train = scanned.images, scanned.of_split("train")
    if not train:
        raise InputError(f"no image of train can be used; the first fault: {scanned.problems[0]}")
    pixels = statistics.count_pixels(train, len(classes))
    objects = statistics.count_objects(train, len(classes))
    return Findings(
        scan=scanned,
        splits=tuple(splits.records),
        image_size=size,
        balance=balance.describe_balance(config, pixels, objects, classes=classes),
        suspicious=suspicious.find_suspicious(
            images, classes=classes, shown=choice.amounts_for(len(classes)).cases
        ),
        twins=twins.find_twins(
            [one.facts.hash for one in images],
            [one.facts.digest for one in images],
            [one.split for one in images],
            distance=twins.CLOSE,
        ),
        errors=find_errors(scanned, folder, runs) if runs else None,
    )


def find_errors(scanned: "Scan", folder: "DataFolder", runs: list[Path]) -> "LabelErrors":
    """Returns what the runs contradict."""
    from inspecting import judges, label_errors

    from trashseg_jax.devices import program_cache

    check_devices()
    if COMPILATION_CACHE.value:
        program_cache.keep_programs()
    return label_errors.find_label_errors(scanned, judges.appoint(runs, scanned, folder))


def describe(config: Any, scanned: "Scan") -> list[str]:
    """Returns the facts below the page's title."""
    splits = dict.fromkeys(image.split for image in scanned.images)
    counts = [f"{_count(len(scanned.of_split(split)), 'image')} of {split}" for split in splits]
    objects = sum(int(image.facts.counted[1:].sum()) for image in scanned.images)
    counts += [f"{_count(objects, 'object')} of {_count(len(scanned.classes) - 1, 'class')}"]
    mixed = [f"without {config.data.mix}, which is mixed in"] if config.data.mix else []
    return [config.data.dir or "rendered scenes", *counts, *mixed]


def _count(number: int, what: str) -> str:
    ending = "es" if what.endswith("s") else "s"
    return f"{number} {what}{ending if number != 1 else ''}"


if __name__ == "__main__":
    run(main, parse_flags)
