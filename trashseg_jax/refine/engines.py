"""One way to both engines of the CRF: pydensecrf in processes on the host, JAX on its device."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from trashseg_jax.errors import InputError
from trashseg_jax.refine import dense, meanfield, pool


@runtime_checkable
class Answer(Protocol):
    """Classes to come."""

    def result(self) -> UInt8[np.ndarray, "h w"]: ...


@runtime_checkable
class Engine(Protocol):
    """Refines images while the caller goes on, within a `with` block.

    The options given with an image, of `dense.marginals`, take the place of the engine's own.
    """

    def __enter__(self) -> Any: ...

    def __exit__(self, *_: object) -> None: ...

    def submit(
        self,
        probs: Float32[np.ndarray, "h w k"],
        image: UInt8[np.ndarray, "h w 3"],
        **options: Any,
    ) -> Answer: ...


class OnDevice:
    """Hands images to the device, which works at them in turn: nothing to start or to end."""

    def __init__(self, refine: Callable[..., Answer]):
        self._refine = refine

    def __enter__(self) -> "OnDevice":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(
        self,
        probs: Float32[np.ndarray, "h w k"],
        image: UInt8[np.ndarray, "h w 3"],
        **options: Any,
    ) -> Answer:
        return self._refine(probs, image, **options)


def resolve(name: str) -> str:
    """Returns which of the two engines `name` stands for here."""
    if name != "auto":
        return name
    try:
        dense.import_densecrf()
    except InputError:
        return "device"
    return "pydensecrf"


def make_engine(name: str, *, side: int, workers: int, timeout: float, **options: Any) -> Engine:
    """Returns an engine that is not started yet; raises InputError where it could not work.

    Images are at most `side` pixels high and wide; `workers` and `timeout` are pydensecrf's;
    `options` are those of `dense.marginals`.
    """
    if resolve(name) == "device":
        return OnDevice(partial(meanfield.refine, side=side, **options))
    dense.import_densecrf()
    return pool.CrfPool(workers, partial(dense.refine, **options), timeout=timeout)
