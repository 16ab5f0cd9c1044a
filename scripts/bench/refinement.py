"""The CRF for a benchmark: this project's two engines beside pydensecrf in one process."""

from functools import partial

import numpy as np

from bench.interleave import Trial
from bench.options import NUM_CLASSES, Options
from trashseg_jax import build
from trashseg_jax.configs import reference
from trashseg_jax.refine import dense


def pooled(options: Options) -> Trial:
    """Refines a batch as an evaluation does, in as many processes as there are cores."""
    return _with_engine("pydensecrf", options)


def on_device(options: Options) -> Trial:
    """Refines a batch as an evaluation does with `crf.engine=device`."""
    return _with_engine("device", options)


def _with_engine(engine: str, options: Options) -> Trial:
    config = reference.get_config("aistage").crf
    config.update({"engine": engine, "workers": options.workers})
    crf = build.build_crf(config, side=options.size).__enter__()  # its processes end with this one
    images = random_predictions(options)

    def run(count: int) -> None:
        for _ in range(count):
            for answer in [crf.submit(*image) for image in images]:
                answer.result()

    return Trial(run, options.batch)


def serial(options: Options) -> Trial:
    """The peer: pydensecrf's calls, one image after the other."""
    refine = partial(dense.refine, **default_options())
    images = random_predictions(options)

    def run(count: int) -> None:
        for _ in range(count):
            for image in images:
                refine(*image)

    return Trial(run, options.batch)


def default_options() -> dict[str, float]:
    """Returns the parameters of the mean field itself."""
    settings = reference.get_config("aistage").crf.to_dict()
    for key in ("enabled", "engine", "workers", "timeout", "tuned_on"):
        del settings[key]
    return settings


def random_predictions(options: Options) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns probabilities and pixels in blocks of 16, as noise of pixels is no photograph."""
    rng = np.random.default_rng(0)
    blocks = -(-options.size // 16)
    shape = (options.batch, blocks, blocks)
    probs = rng.dirichlet(np.full(NUM_CLASSES, 0.3), shape).astype(np.float32)
    image = rng.integers(256, size=(*shape, 3), dtype=np.uint8)
    large = (a.repeat(16, 1).repeat(16, 2) for a in (probs, image))
    return [
        tuple(np.ascontiguousarray(array[: options.size, : options.size]) for array in pair)
        for pair in zip(*large, strict=True)
    ]
