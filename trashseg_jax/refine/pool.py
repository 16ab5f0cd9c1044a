"""Spawned processes that refine predictions while the caller goes on.

They import this module: neither JAX nor TensorFlow.
"""

import contextlib
import fcntl
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

START_TIMEOUT = 300.0  # seconds; a process imports NumPy, which a busy network disk may hold up


class CrfError(RuntimeError):
    """An image could not be refined: its worker died or hung, and so did the next one."""


class CrfPool:
    """Calls `refine(probs, image, **options)` in spawned processes while the caller goes on.

    pydensecrf holds the GIL, so threads would not help: ours only wait for a process each. One
    that dies, or takes more than `timeout` seconds for an image, is replaced and its image redone
    once; after that its future raises CrfError. What `refine` raises, the future raises.
    """

    def __init__(self, workers: int, refine: Callable[..., Any], *, timeout: float):
        """Starts nothing yet; -1 `workers` is one a core, 0 refines within `submit`."""
        self._refine, self._timeout = refine, timeout
        self._num_workers = num_cores() if workers == -1 else workers
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.RLock()  # for what is below, and to start or end a process
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []
        self._refusal = ""  # why no process may start any more

    def __enter__(self) -> "CrfPool":
        if self._num_workers:
            self._threads = ThreadPoolExecutor(self._num_workers)
            # Two a worker, one worked at and one waiting: submit then blocks, memory stays flat.
            self._free = threading.BoundedSemaphore(2 * self._num_workers)
            self._refusal = ""
        return self

    def __exit__(self, *_: object) -> None:
        if self._threads is None:
            return
        with self._lock:
            self._refusal = "the pool was left before its images were refined"
            for worker in self._workers:
                worker.kill()
        self._threads.shutdown(cancel_futures=True)
        self._threads = None
        self._idle.clear()
        for worker in list(self._workers):
            self._bury(worker)

    def submit(
        self,
        probs: Float32[np.ndarray, "h w k"],
        image: UInt8[np.ndarray, "h w 3"],
        **options: Any,
    ) -> "Future[UInt8[np.ndarray, 'h w']]":
        """Returns the refined classes to come; blocks while all workers have work waiting."""
        if self._threads is None:
            done: Future = Future()
            done.set_result(self._refine(probs, image, **options))
            return done
        free = self._free
        free.acquire()
        future = self._threads.submit(self._refine_in_worker, probs, image, options)
        future.add_done_callback(lambda _: free.release())
        return future

    def _refine_in_worker(
        self, probs: np.ndarray, image: np.ndarray, options: dict[str, Any]
    ) -> np.ndarray:
        lost = []
        for _ in range(2):
            worker = self._take()
            try:
                # float32 crosses as it is: 12 MB take far less time than the refinement.
                succeeded, answer = worker.ask((probs, image, options), timeout=self._timeout)
            except (EOFError, OSError):
                lost.append(self._bury(worker))
                continue
            self._idle.append(worker)
            if succeeded:
                return answer
            raise answer
        raise CrfError(", then ".join(lost))

    def _take(self) -> "_Worker":
        """Returns an idle worker, or else a new one; raises RuntimeError if two do not start."""
        lost = []
        for _ in range(2):
            with self._lock:
                if self._refusal:
                    raise RuntimeError(f"CRF: {self._refusal}")
                while self._idle:
                    worker = self._idle.pop()
                    if worker.is_alive():
                        return worker
                    self._bury(worker)
                worker = _Worker(self._refine)
                self._workers.add(worker)
            try:
                worker.wait_for_start(timeout=START_TIMEOUT)
                return worker
            except (EOFError, OSError):
                lost.append(self._bury(worker))
        with self._lock:
            self._refusal = self._refusal or (
                f"processes end before they can work ({', then '.join(lost)}; what they printed "
                "is above); config.crf.workers=0 does without"
            )
        raise RuntimeError(f"CRF: {self._refusal}")

    def _bury(self, worker: "_Worker") -> str:
        """Ends a worker that does not answer any more and says what became of it."""
        with self._lock:
            self._workers.discard(worker)
            return worker.end()


class _Worker:
    """A spawned process and the pipe to it, which ends when the process does."""

    def __init__(self, refine: Callable[..., Any]):
        # Not forked: JAX's and TensorFlow's threads do not survive that.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, refine), daemon=True)
        self._process.start()
        theirs.close()
        self._overdue = ""

    def wait_for_start(self, *, timeout: float) -> None:
        with self._killed_after(timeout):
            self._pipe.recv()

    def ask(self, arguments: tuple[Any, ...], *, timeout: float) -> tuple[bool, Any]:
        """Returns what `_answer` does; raises EOFError or OSError if the process ends before."""
        with self._killed_after(timeout):
            self._pipe.send(arguments)
            return self._pipe.recv()

    @contextlib.contextmanager
    def _killed_after(self, timeout: float) -> Iterator[None]:
        """Ends the process unless the block ends in time; a pipe has no timeout for sending."""

        def expire():
            self._overdue = f"no answer within {timeout:g} s"
            self.kill()

        timer = threading.Timer(timeout, expire)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> str:
        """Returns why there is no answer, as a person would read it."""
        self._process.join(1)  # the pipe ends a moment before the process, and its exit code
        self._process.kill()
        self._process.join()
        self._pipe.close()
        code = self._process.exitcode or 0
        died = f"signal {-code}" if code < 0 else f"exit code {code}"
        return self._overdue or f"worker died ({died})"


def _work(pipe: Connection, refine: Callable[..., Any]) -> None:
    """Answers until the pipe ends. Leaves Ctrl-C to the parent, and ends with it in any case."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    with contextlib.suppress(EOFError, OSError):
        pipe.send(None)  # has started
        while True:
            pipe.send(_answer(refine, pipe.recv()))


def _answer(refine: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    """Returns (True, result) or (False, the exception, with the place where it was raised)."""
    *given, options = arguments
    try:
        return True, refine(*given, **options)
    except Exception as error:
        error.add_note(traceback.format_exc())
        return False, error


def _end_with_parent() -> None:
    """Makes the kernel end this process when the parent's end of a pipe between them closes.

    A thread that waited for it would wait for the GIL, too, which pydensecrf holds. Where a
    system leaves SIGIO unanswered, as macOS does, the process ends after its image.
    """
    parent: Any = multiprocessing.parent_process()
    pipe = parent.sentinel
    signal.signal(signal.SIGIO, signal.SIG_DFL)  # what comes then; it ends a process
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: respects a container's or a job's share
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
