"""Reads photographs of any kind as upright JPEG or PNG bytes, and refuses what is none."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from trashseg_jax.errors import InputError

MAX_PIXELS = 178_000_000  # about where Pillow, too, takes an image for a decompression bomb
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")
# iPhones' HEIC, by a package of its own.
with contextlib.suppress(ImportError):
    import pillow_heif  # pyright: ignore[reportMissingImports]

    pillow_heif.register_heif_opener()
    IMAGE_FORMATS = (*IMAGE_FORMATS, "HEIF")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
EXIF_ORIENTATION = 0x0112
STRIP = 256  # lines that are converted at a time


def read_photo(path: Path, *, upright: bool) -> tuple[tuple[int, int], bytes]:
    """Returns (width, height), and a JPEG or PNG of the RGB or grey pixels.

    Both are after EXIF rotation where it is to be `upright`, else as the file has them. The bytes
    are the file's where that is such a JPEG already; what was lossless stays lossless.
    Raises InputError for a file that is no image, is damaged, or holds several pictures, and for
    one of more than MAX_PIXELS by its header alone, without decoding it.
    """
    image, stored, image_format = _read(path, upright=upright)
    return image.size, stored or encode(image, image_format)


def read_pixels(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the upright RGB pixels of a photograph, those that a prepared data set has of it.

    Raises InputError as `read_photo` does.
    """
    image, stored, image_format = _read(path, upright=True)
    if not stored and image_format == "JPEG":  # which a data set has with another JPEG's loss
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of many pixels
            image = Image.open(io.BytesIO(encode(image, "JPEG")))
    return _copy_pixels(image)


def to_pixels(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the upright RGB pixels of an image that is open."""
    return _copy_pixels(_to_rgb(ImageOps.exif_transpose(image)))


def count_pixels(path: Path) -> int:
    """Returns how many pixels the header of an image's file announces, 0 where it has none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                return image.width * image.height
    except Exception:  # which `read_photo` will explain
        return 0


def is_turned(path: Path) -> bool:
    """Whether EXIF rotation swaps the sides of a photograph that `read_photo` can read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            return image.getexif().get(EXIF_ORIENTATION) in range(5, 9)


def encode_again(jpeg: bytes) -> bytes:
    """Returns a new JPEG of the pixels that Pillow sees in one that others can't decode."""
    with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
        return encode(_to_rgb(image), "JPEG")


def encode(image: Image.Image, image_format: str) -> bytes:
    """Returns the file of an image, "JPEG" or "PNG"."""
    file = io.BytesIO()
    if image_format == "JPEG":
        image.save(file, "JPEG", quality=95, subsampling=0)
    else:
        image.save(file, "PNG", compress_level=1)  # hardly larger, and several times faster
    return file.getvalue()


def _fault(error: Exception) -> str:
    """Returns what is wrong with the file that raised the error, and the remedy."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"has more than {MAX_PIXELS} pixels; scale it and its annotations down"
    if isinstance(error, UnidentifiedImageError):
        return f"is no image of the formats {', '.join(IMAGE_FORMATS)}; replace it"
    if isinstance(error, OSError) and error.errno is not None:
        return f"can't be read ({error.strerror}); restore it"
    why = " ".join(str(error).split()) or type(error).__name__
    return f"is damaged ({why}); replace it with a whole copy"


class _Photo(NamedTuple):
    image: Image.Image  # decoded
    stored: bytes  # a JPEG of it without what would make others rotate it; none: b""
    image_format: str  # in which it is stored otherwise


def _read(path: Path, *, upright: bool) -> _Photo:
    """Returns a photograph; raises InputError, as `read_photo` says."""
    data = b""
    try:
        data = path.read_bytes()
        return _decode(data, upright)
    except Exception as error:  # broken files make Pillow raise whatever they trip over
        if "HEIF" not in IMAGE_FORMATS and data[4:8] == b"ftyp" and data[8:12] in HEIC_BRANDS:
            raise InputError(
                f"{path}: is HEIC, which needs pip install 'trashseg_jax[heic]'"
            ) from error
        raise InputError(f"{path}: {_fault(error)}") from error


def _decode(data: bytes, upright: bool) -> _Photo:
    with warnings.catch_warnings():
        # Pillow's, of broken EXIF, transparent palettes, many pixels
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        if image.format != "MPO" and getattr(image, "is_animated", False):
            raise InputError("holds several pictures; save the one that is annotated alone")
        image.load()
        is_jpeg = image.format in ("JPEG", "MPO")  # MPO: a JPEG with more behind it
        rotated = image.getexif().get(EXIF_ORIENTATION) in range(2, 9)
        plain = is_jpeg and _jpeg_frame(data) in (0xC0, 0xC1, 0xC2)
        if plain and image.mode in ("RGB", "L") and not (rotated and upright):
            return _Photo(image, _without_exif(data) if rotated else data, "JPEG")
        if upright:
            ImageOps.exif_transpose(image, in_place=True)
        return _Photo(_to_rgb(image), b"", "JPEG" if is_jpeg else "PNG")


def _to_rgb(image: Image.Image) -> Image.Image:
    """Returns 8-bit RGB pixels without transparency or metadata; 16-bit grey is scaled."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))  # 65535 to 255
    elif image.mode in ("I", "F"):
        raise InputError(f"has pixels of type {image.mode}; save it with 8 or 16 bits per channel")
    rgb = Image.new("RGB", image.size)
    for top, strip in _rgb_strips(image):
        rgb.paste(strip, (0, top))
    return rgb


def _copy_pixels(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the RGB pixels; np.array would hold a panorama's three times on the way."""
    image.load()
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top, strip in _rgb_strips(image):
        pixels[top : top + strip.height] = np.asarray(strip)
    return pixels


def _rgb_strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yields strips of a picture from above, and the line where each begins."""
    for top in range(0, image.height, STRIP):
        strip = image.crop((0, top, image.width, min(top + STRIP, image.height)))
        yield top, strip.convert("RGB")


def _without_exif(jpeg: bytes) -> bytes:
    """Returns the JPEG without what would make others rotate it."""
    kept, at = [jpeg[:2]], 2
    while jpeg[at] == 0xFF and jpeg[at + 1] != 0xDA:
        end = at + 1 if jpeg[at + 1] == 0xFF else at + 2 + int.from_bytes(jpeg[at + 2 : at + 4])
        is_exif = jpeg[at + 1] == 0xE1 and jpeg[at + 4 : at + 8] == b"Exif"
        kept += [] if is_exif else [jpeg[at:end]]
        at = end
    return b"".join([*kept, jpeg[at:]])


def _jpeg_frame(data: bytes) -> int:
    """Returns the marker of a JPEG's coding: 0xC0 and 0xC1 baseline, 0xC2 progressive.

    Raises ValueError where the end marker is missing: TensorFlow refuses such a file, and Pillow
    only some.
    """
    frame, at = 0, 2
    while data[at : at + 1] == b"\xff":
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker == 0xDA:  # the first scan begins
            if data.find(b"\xff\xd9", at) < 0:
                raise ValueError("truncated: the JPEG's end marker is missing")
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = marker
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return frame
