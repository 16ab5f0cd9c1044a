"""TACO's photographs from a server of our own, which behaves as servers do."""

import http.server
import io
import json
import threading
import time
from collections import Counter

import download_taco
import numpy as np
import pytest
from fetching.annotations import fit
from PIL import Image

from trashseg_jax.data.photos import read_pixels

WIDTH, HEIGHT = 96, 48
OBJECT = (24, 12, 48, 36)  # of every photograph: left, top, right, bottom
ORIENTATION = 0x0112


def draw(*, scale=1.0, turned=False, image_format="JPEG"):
    """A grey photograph with a red object, as a camera held upright or not stores it."""
    size = round(WIDTH * scale), round(HEIGHT * scale)
    image = Image.new("RGB", size, (120, 120, 120))
    image.paste((250, 0, 0), tuple(round(place * scale) for place in OBJECT))
    exif = Image.Exif()
    if turned:
        exif[ORIENTATION] = 6  # shown turned clockwise by a quarter
        image = image.transpose(Image.Transpose.ROTATE_90)
    stored = io.BytesIO()
    image.save(stored, image_format, quality=95, exif=exif)
    return stored.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Answers a path by the first of its script's steps that is left, the last one for ever."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.scripts, self.asked = {}, Counter()

    def url(self, name, *steps):
        self.scripts[f"/{name}"] = list(steps)
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked[self.path] += 1
        steps = self.server.scripts[self.path]
        (steps.pop(0) if len(steps) > 1 else steps[0])(self)

    def log_message(self, *_):
        pass


def sends(body, *, kind="image/jpeg", announced=None):
    def step(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(announced or len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return step


def answers(status, **headers):
    def step(handler):
        handler.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return step


def stalls(handler):
    time.sleep(0.5)
    handler.close_connection = True


PHOTO = sends(draw())
PAGE = sends(b"<html>Too busy</html>", kind="text/html")


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def annotate(addresses):
    """TACO's layout: by the photograph's name the addresses at 640 pixels and of the original."""
    left, top, right, bottom = OBJECT
    images, annotations = [], []
    for number, (name, (small, original)) in enumerate(addresses.items()):
        size = {"width": WIDTH, "height": HEIGHT}
        urls = {"flickr_640_url": small, "flickr_url": original, "coco_url": None}
        images.append({"id": number, "file_name": name, **size, **urls})
        outline = [left, top, right, top, right, bottom, left, bottom]
        box = [left, top, right - left, bottom - top]
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 0,
                "segmentation": [outline],
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
        )
    categories = [{"id": 0, "name": "Can", "supercategory": "Can"}]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def download(tmp_path, monkeypatch):
    """Runs the script on these addresses; returns its exit code and the folder."""

    def call(addresses, *flags):
        (tmp_path / "annotations.json").write_text(json.dumps(annotate(addresses)))
        fast = ["--backoff=0.01", "--silence=0.2", "--per_second=1000", "--tries=3"]
        given = [f"--out={tmp_path / 'taco'}", f"--annotations={tmp_path / 'annotations.json'}"]
        monkeypatch.setattr("sys.argv", ["download_taco.py", *given, *fast, *flags])
        return download_taco.main(), tmp_path / "taco"

    return call


def read(path):
    return json.loads(path.read_text())


def object_box(pixels):
    """Left, top, right and bottom of what is red."""
    red = (pixels[..., 0].astype(int) - pixels[..., 1]) > 125
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("size", ["original", "48"])
def test_outlines_fit_the_photographs_that_are_stored(server, download, size, turned):
    original = server.url("o", sends(draw(turned=turned)))
    code, folder = download({"batch_1/0.jpg": (None, original)}, f"--size={size}")
    assert code == 0
    pixels = read_pixels(folder / "batch_1/0.jpg")
    content = read(folder / "annotations.json")
    (image,), (annotation,) = content["images"], content["annotations"]
    assert (image["height"], image["width"]) == pixels.shape[:2]
    assert image["width"] == (96 if size == "original" else 48)
    outline = np.reshape(annotation["segmentation"][0], (-1, 2))
    expected = [*outline.min(0), *outline.max(0)]
    np.testing.assert_allclose(object_box(pixels), expected, atol=0.5)
    left, top, width, height = annotation["bbox"]
    assert [left, top, left + width, top + height] == expected
    assert annotation["area"] == width * height


def test_what_flickr_has_at_640_pixels_is_stored_as_it_is(server, download):
    small = draw(scale=0.5)
    addresses = {"b/0.jpg": (server.url("z", sends(small)), server.url("o", answers(500)))}
    code, folder = download(addresses)
    assert code == 0
    assert (folder / "b/0.jpg").read_bytes() == small
    assert read(folder / "annotations.json")["annotations"][0]["bbox"] == [12, 6, 12, 12]
    assert server.asked["/o"] == 0


def test_the_original_is_taken_where_the_small_one_is_gone(server, download):
    addresses = {"0.jpg": (server.url("z", answers(404)), server.url("o", PHOTO))}
    code, folder = download(addresses)
    assert code == 0
    assert read(folder / "missing.json") == []


@pytest.mark.parametrize(
    "step",
    [
        answers(429, Retry_After="0"),
        answers(500),
        answers(503, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
        answers(503, Retry_After="soon"),
        PAGE,
        sends(draw()[:-200]),
        sends(draw()[:-200], announced=len(draw())),
        sends(b""),
        stalls,
    ],
    ids=["429", "500", "date", "nonsense", "page", "cut", "broken-off", "empty", "stalls"],
)
def test_what_passes_is_asked_for_again(server, download, step):
    code, folder = download({"0.jpg": (None, server.url("o", step, PHOTO))})
    assert code == 0
    assert server.asked["/o"] == 2
    assert (folder / "0.jpg").read_bytes() == draw()


def test_redirections_are_followed(server, download):
    server.url("there", PHOTO)
    code, _ = download({"0.jpg": (None, server.url("o", answers(302, Location="/there")))})
    assert code == 0


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([answers(404)], "status 404"),
        ([answers(302, Location="/photo_unavailable.gif")], "withdrawn"),
        ([sends(draw(turned=True).replace(b"Exif", b"None"))], "48x96 pixels, of another shape"),
    ],
)
def test_what_is_gone_is_named_and_left_out(server, download, steps, reason):
    server.url("photo_unavailable.gif", PHOTO)
    addresses = {"0.jpg": (None, server.url("o", *steps)), "1.jpg": (None, server.url("p", PHOTO))}
    code, folder = download(addresses)
    assert code == 0
    assert server.asked["/o"] == 1
    (missing,) = read(folder / "missing.json")
    assert missing["file_name"] == "0.jpg"
    assert missing["gone"]
    assert reason in missing["reason"]
    content = read(folder / "annotations.json")
    assert [image["file_name"] for image in content["images"]] == ["1.jpg"]
    assert [annotation["image_id"] for annotation in content["annotations"]] == [1]


def test_the_same_command_goes_on(server, download, capsys):
    """With what could not be had; until then no annotations pretend to be all of them."""
    bad = server.url("o", PAGE)
    addresses = {"0.jpg": (None, bad), "1.jpg": (None, server.url("p", PHOTO))}
    code, folder = download(addresses)
    assert code == 3
    assert "0.jpg for one; the same command tries them again" in capsys.readouterr().err
    assert not (folder / "annotations.json").exists()
    assert server.asked == {"/o": 3, "/p": 1}
    server.scripts["/o"] = [PHOTO]
    assert download(addresses)[0] == 0
    assert server.asked == {"/o": 4, "/p": 1}
    assert len(read(folder / "annotations.json")["images"]) == 2


def test_one_may_do_without(server, download):
    addresses = {"0.jpg": (None, server.url("o", PAGE)), "1.jpg": (None, server.url("p", PHOTO))}
    code, folder = download(addresses, "--leave_out")
    assert code == 0
    assert len(read(folder / "annotations.json")["images"]) == 1
    assert not read(folder / "missing.json")[0]["gone"]


def test_a_damaged_file_in_the_folder_is_fetched_anew(server, download):
    addresses = {"0.jpg": (None, server.url("o", PHOTO))}
    _, folder = download(addresses)
    (folder / "0.jpg").write_bytes(draw()[:100])
    assert download(addresses)[0] == 0
    assert (folder / "0.jpg").read_bytes() == draw()


def test_sizes_are_not_mixed_in_a_folder(server, download, capsys):
    addresses = {"0.jpg": (None, server.url("o", PHOTO))}
    download(addresses)
    assert download(addresses, "--size=original")[0] == 2
    assert "has photographs of --size=640" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../0.jpg", "/tmp/0.jpg", "a/../../0.jpg", "..\\0.jpg", ""])
def test_names_that_lead_out_of_the_folder_are_refused(server, download, capsys, name):
    assert download({name: (None, server.url("o", PHOTO))})[0] == 2
    assert "leads out of the folder" in capsys.readouterr().err
    assert not server.asked


@pytest.mark.parametrize("flag", ["--size=big", "--size=1", "--tries=0", "--per_second=0"])
def test_flags_have_ranges(download, capsys, flag):
    code, folder = download({}, flag)
    assert code == 2
    assert flag in capsys.readouterr().err
    assert not folder.exists()


def test_run_lengths_are_not_scaled():
    content = annotate({"0.jpg": (None, None)})
    content["annotations"][0]["segmentation"] = {"size": [1, 1], "counts": "0"}
    with pytest.raises(ValueError, match="run lengths"):
        fit(content, {"0.jpg": (1, 1)})
