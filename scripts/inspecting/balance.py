"""What the class weights and the samplers that a config may name would do on this data set."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from trashseg_jax import alphas, build
from trashseg_jax.data import sampling
from trashseg_jax.settings import Config


class Column(NamedTuple):
    """Figures by class under a name; `chosen`: the config asks for it."""

    name: str
    values: list[float]
    chosen: bool


class Balance(NamedTuple):
    """Weights by scheme; by sampler the share of drawn images with a class, and of their pixels."""

    alphas: list[Column]
    images: list[Column]
    pixels: list[Column]


def describe_balance(
    config: Config,
    pixels: Int64[np.ndarray, "n k"],
    annotations: Int64[np.ndarray, "n k"],
    *,
    classes: tuple[str, ...],
) -> Balance:
    """Returns the figures of the training split's counts; `data.mix` is not among them."""
    by_image = config.loss.reduction != "reference"
    images, drawn = [], []
    for name, weigh in build.image_weightings(config, pixels).items():
        weights, chosen = weigh(), name == config.data.sampling.name
        shares = sampling.expected_shares(weights, pixels)
        priors = alphas.class_priors(pixels, weights, by_image=by_image)
        images.append(Column(name, shares.tolist(), chosen))
        drawn.append(Column(name, priors.tolist(), chosen))
    return Balance(_weigh(config, pixels, annotations, classes), images, drawn)


def _weigh(
    config: Config,
    pixels: Int64[np.ndarray, "n k"],
    annotations: Int64[np.ndarray, "n k"],
    classes: tuple[str, ...],
) -> list[Column]:
    own = config.loss.alpha_values
    columns = [
        Column(name, scheme().tolist(), name == config.loss.alpha and not own)
        for name, scheme in build.alpha_schemes(config, pixels, annotations).items()
    ]
    if own:
        weights = alphas.own_weights(own, classes=classes)
        columns.append(Column("alpha_values", weights.tolist(), chosen=True))
    return columns
