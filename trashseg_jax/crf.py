"""Mean-field refinement of predictions with a fully connected CRF (Krähenbühl & Koltun 2011).

Spawned processes import this module: neither JAX nor TensorFlow, and pydensecrf only when used.
"""

import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from trashseg_jax.errors import InputError

MIN_PROB = 1e-5  # of the unary term; pydensecrf's own `unary_from_softmax` clips there too


def refine(
    probs: Float32[np.ndarray, "h w k"], image: UInt8[np.ndarray, "h w 3"], **options: Any
) -> UInt8[np.ndarray, "h w"]:
    """Returns the most probable class of each pixel; `options` are those of `marginals`."""
    return marginals(probs, image, **options).argmax(-1).astype(np.uint8)


def marginals(
    probs: Float32[np.ndarray, "h w k"],
    image: UInt8[np.ndarray, "h w 3"],
    *,
    iterations: int,
    gaussian_sxy: float,
    gaussian_compat: float,
    bilateral_sxy: float,
    bilateral_srgb: float,
    bilateral_compat: float,
) -> Float32[np.ndarray, "h w k"]:
    """Returns the mean-field marginals Q of the CRF with unary -log p and two Potts terms.

    A term lowers the energy of a pixel's class by its `compat` times the share of like pixels
    around it: by distance alone (`gaussian_sxy`, pixels), or by distance and colour
    (`bilateral_sxy`, pixels; `bilateral_srgb`, grey levels of 0..255). All are standard
    deviations. A term of compat 0 is left out.
    """
    height, width, classes = probs.shape
    model = import_densecrf().DenseCRF2D(width, height, classes)
    unary = -np.log(np.clip(probs, MIN_PROB, 1)).reshape(-1, classes).T  # k h*w
    model.setUnaryEnergy(np.ascontiguousarray(unary))
    if gaussian_compat:
        model.addPairwiseGaussian(sxy=gaussian_sxy, compat=gaussian_compat)
    if bilateral_compat:
        pixels = np.array(image, order="C")  # a copy: what it takes must be writable
        model.addPairwiseBilateral(
            sxy=bilateral_sxy, srgb=bilateral_srgb, rgbim=pixels, compat=bilateral_compat
        )
    return np.asarray(model.inference(iterations)).T.reshape(probs.shape)


def import_densecrf() -> Any:
    """Returns pydensecrf's module; raises InputError that says what to install."""
    try:
        return importlib.import_module("pydensecrf.densecrf")
    except ImportError as error:
        raise InputError(
            f"config.crf.enabled=True: pydensecrf cannot be imported ({error}); install it with "
            '"pip install pydensecrf2==1.1" (needs g++ and Python 3.11 or 3.12)'
        ) from error


class CrfPool:
    """Refines images in spawned processes, one thread each, while the caller goes on.

    pydensecrf holds the GIL, so threads would not help. `options` are those of `marginals`.
    """

    def __init__(self, workers: int, options: Mapping[str, Any]):
        """Starts nothing yet; -1 `workers` is one a core, 0 refines within `submit`."""
        self._refine = partial(refine, **options)
        self._workers = num_cores() if workers == -1 else workers
        self._executor: ProcessPoolExecutor | None = None
        # Two a worker, one worked at and one waiting: submit then blocks, memory stays flat.
        self._free = threading.BoundedSemaphore(2 * max(self._workers, 1))

    def __enter__(self) -> "CrfPool":
        if self._workers:
            # Not forked: JAX's and TensorFlow's threads do not survive that.
            context = multiprocessing.get_context("spawn")
            self._executor = ProcessPoolExecutor(self._workers, context, _start_worker)
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor:
            self._executor.shutdown(cancel_futures=True)

    def submit(
        self, probs: Float32[np.ndarray, "h w k"], image: UInt8[np.ndarray, "h w 3"]
    ) -> "Future[UInt8[np.ndarray, 'h w']]":
        """Returns the refined classes to come; blocks while all workers have work waiting."""
        if self._executor is None:
            done: Future = Future()
            done.set_result(self._refine(probs, image))
            return done
        self._free.acquire()
        # float32 crosses as it is: 12 MB an image take far less time than the refinement.
        future = self._executor.submit(self._refine, probs, image)
        future.add_done_callback(lambda _: self._free.release())
        return future


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: respects a container's or a job's share
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start_worker() -> None:
    """Leaves Ctrl-C to the parent, and ends with it even where it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
