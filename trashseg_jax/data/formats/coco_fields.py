"""What the fields of a COCO json may hold: tools write ids, numbers and flags in several ways.

Worker processes import this module: it needs neither jax nor tensorflow.
"""

import hashlib
import math
import re
from collections.abc import Container
from typing import Any, TypeAlias

from trashseg_jax.data.photos import MAX_PIXELS
from trashseg_jax.errors import InputError, show

Content: TypeAlias = dict[str, Any]  # an object of the json
Key: TypeAlias = int | str  # an id; it only links one part of the json to another

_NUMBER = re.compile(r"\s*[-+]?\d{1,30}(\.\d{0,30})?([eE][-+]?\d{1,3})?\s*")
_WHOLE = re.compile(r"-?[1-9]\d{0,17}|0")
_FLAGS: dict[str, bool] = dict.fromkeys(("0", "0.0", "false", "no", ""), False)
_FLAGS |= dict.fromkeys(("1", "1.0", "true", "yes"), True)


def is_absent(value: Any) -> bool:
    """Whether a field holds nothing: null, or NaN, as table libraries write it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def as_number(value: Any) -> int | float | None:
    """Returns a finite number, which may be written as text; None for anything else."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value) if re.search("[.eE]", value) else int(value)
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return value
    return None


def as_whole(value: Any) -> int | None:
    """Returns a whole number, which may be written as 1.0 or as text; None for anything else."""
    number = as_number(value)
    return int(number) if number is not None and number == int(number) else None


def as_id(value: Any) -> Key | None:
    """Returns an id as it is compared: 1.0 is 1, what has more than 64 bits is text; else None."""
    if type(value) is float and math.isfinite(value):
        value = int(value) if value.is_integer() else str(value)
    if type(value) is int:
        return value if -(2**63) <= value < 2**63 else str(value)
    return value if isinstance(value, str) else None


def find_id(known: Container[Key], value: Any) -> Key | None:
    """Returns the known id that a field refers to, None if there is none.

    Where "1" and 1 are both known they are two; where one of them is, either refers to it.
    """
    key = as_id(value)
    if key is None or key in known:
        return key if key is not None and key in known else None
    other = str(key) if isinstance(key, int) else int(key) if _WHOLE.fullmatch(key) else None
    return other if other is not None and other in known else None


def record_id(key: Key, known: Container[Key]) -> int:
    """Returns the number of 64 bits that stands for an image's id: that of its text, if any.

    Any other text has the first bits of its SHA-256, the same in whatever file it occurs.
    """
    if isinstance(key, int):
        return key
    if _WHOLE.fullmatch(key) and int(key) not in known:
        return int(key)
    digest = hashlib.sha256(key.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def as_flag(value: Any) -> bool | None:
    """Returns what 0, false, "0", "false" and the like say; absent is false, None anything else."""
    if is_absent(value):
        return False
    if isinstance(value, bool | int | float | str):
        return _FLAGS.get(str(value).strip().casefold())
    return None


def read_size(image: dict[str, Any]) -> tuple[int, int] | None:
    """Returns an image's height and width, None where either is absent; raises InputError."""
    given = {name: image.get(name) for name in ("height", "width")}
    if any(is_absent(value) for value in given.values()):
        return None
    sizes = {name: as_whole(value) for name, value in given.items()}
    for name, size in sizes.items():
        if size is None:
            raise InputError(f"has the {name} {show(given[name])}; it must be a whole number")
    height, width = sizes["height"] or 0, sizes["width"] or 0
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise InputError(
            f"has height {show(height)} and width {show(width)}; both must be positive, their "
            f"product at most {MAX_PIXELS}"
        )
    return height, width


def read_box(annotation: dict[str, Any]) -> tuple[float, float, float, float] | None:
    """Returns x, y, width and height of an annotation's box, None if it has none that holds any."""
    box = annotation.get("bbox")
    numbers = [as_number(value) for value in box] if isinstance(box, list) else []
    x, y, width, height = numbers if len(numbers) == 4 else (None,) * 4
    if x is None or y is None or width is None or height is None or width <= 0 or height <= 0:
        return None
    return float(x), float(y), float(width), float(height)
