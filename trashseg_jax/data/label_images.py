"""Reads label images, PNGs whose pixels have the value or colour of a class, as label maps.

Worker processes import this module: it needs neither jax nor tensorflow.
"""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64, UInt8
from PIL import Image

from trashseg_jax.data.photos import EXIF_ORIENTATION, MAX_PIXELS
from trashseg_jax.data.taxonomy import ClassMap
from trashseg_jax.errors import InputError

MANY = 8  # unknown values or colours: more are hardly classes that were forgotten
_GREY = 0  # the colour type of a PNG with one channel and no palette
_PNG = b"\x89PNG\r\n\x1a\n"


def read_label(path: Path, class_map: ClassMap) -> UInt8[np.ndarray, "h w"]:
    """Returns the label map of a PNG, as it is stored.

    A pixel with one channel or a palette counts by its value where the map has values, else by
    its colour; a pixel of three channels by its colour. Raises InputError with the values or
    colours that the map lacks, and for what can't be a label image.
    """
    image, depth = _open(path)
    if class_map.values and image.mode != "RGB":
        return _translate(path, _values(image, depth), class_map.values, "value")
    colors = _colors(path, image)
    if class_map.colors:
        return _translate(path, colors, class_map.colors, "colour")
    values = colors & 0xFF
    if (colors != values * 0x010101).any():  # grey ones are values, written three times
        raise InputError(
            f'{path}: has colours, and the class map has no "colors"; add them, like '
            '{"#c00080": "General trash"} (docs/class_maps.md)'
        )
    return _translate(path, values, class_map.values, "value")


def turn_upright(
    classes: UInt8[np.ndarray, "h w"], path: Path, photo: Path, *, height: int, width: int
) -> UInt8[np.ndarray, "height width"]:
    """Returns the label map of the upright photograph.

    It may be one of the photograph as its sensor stored it, before the rotation in its EXIF data,
    where its size tells. Raises InputError where the size fits neither or can't tell.
    """
    orientation = _orientation(photo)
    turn = _TURNS.get(orientation)
    if turn and height != width and classes.shape == (width, height):
        return np.ascontiguousarray(turn(classes))
    if classes.shape != (height, width):
        raise InputError(
            f"{path}: is {classes.shape[1]} wide and {classes.shape[0]} high; its photograph "
            f"{photo} is {width} wide and {height} high (EXIF rotation applied); export the "
            "label at the photograph's size"
        )
    if orientation in range(2, 9) and (not turn or height == width):
        raise InputError(
            f"{path}: may belong to {photo} as it is shown or as it is stored: the EXIF data turn "
            "or mirror it, and its size is the same either way; save the photograph upright, "
            "without an EXIF orientation, and check that the label fits it"
        )
    return classes


# EXIF's orientations that swap width and height; those of ImageOps.exif_transpose.
_TURNS = {
    5: lambda label: label.T,
    6: lambda label: np.rot90(label, -1),
    7: lambda label: np.rot90(label, 2).T,
    8: lambda label: np.rot90(label),
}


def count_objects(classes: UInt8[np.ndarray, "h w"], *, num_classes: int) -> Int64[np.ndarray, "k"]:
    """Returns the connected pieces of each class but the background; corners connect, too."""
    # Here: SciPy takes 0.2 s to import, which a COCO folder need not wait for.
    from trashseg_jax.data.class_runs import count_pieces, find_runs

    return np.array([0, *count_pieces(find_runs(classes))[1:num_classes]], np.int64)


# The file


def _open(path: Path) -> tuple[Image.Image, int]:
    """Returns a PNG, decoded, and its bits a channel."""
    try:
        return _decode(path.read_bytes())
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # broken files make Pillow raise whatever they trip over
        why = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise InputError(f"{path}: can't be read ({why}); replace it with a whole copy") from error


def _decode(data: bytes) -> tuple[Image.Image, int]:
    if data[:3] == b"\xff\xd8\xff":
        raise InputError(
            "is a JPEG, whose compression changes values, above all at the borders of objects; "
            "export the labels as PNG"
        )
    if not data.startswith(_PNG):
        raise InputError("is not a PNG; export the labels as PNG, without losses")
    depth, kind = data[24], data[25]  # of the IHDR chunk
    if depth == 16 and kind != _GREY:
        raise InputError("has 16 bits a channel in several channels; save it with 8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of transparent palettes and many pixels
        image = Image.open(io.BytesIO(data), formats=("PNG",))
        if image.width * image.height > MAX_PIXELS:
            raise InputError(f"has more than {MAX_PIXELS} pixels; scale it and its photograph down")
        image.load()
        if image.mode in ("RGBA", "LA"):
            _check_opaque(np.asarray(image))
            image = image.convert(image.mode[:-1])
    return image, depth


def _values(image: Image.Image, depth: int) -> Int32[np.ndarray, "h w"]:
    """Returns the values as the file has them: Pillow stretches 2 and 4 bits of grey to 8."""
    stretched = {2: 85, 4: 17}.get(depth, 1) if image.mode == "L" else 1
    return np.asarray(image).astype(np.int32) // stretched


def _colors(path: Path, image: Image.Image) -> Int32[np.ndarray, "h w"]:
    """Returns the colours as 0xRRGGBB."""
    if image.mode.startswith("I"):
        raise InputError(
            f'{path}: has 16 bits, which are values and no colours; add "values" to the class map'
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of transparent palettes
        pixels = np.asarray(image.convert("RGB")).astype(np.int32)
    return pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]


def _check_opaque(pixels: UInt8[np.ndarray, "h w c"]) -> None:
    """Raises InputError for a colour that is not seen as it is; black may be transparent."""
    hidden = (pixels[..., -1] < 255) & (pixels[..., :-1] != 0).any(-1)
    if hidden.any():
        raise InputError(
            f"has {hidden.sum()} transparent pixels that are not black, so what they are is "
            "unclear; save it without an alpha channel"
        )


def _orientation(photo: Path) -> int:
    """Returns the EXIF orientation of a photograph that has been read without a fault before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of broken EXIF
        with Image.open(photo) as image:
            return image.getexif().get(EXIF_ORIENTATION, 1)


# From values and colours to classes


def _translate(
    path: Path, codes: Int32[np.ndarray, "h w"], labels: Mapping[int, int], kind: str
) -> UInt8[np.ndarray, "h w"]:
    """Returns the label of each code, all of which are of the kind "value" or "colour"."""
    known = np.array(sorted(labels))
    places = np.searchsorted(known, codes).clip(max=len(known) - 1)
    unknown = known[places] != codes
    if unknown.any():
        raise InputError(f"{path}: {_unknown_fault(codes[unknown], kind)}")
    return np.array([labels[code] for code in known.tolist()], np.uint8)[places]


def _unknown_fault(codes: Int32[np.ndarray, "n"], kind: str) -> str:
    """Says which codes are unknown, the most frequent first, and what to do."""
    found, counts = np.unique(codes, return_counts=True)
    first = np.argsort(-counts, kind="stable")[:3]
    text = "value {}" if kind == "value" else "colour #{:06x}"
    named = [f"{text.format(found[i])} ({counts[i]} pixels)" for i in first]
    more = f" and {len(found) - len(named)} more {kind}s" if len(found) > len(named) else ""
    if len(found) <= MANY:
        key = "values" if kind == "value" else "colors"
        remedy = f'say in its "{key}" which class that is, or "ignore" (docs/class_maps.md)'
    else:
        remedy = (
            f"so many {kind}s are hardly classes: was the label smoothed (anti-aliased, resized "
            "with interpolation, once a JPEG), or does it number instances? Export class labels "
            "without smoothing"
        )
    return f"has the {', the '.join(named)}{more}, not in the class map; {remedy}"
