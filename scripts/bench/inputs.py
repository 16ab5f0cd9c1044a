"""This project's training batches for a benchmark: records read, cropped and scaled on the host.

A run flips and colours the images inside the compiled step, on the device, which is part of the
subject `train`. `load_and_augment` does it on this machine's processor besides, for a comparison
with a peer that has to.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from bench import photographs
from bench.interleave import Trial
from bench.options import Options
from trashseg_jax import build
from trashseg_jax.configs import reference
from trashseg_jax.devices.compiling import compiler_options
from trashseg_jax.train import train_batches


def load(options: Options) -> Trial:
    """Batches on the host."""
    _, batches = make_batches(options)
    count = photographs.batches_a_repetition(options)

    def run(repetitions: int) -> None:
        for _ in itertools.islice(batches, repetitions * count):
            pass

    return Trial(run, count * options.batch)


def load_and_augment(options: Options) -> Trial:
    """The same, then flipped and coloured by the program that a training step holds."""
    config, batches = make_batches(options)
    count = photographs.batches_a_repetition(options)
    augment = jax.jit(build.build_augment(config), compiler_options=compiler_options())
    key = jax.random.key(0)

    def run(repetitions: int) -> None:
        done = None
        for batch in itertools.islice(batches, repetitions * count):
            begun = augment(key, pixels(batch))
            jax.block_until_ready(done)  # one is computed while the next is read
            done = begun
        jax.block_until_ready(done)

    return Trial(run, count * options.batch)


def make_batches(options: Options) -> tuple[Any, Iterator[dict[str, np.ndarray]]]:
    """Returns a run's config and its training batches, the records prepared once beforehand."""
    config = reference.get_config("coco")
    config.data.update({"dir": str(photographs.folder(options)), "image_size": options.size})
    config.data.cache_dir = str(photographs.CACHE)
    config.train.batch_size = options.batch
    sets = build.build_training_sets(config, build.build_data(config))
    weights = build.mix_image_weights(config, sets)
    return config, train_batches(config, sets, weights, None, start_step=0)


def pixels(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns what goes to the device."""
    return {name: batch[name] for name in ("image", "label", "crop")}
