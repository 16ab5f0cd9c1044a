"""Evaluations made up for pages: any number of classes and images, a log, pictures."""

import json
from pathlib import Path

import numpy as np

from trashseg_jax import metrics
from trashseg_jax.data import taxonomy
from trashseg_jax.report import choice, page, pictures
from trashseg_jax.report.history import read_history
from trashseg_jax.report.origin import Difference, Origin

# What a class or a file may be called: markup, quotes, right to left, Hangul.
ODD_NAMES = ("Background", "<b>Can</b>", "say \"no\" & 'yes'", "סוללה", "건전지", "</script>")
ORIGIN = Origin(
    date="2026-01-02 03:04 UTC",
    commit="0123456789ab",
    device="1 x CPU",
    versions={"jax": "0.10.2"},
    num_parameters=1234567,
    options=[Difference("loss.name", "cross_entropy", "focal")],
    commands={"Score it again": "python -m trashseg_jax.main --mode=evaluate --workdir=runs/a"},
    derived={},
)


def class_names(number: int) -> tuple[str, ...]:
    """Eleven are the competition's; other numbers have odd names among them."""
    if number == len(taxonomy.CLASSES):
        return taxonomy.CLASSES
    return (*ODD_NAMES, *(f"class {i}" for i in range(len(ODD_NAMES), number)))[:number]


def file_names(number: int) -> list[str]:
    return [f"batch_01/{ODD_NAMES[i % 6].replace('/', '_')} {i:04}.jpg" for i in range(number)]


def confusions(number: int, classes: int, *, seed: int = 0) -> np.ndarray:
    """A handful of classes an image, most of their pixels right; the last class is never hit."""
    rng = np.random.default_rng(seed)
    per_image = np.zeros((number, classes, classes), np.int64)
    for one in per_image:
        there = np.unique(np.append(rng.integers(0, classes, 6), 0))
        for truth in there:
            pixels = int(rng.integers(50, 5000))
            wrong = rng.choice(there)
            part = pixels if truth == classes - 1 else int(pixels * rng.uniform(0, 0.2))
            wrong = 0 if truth == classes - 1 else wrong
            one[truth, truth] += pixels - part
            one[truth, wrong] += part
    return per_image


def looks(
    places: list[int], names: list[str], classes: int, *, size: tuple[int, int] = (36, 48)
) -> list[pictures.Look]:
    rng = np.random.default_rng(1)

    def labels():
        return np.kron(
            rng.integers(0, classes, (6, 8)), np.ones((size[0] // 6, size[1] // 8), int)
        ).astype(np.uint8)

    made = []
    for place in places:
        label = labels()
        label[0] = taxonomy.IGNORE_LABEL
        made.append(
            pictures.Look(
                place,
                names[place],
                (10 * size[0], 10 * size[1]),
                rng.integers(0, 256, (*size, 3)).astype(np.uint8),
                label,
                labels(),
                refined=None,
                confidence=rng.integers(0, 256, (size[0] // 2, size[1] // 2)).astype(np.uint8),
            )
        )
    return made


def write_log(path: Path, names: tuple[str, ...], *, steps: int = 40) -> Path:
    """A log as a run writes it, with an evaluation at each tenth step."""
    lines = []
    for step in range(1, steps + 1):
        entry = {"loss": 2 / step, "grad_norm": 1.0, "skipped": 0, "learning_rate": 1e-3 / step}
        lines.append({"step": step, **entry, "images_per_second": 50.0})
        if step % 10 == 0:
            iou = {name: i / len(names) * step / steps for i, name in enumerate(names)}
            lines.append({"step": step, "miou": step / steps, "eval_loss": 3 / step, "iou": iou})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def figures_of(per_image: np.ndarray, names: tuple[str, ...], **changes) -> dict:
    return {
        "dataset": "coco",
        "split": "val",
        "step": 7,
        "skipped_updates": 0,
        "loss": 1.5,
        "resolution": "original",
        "image_size": 64,
        "scale": "tile",
        "tile_scale": 1.0,
        "tta": "flip",
        "warnings": [],
        **metrics.summarize(per_image, classes=names, common_share=0.001, resamples=50),
        "skipped": [],
        "data_notes": {},
        **changes,
    }


def details_of(
    per_image: np.ndarray, *, log: Path, most: int = 48, size: tuple[int, int] = (36, 48)
) -> page.Details:
    number, classes = per_image.shape[:2]
    names, colors = file_names(number), taxonomy.shown_colors(taxonomy.palette(classes))
    places = choice.choose_images(per_image, most=most)
    confidence = np.zeros((classes, 256, 2), np.int64)
    confidence[:, 200, 1], confidence[:, 200, 0] = 80, 20
    return page.Details(
        names=names,
        per_image=per_image,
        confidence=confidence,
        pictures=pictures.encode_all(looks(places, names, classes, size=size), colors=colors),
        colors=colors,
        history=read_history(log),
        origin=ORIGIN,
    )


def write_page(
    folder: Path, *, classes: int, images: int, log: bool = True, **changes
) -> tuple[Path, dict, page.Details]:
    """Writes a page; returns where it is, and what it shows."""
    names, per_image = class_names(classes), confusions(images, classes)
    path = folder / "log.jsonl"
    details = details_of(per_image, log=write_log(path, names) if log else path)
    figures = figures_of(per_image, names, **changes)
    page.write_html(folder / "report.html", figures, details)
    return folder / "report.html", figures, details
