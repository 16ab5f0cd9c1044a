"""Writes a data set as images and label images that other programs read, and ours again.

    python scripts/export_masks.py --config=configs/reference.py:aistage \
        --config.data.dir=FOLDER --output=OUT

OUT/train/images and OUT/val/images get the upright images, OUT/train/labels and OUT/val/labels a
PNG for each: a pixel's value is its class, 255 is ignored, and the palette shows the classes in
their colours. OUT/class_map.json says which is which. OUT is there whole or not at all, and must
not hold anything before.
"""

import collections
import os
import posixpath
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from absl import flags
from jaxtyping import UInt8
from PIL import Image

sys.path.insert(1, str(Path(__file__).parent.parent))

from trashseg_jax import build
from trashseg_jax.data.label_codec import decode_label
from trashseg_jax.data.taxonomy import IGNORE_LABEL, IGNORE_NAME, palette
from trashseg_jax.errors import InputError
from trashseg_jax.main import parse_flags, read_config, run
from trashseg_jax.report.files import write_json

OUTPUT = flags.DEFINE_string(
    "output", None, "The folder to write; it must not exist or be empty.", allow_override=True
)
IGNORE_COLOR = (255, 255, 255)  # no class has it


def main(argv: list[str]) -> None:
    del argv
    if not OUTPUT.value:
        raise InputError("--output is missing; it must name the folder to write")
    config, output = read_config(), Path(OUTPUT.value).expanduser()
    check_output(output)
    counts = export(build.build_data(config), output)
    print(
        f"{output}: {' and '.join(f'{count} images of {split}' for split, count in counts.items())}"
        f"\nread again with --config=configs/reference.py:masks --config.data.dir={output} "
        f"--config.data.class_map={output / 'class_map.json'}"
    )


def check_output(output: Path) -> None:
    """Raises InputError for a folder that holds anything, and for what is not a folder."""
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise InputError(f"--output={output}: is not a folder; name a new one")
    if output.is_dir() and any(output.iterdir()):
        raise InputError(f"--output={output}: holds files, which stay; name a new or empty folder")


def export(data, output: Path) -> dict[str, int]:
    """Writes a `builder.Prepared` and returns the number of images by split."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{output.name}.", dir=output.parent))
        try:
            partial.chmod(0o777 & ~_umask())  # mkdtemp's is the user's alone
            splits = tuple(data.builder.info.splits)
            counts = {split: write_split(data, split, partial / split) for split in splits}
            write_json(partial / "class_map.json", class_map(data.classes))
            os.rename(partial, output)  # onto an empty folder, too
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as error:
        raise InputError(
            f"--output={output}: can't be written ({error.strerror}); name another folder"
        ) from error
    return counts


def write_split(data, split: str, folder: Path) -> int:
    source, colors = data.source(split), palette_bytes(len(data.classes))
    endings = [_ending(record["image"]) for record in source]
    names = [name for name, _ in data.images(split)]
    for record, name in zip(source, file_names(names, endings), strict=True):
        image, label = folder / "images" / name, (folder / "labels" / name).with_suffix(".png")
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(record["image"])
        picture = Image.fromarray(decode_label(record["label"]))
        picture.putpalette(colors)
        picture.save(label)
    return len(source)


def file_names(names: Sequence[str], endings: Sequence[str]) -> list[str]:
    """Returns a name for each image: its own, with the ending of what it is stored as.

    Those that share all but the ending, for which there can be but one label, get a number.
    """
    # Below the folder, whatever they were: "/../a" is "/a".
    clean = [posixpath.normpath("/" + name.replace("\\", "/")).lstrip("/") for name in names]
    stems = [str(PurePosixPath(name).with_suffix("")) for name in clean]
    shared = {s for s, n in collections.Counter(map(str.casefold, stems)).items() if n > 1}
    used = {stem.casefold() for stem in stems}
    result = []
    for name, stem, ending in zip(clean, stems, endings, strict=True):
        number = 1
        if stem.casefold() in shared:
            while f"{stem}-{number}".casefold() in used:
                number += 1
            stem = f"{stem}-{number}"
            used.add(stem.casefold())
        same = name.casefold().endswith((".jpg", ".jpeg") if ending == ".jpg" else ending)
        result.append(stem + (PurePosixPath(name).suffix if same else ending))
    return result


def palette_bytes(num_classes: int) -> bytes:
    """Returns 256 RGB colours: the classes', black for those that are none, and IGNORE_COLOR."""
    colors: UInt8[np.ndarray, "256 3"] = np.zeros((256, 3), np.uint8)
    colors[:num_classes] = palette(num_classes)
    colors[IGNORE_LABEL] = IGNORE_COLOR
    return colors.tobytes()


def class_map(classes: Sequence[str]) -> dict[str, object]:
    """Returns what docs/class_maps.md describes, for labels by value and by colour."""
    names = [*classes, IGNORE_NAME]
    colors = [*palette(len(classes)).tolist(), IGNORE_COLOR]
    return {
        "classes": list(classes),
        "values": dict(zip(map(str, [*range(len(classes)), IGNORE_LABEL]), names, strict=True)),
        "colors": {"#{:02x}{:02x}{:02x}".format(*c): n for c, n in zip(colors, names, strict=True)},
    }


def _ending(image: bytes) -> str:
    return ".png" if image.startswith(b"\x89PNG") else ".jpg"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


if __name__ == "__main__":
    run(main, parse_flags)
