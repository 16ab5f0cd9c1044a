"""manifest.json: the photographs of a job and what they are predicted with."""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

from trashseg_jax.errors import InputError
from trashseg_jax.prediction.inputs import Photo
from trashseg_jax.prediction.outputs import Options
from trashseg_jax.prediction.shards import Shard
from trashseg_jax.report.files import write_json


class Manifest(NamedTuple):
    options: Options
    photos: tuple[Photo, ...]  # all of the job, not a shard's alone


def write(folder: Path, manifest: Manifest, shard: Shard) -> None:
    """Writes a process's manifest; those of another job are removed, and what differs is said."""
    content = to_json(manifest)
    differing: dict[str, None] = {}
    for path in sorted(folder.glob("manifest*.json")):
        other = _read_json(path)
        if other != content:
            differing |= dict.fromkeys(_differences(other, content))
            path.unlink(missing_ok=True)
    if differing:
        print(f"{folder}: was made with other options, so it is redone: {', '.join(differing)}")
    write_json(folder / f"manifest{shard.suffix}.json", content)


def read(folder: Path) -> Manifest:
    """Returns the manifest that all processes have agreed on."""
    paths = sorted(folder.glob("manifest*.json"))
    if not paths:
        raise InputError(f"--output={folder}: holds no predictions; predict first")
    contents = [_read_json(path) for path in paths]
    for path, content in zip(paths, contents, strict=True):
        if not content or content != contents[0]:
            raise InputError(
                f"{path}: is not of the same job as {paths[0].name}; start all shards with the "
                "same --model, --input and options"
            )
    options = {k: _tuples(v) for k, v in contents[0]["options"].items()}
    if options.keys() != {field.name for field in dataclasses.fields(Options)}:
        raise InputError(f"--output={folder}: is of another version; predict again")
    photos = tuple(Photo(Path(path), *rest) for path, *rest in contents[0]["photos"])
    return Manifest(Options(**options), photos)


def to_json(manifest: Manifest) -> dict[str, Any]:
    photos = [[str(photo.path.absolute()), *photo[1:]] for photo in manifest.photos]
    return {"options": manifest.options.as_json(), "photos": photos}


def _differences(other: dict[str, Any], content: dict[str, Any]) -> list[str]:
    """Says which options differ; none does where the photographs alone are others."""
    before, now = other.get("options", {}), content["options"]
    if not before:
        return []
    return [
        f"{key} was {before.get(key)}, is {now[key]}" for key in now if before.get(key) != now[key]
    ]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
