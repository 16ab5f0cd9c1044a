"""This project's prediction for a benchmark: photographs on disk to files on disk.

By the engine of `trashseg predict`, with its defaults, from photographs listed to the last file
written. Both sides have the same random weights, whose masks have some hundred pieces each.
"""

import contextlib
import io
import shutil
from pathlib import Path

import jax
import numpy as np

from bench import photographs
from bench.interleave import Trial
from bench.options import NUM_CLASSES, Options
from trashseg_jax import model_folder
from trashseg_jax.data import taxonomy
from trashseg_jax.inference import Segmented
from trashseg_jax.models import smp_names
from trashseg_jax.prediction import models, outputs
from trashseg_jax.prediction.inputs import Photo, list_photos
from trashseg_jax.prediction.job import predict_photos


class MasksAlone(outputs.Outputs):
    """What the peer writes: neither overlays nor records."""

    def write(self, photo: Photo, image: np.ndarray, found: Segmented, file: list[int]) -> None:
        del image, file
        self._put(self.mask(photo), outputs.encode_mask(found.classes, palette=self._colors))


def everything(options: Options) -> Trial:
    return predict(options, photographs.SQUARE, outputs.Outputs)


def masks(options: Options) -> Trial:
    return predict(options, photographs.SQUARE, MasksAlone)


def everything_phone(options: Options) -> Trial:
    return predict(options, photographs.PHONE, outputs.Outputs)


def masks_phone(options: Options) -> Trial:
    return predict(options, photographs.PHONE, MasksAlone)


def predict(options: Options, size: tuple[int, int], kind: type[outputs.Outputs]) -> Trial:
    model = models.load(write_model(options), checkpoint="latest", calibration=True)
    segmenter = models.make_segmenter(
        model, scale="fit", tile_scale=1.0, tta=(), batch_size=options.batch, keep_probs=False
    )
    described = outputs.Options(
        model=model.digest(),
        classes=model.classes,
        palette=tuple(map(tuple, model.palette.tolist())),
        scale="fit",
        tile_scale=1.0,
        tta=(),
        probs=False,
        min_confidence=0.5,
    )
    target = photographs.predicted("ours", size)
    shutil.rmtree(target, ignore_errors=True)
    photos = list_photos([str(photographs.files(options, size))], output=target)

    def run(count: int) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # its progress
            for _ in range(count):
                written = kind(target, described)
                predict_photos(photos, segmenter, written, threads=options.workers)

    return Trial(run, len(photos))


def write_model(options: Options) -> Path:
    """Returns a model's folder with random weights, which the peer reads too."""
    architecture = {
        "encoder": options.encoder,
        **smp_names.SMP_OPTIONS,
        "decoder_features": smp_names.SMP_DECODER,
    }
    network = model_folder.make_network(architecture, num_classes=NUM_CLASSES, dtype=options.dtype)
    image = np.zeros((1, 32, 32, 3), np.float32)  # any size gives these weights
    variables = jax.jit(lambda: network.init(jax.random.key(0), image, train=False))()
    folder = photographs.weights(options).parent
    folder.mkdir(parents=True, exist_ok=True)
    model_folder.write(
        folder,
        model_folder.Model(
            network=network,
            variables=jax.tree.map(np.asarray, dict(variables)),
            architecture=architecture,
            dtype=options.dtype,
            classes=taxonomy.CLASSES,
            categories=None,
            palette=taxonomy.palette(NUM_CLASSES),
            normalize="imagenet",
            image_size=options.size,
            figures=None,
            training=None,
            calibration=None,
        ),
    )
    return folder
