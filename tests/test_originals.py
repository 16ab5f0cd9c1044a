"""Scoring at the photographs' own size counts what prediction writes."""

import io
from concurrent.futures import Future
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from trashseg_jax import boundary, build, evaluate, inference, steps
from trashseg_jax.data import augment, originals, pipeline, scaling
from trashseg_jax.data.label_codec import decode_label, encode_label
from trashseg_jax.devices import sharding
from trashseg_jax.refine.pool import CrfError, CrfPool
from trashseg_jax.scoring.originals import tta_names

SIZES = ((40, 64), (64, 64), (90, 33), (32, 20), (150, 200), (32, 32))
CLASSES = tuple("abc")


class Colours(nn.Module):
    """Takes the colours red, green and blue for logits."""

    def __call__(self, image, *, train):
        del train
        return image * 9


def records(sizes=SIZES, image_format="PNG"):
    """Smooth photographs, and labels of the strongest colour, of nothing (255) here and there."""
    rng = np.random.default_rng(0)
    made = []
    for height, width in sizes:
        coarse = rng.uniform(0, 255, (height // 8 + 2, width // 8 + 2, 3))
        image = np.asarray(jax.image.resize(coarse, (height, width, 3), "linear")).astype(np.uint8)
        label = np.where(rng.random((height, width)) < 0.1, 255, image.argmax(-1)).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(image).save(file, image_format)
        made.append({"image": file.getvalue(), "label": encode_label(label), "id": len(made)})
    return made, [decode_label(record["label"]) for record in made]


def score(config, made, *, resolution, model=None):
    images = [(str(one["id"]), "digest") for one in made]
    data = SimpleNamespace(source=lambda split: made, classes=CLASSES, images=lambda split: images)
    loss = build.build_loss(config, np.ones(3))
    scorer = evaluate.build_scorer(
        config,
        data,
        model or Colours(),
        loss,
        sharding.make_mesh(),
        refine=config.crf.enabled,
        resolution=resolution,
    )
    return scorer(steps.TrainState(0, 0, {}, {}, (), {}))


def config_of(tiny_config, **changes):
    config = tiny_config()
    config.data.normalize = "unit"
    config.loss.update({"name": "cross_entropy", "alpha": "none", "region": "none"})
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize(
    ("scale", "tile_scale", "tta"),
    [
        ("fit", 1.0, ""),
        ("fit", 1.0, "flip"),
        ("tile", 1.0, ""),
        ("tile", 1.0, "flip"),
        ("tile", 0.6, ""),
    ],
)
def test_evaluation_counts_the_classes_that_prediction_writes(tiny_config, scale, tile_scale, tta):
    """Pixel for pixel, against the labels at full size; filling rows count nowhere."""
    changes = {"eval.scale": scale, "eval.tile_scale": tile_scale, "eval.tta": tta}
    config = config_of(tiny_config, **changes)
    made, labels = records()
    found = score(config, made, resolution="original")
    segmenter = inference.Segmenter(
        Colours(),
        {},
        normalize=augment.make_normalize("unit"),
        num_classes=3,
        image_size=32,
        scale=scale,
        tile_scale=tile_scale,
        tta=tta_names(config),
        batch_size=1,
    )
    images = (scaling.decode_photo(record["image"]) for record in made)
    expected, near = np.zeros((len(made), 3, 3), int), []
    for counts, label, one in zip(expected, labels, segmenter.segment(images), strict=True):
        np.add.at(counts, (label[label < 3], one.classes[label < 3]), 1)
        near.append(boundary.count_overlaps(label, one.classes, num_classes=3, share=0.02))
    assert found.ids.tolist() == list(range(len(made)))
    np.testing.assert_array_equal(found.confusion, expected)
    np.testing.assert_array_equal(found.boundary, near)
    assert np.all(expected.sum((1, 2)) < [h * w for h, w in SIZES])


def test_evaluation_at_the_photographs_size_is_the_scaled_one_where_nothing_is_scaled(tiny_config):
    """Bit for bit, of JPEGs too; the loss is that of the scaled images at any size."""
    for image_format in ("PNG", "JPEG"):
        made, _ = records(((32, 32), (20, 32), (32, 9)), image_format)
        own, scaled = (
            score(config_of(tiny_config), made, resolution=name) for name in ("original", "scaled")
        )
        np.testing.assert_array_equal(own.confusion, scaled.confusion)
        np.testing.assert_array_equal(own.boundary, scaled.boundary)
        assert np.ptp(own.boundary) > 0
        np.testing.assert_allclose(own.loss, scaled.loss, rtol=1e-6)
        for a, b in zip(own.samples, scaled.samples, strict=True):
            np.testing.assert_array_equal(a.image, b.image)
            np.testing.assert_array_equal(a.label, b.label)


def test_loss_is_that_of_the_scaled_images(tiny_config):
    made, _ = records()
    losses = [
        score(config_of(tiny_config), made, resolution=name).loss for name in ("original", "scaled")
    ]
    np.testing.assert_allclose(*losses, rtol=1e-3)  # a pixel in 10,000 rounds otherwise


def test_batches_are_those_of_the_pipeline_with_labels_at_their_size():
    made, labels = records()
    given = {"batch_size": 4, "image_size": 32}

    def see(image):
        small = scaling.fit_photo(image, 32)
        return scaling.pad_photo(small, 32), small.shape[:2], image

    for process in ((0, 1), (1, 2)):
        options = {**given, "process_index": process[0], "process_count": process[1]}
        own = list(originals.original_batches(made, see=see, **options))
        scaled = list(pipeline.eval_batches(made, **options))
        for a, b in zip(own, scaled, strict=True):
            np.testing.assert_array_equal(a["mask"], b["mask"])
            for key in ("id", "size", "label"):
                np.testing.assert_array_equal(a[key][a["mask"]], b[key][a["mask"]])
            difference = a["image"][a["mask"]].astype(int) - b["image"][a["mask"]]
            assert np.abs(difference).max(initial=0) <= 1
            for place, image, encoded in zip(
                a["id"][a["mask"]], a["seen"], a["encoded"], strict=True
            ):
                assert image.shape[:2] == labels[place].shape
                assert encoded == made[place]["label"]


class UpperHalf(CrfPool):
    """Answers class 1 in the upper half; fails where the image is 32 pixels wide."""

    def __init__(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, probs, image):
        future = Future()
        classes = np.zeros(image.shape[:2], np.uint8)
        classes[: len(classes) // 2] = 1
        if image.shape[1] == 32:
            future.set_exception(CrfError("for the test"))
        else:
            future.set_result(classes)
        return future


def test_refined_classes_are_counted_at_the_photographs_size(tiny_config, monkeypatch):
    """A CRF that answers class 1 for one image's upper half, and fails at another."""
    made, labels = records(((64, 48), (40, 64)))

    monkeypatch.setattr(build, "build_crf", lambda config, **_: UpperHalf())
    found = score(config_of(tiny_config, **{"crf.enabled": True}), made, resolution="original")
    upper = np.bincount(labels[0][:32][labels[0][:32] < 3], minlength=3)
    lower = np.bincount(labels[0][32:][labels[0][32:] < 3], minlength=3)
    expected = np.stack([lower, upper, np.zeros(3, int)], 1)
    np.testing.assert_array_equal(found.refined_confusion[0], expected)
    np.testing.assert_array_equal(found.refined_confusion[1], found.confusion[1])
    halves = np.repeat(np.uint8([1, 0]), 32)[:, None].repeat(48, 1)
    near = boundary.count_overlaps(labels[0], halves, num_classes=3, share=0.02)
    np.testing.assert_array_equal(found.refined_boundary, [near, found.boundary[1]])
    assert found.unrefined == {1: "for the test"}
    assert jnp.isfinite(found.loss).all()


@pytest.mark.parametrize("resolution", ["original", "scaled"])
def test_without_a_distance_no_boundaries_are_counted(tiny_config, monkeypatch, resolution):
    made, _ = records(((64, 48),))
    monkeypatch.setattr(build, "build_crf", lambda config, **_: UpperHalf())
    config = config_of(tiny_config, **{"crf.enabled": True, "eval.boundary": 0.0})
    found = score(config, made, resolution=resolution)
    assert found.boundary is found.refined_boundary is None
    data = SimpleNamespace(classes=CLASSES, problems=[], notes={})
    figures = evaluate.summarize(config, data, found, step=0, skipped=0, resamples=0, warnings=[])
    assert not [key for part in (figures, figures["crf"]) for key in part if "boundary_" in key]
