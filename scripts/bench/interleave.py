"""Times competitors in turns, A B A B, each in a process of its own that sleeps meanwhile."""

import contextlib
import dataclasses
import math
import multiprocessing
import pkgutil
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

SECONDS = 1.0  # a timing lasts at least this long, in several repetitions where one is shorter
PAUSE = 0.5  # before each timing, for what the one before still does: data loaders read ahead


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a competitor has prepared. Randomness, compilation and warm-up lie behind it."""

    run: Callable[[int], None]  # repeats the work so often, and returns when all of it is done
    images: int  # a repetition handles
    facts: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one repetition, by round."""

    seconds: list[float]
    images: int
    facts: dict[str, float]

    @property
    def rate(self) -> float:
        """Images a second in the median round."""
        return self.images / statistics.median(self.seconds)


def time_in_turns(competitors: Sequence[tuple[str, Any]], *, rounds: int) -> list[Timing]:
    """Prepares each competitor, then times every one of them once a round.

    A competitor is "module:function", a function from options to a Trial, and its options: only
    its own process imports what it needs.
    """
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        workers = []
        for (
            competitor,
            options,
        ) in competitors:  # one after the other: they would slow each other down
            here, there = context.Pipe()
            process = context.Process(target=work, args=(there, competitor, options))
            process.start()
            stack.callback(end, process, here)
            there.close()
            workers.append((competitor, here, *receive(here, competitor)))
        seconds = [[] for _ in workers]
        for _ in range(rounds):
            for (competitor, here, *_), times in zip(workers, seconds, strict=True):
                time.sleep(PAUSE)
                here.send("run")
                times.append(receive(here, competitor))
    return [
        Timing(s, images, facts) for s, (*_, images, facts) in zip(seconds, workers, strict=True)
    ]


def call(function: str) -> Any:
    """Returns what a function, "module:name", returns, from a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_call, (function,))


def _call(function: str) -> Any:
    return pkgutil.resolve_name(function)()


def end(process: Any, connection: Connection) -> None:
    """Lets a worker end by itself, which ends its own processes too, or makes it."""
    connection.close()
    process.join(10)
    process.terminate()
    process.join()


def receive(connection: Connection, competitor: str) -> Any:
    try:
        return connection.recv()
    except EOFError as error:
        raise SystemExit(f"{competitor} failed: its traceback is above") from error


def work(connection: Connection, competitor: str, options: Any) -> None:
    """A worker's life: prepare, warm up, tell how much there is, then time when told to."""
    trial = pkgutil.resolve_name(competitor)(options)
    trial.run(1)
    one = min(clock(trial, 1) for _ in range(2))
    count = max(1, math.ceil(SECONDS / one))
    connection.send((trial.images, trial.facts))
    with contextlib.suppress(EOFError):  # the connection is closed when all is done
        while connection.recv() == "run":
            trial.run(1)  # what lay still while others worked is cold, and some of it paged out
            connection.send(clock(trial, count) / count)


def clock(trial: Trial, count: int) -> float:
    began = time.perf_counter()
    trial.run(count)
    return time.perf_counter() - began


def ratio(ours: Timing, peer: Timing) -> tuple[float, float, float]:
    """Returns how many times as many images a second as the peer: median, quartiles of rounds."""
    rounds = zip(ours.seconds, peer.seconds, strict=True)
    ratios = [(p / peer.images) / (o / ours.images) for o, p in rounds]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return middle, low, high
