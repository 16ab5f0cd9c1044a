"""The pictures of an evaluated image, small enough that a page holds dozens of them."""

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from trashseg_jax.data import taxonomy
from trashseg_jax.report.files import write_bytes

FILE = "pictures.npz"
SIDE = 416  # pixels of a picture's longer side
CONFIDENCE_SIDE = 208  # it changes slowly, and compresses badly
CONFIDENCE_STEPS = 16
QUALITY = 68  # of the photograph's WebP
BUDGET = 2_000_000  # bytes of all pictures of a page, before base64 makes them a third more

ERROR, IGNORED = (230, 0, 60), (128, 128, 128)
# From not sure to sure: the ends and the middle of ColorBrewer's "YlGnBu" turned round, which is
# told apart by its lightness alone.
LOW, MIDDLE, HIGH = (8, 29, 88), (65, 182, 196), (255, 255, 217)

Label = UInt8[np.ndarray, "h w"]


@dataclasses.dataclass(frozen=True)
class Look:
    """One evaluated image as arrays of the size that it is shown at."""

    place: int  # in the split
    name: str  # of its file
    size: tuple[int, int]  # height and width of the photograph
    image: UInt8[np.ndarray, "h w 3"]
    label: Label
    prediction: Label
    refined: Label | None  # by the CRF
    confidence: UInt8[np.ndarray, "_ _"] | None  # the probability of the class, in 255ths


@dataclasses.dataclass(frozen=True)
class Picture:
    """The same encoded: the photograph as WebP, the others as PNG."""

    place: int
    name: str
    size: tuple[int, int]
    photograph: bytes
    truth: bytes
    prediction: bytes
    errors: bytes  # transparent where the prediction is right
    refined: bytes = b""
    confidence: bytes = b""

    @property
    def num_bytes(self) -> int:
        return sum(len(value) for value in vars(self).values() if isinstance(value, bytes))


def encode_all(looks: Sequence[Look], *, colors: UInt8[np.ndarray, "k 3"]) -> list[Picture]:
    """Returns the pictures of as many looks, from the first on, as BUDGET has room for."""
    pictures, total = [], 0
    for look in looks:
        picture = encode(look, colors=colors)
        total += picture.num_bytes
        if pictures and total > BUDGET:
            break
        pictures.append(picture)
    return pictures


def encode(look: Look, *, colors: UInt8[np.ndarray, "k 3"]) -> Picture:
    """Encodes a look; label maps have `colors`, and what is ignored is grey."""
    ignored = look.label == taxonomy.IGNORE_LABEL
    wrong = np.where(ignored, 2, look.label != look.prediction).astype(np.uint8)
    return Picture(
        look.place,
        look.name,
        look.size,
        _webp(look.image),
        truth=_png(look.label, colors),
        prediction=_png(look.prediction, colors),
        errors=_png(wrong, np.array([(0, 0, 0), ERROR, IGNORED], np.uint8), transparent=0),
        refined=b"" if look.refined is None else _png(look.refined, colors),
        confidence=b"" if look.confidence is None else _confidence_png(look.confidence),
    )


def confidence_colors() -> UInt8[np.ndarray, "s 3"]:
    """Returns the colour of each step of confidence, from 0 to 1."""
    places = np.linspace(0, 2, CONFIDENCE_STEPS)
    ends = np.array([LOW, MIDDLE, HIGH], float)
    columns = [np.interp(places, (0, 1, 2), ends[:, channel]) for channel in range(3)]
    return np.rint(np.stack(columns, 1)).astype(np.uint8)


def _confidence_png(confidence: UInt8[np.ndarray, "h w"]) -> bytes:
    steps = confidence.astype(np.uint16) * CONFIDENCE_STEPS // 256
    return _png(steps.astype(np.uint8), confidence_colors())


def _webp(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "WEBP", quality=QUALITY, method=4)
    return content.getvalue()


def _png(
    values: UInt8[np.ndarray, "h w"],
    colors: UInt8[np.ndarray, "k 3"],
    *,
    transparent: int | None = None,
) -> bytes:
    """Returns a PNG of indices into `colors`; IGNORE_LABEL is grey."""
    used = [*map(tuple, colors.tolist()), IGNORED]
    picture = Image.fromarray(np.minimum(values, len(colors)).astype(np.uint8), "P")
    picture.putpalette([channel for color in used for channel in color])
    content = io.BytesIO()
    options = {} if transparent is None else {"transparency": transparent}
    picture.save(content, "PNG", bits=_bits(len(used)), optimize=True, **options)
    return content.getvalue()


def _bits(count: int) -> int:
    return next(bits for bits in (1, 2, 4, 8) if count <= 2**bits)


# On disk: a column a field, all pictures' bytes of a kind one after the other.

_BYTES = tuple(f.name for f in dataclasses.fields(Picture) if f.type in (bytes, "bytes"))


def save_pictures(path: Path, pictures: Sequence[Picture]) -> None:
    """Writes pictures into one file, which `load_pictures` reads."""
    columns: dict[str, np.ndarray] = {
        "place": np.array([one.place for one in pictures], np.int64),
        "name": np.array([one.name for one in pictures], np.str_),
        "size": np.array([one.size for one in pictures], np.int64).reshape(-1, 2),
    }
    for name in _BYTES:
        parts = [getattr(one, name) for one in pictures]
        columns[name] = np.frombuffer(b"".join(parts), np.uint8)
        columns[f"{name}_lengths"] = np.array([len(part) for part in parts], np.int64)
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **columns)
    write_bytes(path, content.getvalue())


def load_pictures(path: Path) -> list[Picture]:
    """Returns the pictures of a file, none where there is no such file."""
    if not path.exists():
        return []
    with np.load(path, allow_pickle=False) as file:
        columns = dict(file)
    parts = {}
    for name in _BYTES:
        ends = np.cumsum(columns[f"{name}_lengths"])
        parts[name] = [part.tobytes() for part in np.split(columns[name], ends[:-1])]
    return [
        Picture(
            int(columns["place"][i]),
            str(columns["name"][i]),
            (int(columns["size"][i, 0]), int(columns["size"][i, 1])),
            **{name: parts[name][i] for name in _BYTES},
        )
        for i in range(len(columns["place"]))
    ]
