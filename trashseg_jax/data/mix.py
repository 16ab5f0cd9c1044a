"""The text of `config.data.mix`: which data sets are trained on besides the main one.

Imports no numpy: a wrong flag is answered at once.
"""

import re
from pathlib import Path
from typing import NamedTuple

from trashseg_jax.errors import InputError, show
from trashseg_jax.settings import expand_home

FORM = 'PRESET:FOLDER=SHARE or PRESET:FOLDER:CLASS_MAP=SHARE, several with a comma between, or ""'
_NAME = r"[^:=,\0\n]+"
_ENTRY = rf"\s*(\w+):({_NAME})(?::({_NAME}))?=(\d+\.?\d*|\.\d+)\s*"
PATTERN = rf"({_ENTRY}(,{_ENTRY})*)?"
OWN_MAP = "class_map.json"  # what predict's --dataset and scripts/export_masks.py call theirs


class Entry(NamedTuple):
    """A data set that is mixed in, and its share of the images drawn, above 0 and below 1."""

    preset: str  # one of default.DATASETS
    folder: str  # or a COCO json's path
    class_map: str  # "": the folder's own, or else the preset's
    share: float

    @property
    def name(self) -> str:
        """How messages and records call it."""
        return f"{self.preset}:{self.folder}"

    @property
    def json_file(self) -> Path | None:
        path = Path(expand_home(self.folder))
        return path if path.suffix.lower() == ".json" else None

    @property
    def path(self) -> Path:
        """The data set's folder: above `annotations`, where a json in such a folder is named."""
        if not self.json_file:
            return Path(expand_home(self.folder))
        beside = self.json_file.parent
        return beside.parent if beside.name == "annotations" else beside


def parse(text: str) -> tuple[Entry, ...]:
    """Returns the entries of the text; raises InputError where it is of another form."""
    if not re.fullmatch(PATTERN, text):
        raise InputError(f"config.data.mix={show(text)}: must be {FORM}")
    found = re.finditer(_ENTRY, text)
    return tuple(
        Entry(preset, folder.strip(), (class_map or "").strip(), float(share))
        for preset, folder, class_map, share in (match.groups() for match in found)
    )


def without_folders(text: str) -> str:
    """Returns the text with the last names of its paths alone."""
    return ",".join(
        f"{one.preset}:{Path(one.folder).name}"
        f"{f':{Path(one.class_map).name}' if one.class_map else ''}={one.share:g}"
        for one in parse(text)
    )
