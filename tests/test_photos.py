import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from trashseg_jax.data import photos
from trashseg_jax.errors import InputError


def read(folder, data):
    """Returns what is stored of a file of these bytes."""
    path = folder / "a.img"
    path.write_bytes(data)
    return photos.read_photo(path, upright=True)[1]


def encode(image, image_format, **options):
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def decode(data):
    image = Image.open(io.BytesIO(data))
    return image.format, np.asarray(image)


SMOOTH = np.stack(np.broadcast_arrays(*np.ogrid[0:160:16, 0:240:16], 128), -1).astype(np.uint8)
GOOD_JPEG = encode(Image.fromarray(SMOOTH), "JPEG")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 50, "subsampling": 2}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_plain_jpeg_keeps_its_bytes(tmp_path, mode, options):
    data = encode(Image.fromarray(SMOOTH).convert(mode), "JPEG", **options)
    assert read(tmp_path, data) == data


@pytest.mark.parametrize(
    "data",
    [
        GOOD_JPEG + b"\xff\xda the film of a motion photo",
        GOOD_JPEG[:2] + b"\xff\xff" + GOOD_JPEG[2:],  # markers may be padded: T.81, B.1.1.2
        encode(Image.fromarray(SMOOTH), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\xff\xff"),
    ],
    ids=["bytes behind its end", "padding", "broken EXIF"],
)
def test_an_odd_jpeg_keeps_its_bytes(tmp_path, data):
    assert read(tmp_path, data) == data


def test_heic_without_its_package_names_the_package(tmp_path, monkeypatch):
    known = tuple(name for name in photos.IMAGE_FORMATS if name != "HEIF")
    monkeypatch.setattr(photos, "IMAGE_FORMATS", known)
    with pytest.raises(InputError, match=r"a\.img: is HEIC, .*trashseg_jax\[heic\]"):
        read(tmp_path, b"\0\0\0\x18ftypheic" + bytes(64))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_upright_whatever_the_camera_noted(tmp_path, orientation):
    """As Pillow's own transposition has them."""
    exif = Image.Exif()
    exif[photos.EXIF_ORIENTATION] = orientation
    path = tmp_path / "a.png"
    Image.fromarray(SMOOTH).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image))
        np.testing.assert_array_equal(photos.read_pixels(path), expected)
        np.testing.assert_array_equal(photos.to_pixels(image), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "LA", "RGBA", "CMYK"])
@pytest.mark.parametrize("strip", [1, 7, 256])
def test_pixels_are_those_that_pillow_converts_at_once(tmp_path, monkeypatch, mode, strip):
    monkeypatch.setattr(photos, "STRIP", strip)
    image = Image.fromarray(SMOOTH).convert("RGB" if mode == "LA" else mode).convert(mode)
    np.testing.assert_array_equal(photos.to_pixels(image), np.asarray(image.convert("RGB")))
    path = tmp_path / "a.tif"
    image.save(path)
    np.testing.assert_array_equal(photos.read_pixels(path), np.asarray(image.convert("RGB")))
    assert photos.count_pixels(path) == 10 * 15


def test_no_pixels_are_counted_where_no_image_is(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no jpeg")
    assert photos.count_pixels(tmp_path / "a.jpg") == photos.count_pixels(tmp_path / "b.jpg") == 0


def test_a_jpeg_without_its_end_marker_is_refused_even_if_pillow_reads_it(tmp_path):
    data = GOOD_JPEG[:-2] + bytes(64)
    Image.open(io.BytesIO(data)).load()  # raises nothing
    with pytest.raises(InputError, match=r"a\.img: .*end marker"):
        read(tmp_path, data)


GREY = SMOOTH[..., 1]
ALPHA = np.dstack([SMOOTH, np.arange(150, dtype=np.uint8).reshape(10, 15)])
PALETTE = Image.fromarray(np.repeat(np.arange(10, dtype=np.uint8), 15).reshape(10, 15), "P")
PALETTE.putpalette([17 * value % 256 for value in range(30)])
PALETTE_RGB = (17 * np.arange(30) % 256).reshape(10, 3)[np.repeat(np.arange(10), 15)]
STEPS16 = (np.arange(150, dtype=np.uint32) * 65535 // 149).astype(np.uint16).reshape(10, 15)
CASES = {
    "RGB": ("PNG", Image.fromarray(SMOOTH), {}, SMOOTH),
    "RGBA, alpha dropped": ("PNG", Image.fromarray(ALPHA), {}, SMOOTH),
    "grey": ("PNG", Image.fromarray(GREY), {}, GREY[..., None]),
    "grey with alpha": ("PNG", Image.fromarray(ALPHA[..., 1::2]), {}, GREY[..., None]),
    "grey with a transparent value": (
        "PNG",
        Image.fromarray(GREY),
        {"transparency": 16},
        GREY[..., None],
    ),
    "palette": ("PNG", PALETTE, {}, PALETTE_RGB.reshape(10, 15, 3)),
    "palette with alpha": (
        "PNG",
        PALETTE,
        {"transparency": bytes(range(10))},
        PALETTE_RGB.reshape(10, 15, 3),
    ),
    "GIF": ("GIF", PALETTE, {}, PALETTE_RGB.reshape(10, 15, 3)),
    "16-bit grey PNG": ("PNG", Image.fromarray(STEPS16), {}, (STEPS16 // 257)[..., None]),
    "16-bit grey TIFF": ("TIFF", Image.fromarray(STEPS16), {}, (STEPS16 // 257)[..., None]),
    "black and white": ("PNG", Image.fromarray(GREY > 99), {}, 255 * (GREY > 99)[..., None]),
    "BMP": ("BMP", Image.fromarray(SMOOTH), {}, SMOOTH),
    "WebP": ("WEBP", Image.fromarray(SMOOTH), {"lossless": True}, SMOOTH),
    "CMYK TIFF": (
        "TIFF",
        Image.fromarray(np.dstack([255 - SMOOTH, np.zeros_like(GREY)]), "CMYK"),
        {},
        SMOOTH,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_lossless_image_becomes_an_rgb_png_of_its_colours(tmp_path, case):
    image_format, image, options, expected = CASES[case]
    actual_format, pixels = decode(read(tmp_path, encode(image, image_format, **options)))
    assert (actual_format, pixels.shape, pixels.dtype) == ("PNG", (10, 15, 3), np.uint8)
    np.testing.assert_array_equal(pixels, np.broadcast_to(expected, pixels.shape))


def test_a_png_is_stored_without_transparency(tmp_path):
    stored = read(tmp_path, encode(Image.fromarray(GREY), "PNG", transparency=16))
    assert "transparency" not in Image.open(io.BytesIO(stored)).info


def test_a_cmyk_jpeg_becomes_an_rgb_jpeg_without_chroma_subsampling(tmp_path):
    cmyk = Image.fromarray(np.dstack([255 - SMOOTH, np.zeros_like(GREY)]), "CMYK")
    image = Image.open(io.BytesIO(read(tmp_path, encode(cmyk, "JPEG", quality=98))))
    assert (image.format, image.mode) == ("JPEG", "RGB")
    assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3
    np.testing.assert_allclose(np.asarray(image), SMOOTH, atol=12, rtol=0)  # two JPEG roundings
