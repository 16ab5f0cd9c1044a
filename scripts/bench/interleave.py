"""Times competitors in turns, A B A B, each in a process of its own that sleeps meanwhile."""

import dataclasses
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

SECONDS = 1.0  # a timing lasts at least this long, in several repetitions where one is shorter


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


def time_in_turns(
    competitors: Sequence[Callable[[Any], Trial]], options: Any, *, rounds: int
) -> list[Timing]:
    """Prepares `competitor(options)` for each, then times every one of them once a round."""
    context = multiprocessing.get_context("spawn")
    workers = []
    try:
        for competitor in competitors:  # one after the other: they would slow each other down
            here, there = context.Pipe()
            worker = context.Process(target=work, args=(there, competitor, options))
            worker.start()
            there.close()
            workers.append((worker, here))
            images, facts = receive(here, competitor)
            workers[-1] = (worker, here, images, facts)
        seconds = [[] for _ in workers]
        for _ in range(rounds):
            for (_, here, *_), times, competitor in zip(workers, seconds, competitors, strict=True):
                here.send("run")
                times.append(receive(here, competitor))
        return [Timing(s, w[2], w[3]) for s, w in zip(seconds, workers, strict=True)]
    finally:
        for worker, *_ in workers:
            worker.terminate()
            worker.join()


def receive(connection: Connection, competitor: Callable) -> Any:
    try:
        return connection.recv()
    except EOFError as error:
        name = f"{competitor.__module__}.{competitor.__name__}"
        raise SystemExit(f"{name} failed: its traceback is above") from error


def work(connection: Connection, competitor: Callable[[Any], Trial], options: Any) -> None:
    """A worker's life: prepare, warm up, tell how much there is, then time when told to."""
    trial = competitor(options)
    trial.run(1)
    one = min(clock(trial, 1) for _ in range(2))
    count = max(1, math.ceil(SECONDS / one))
    connection.send((trial.images, trial.facts))
    while connection.recv() == "run":
        connection.send(clock(trial, count) / count)


def clock(trial: Trial, count: int) -> float:
    began = time.perf_counter()
    trial.run(count)
    return time.perf_counter() - began


def ratio(ours: Timing, peer: Timing) -> tuple[float, float, float]:
    """Returns how many times as many images a second as the peer: median, quartiles of rounds."""
    own, other = (1 / t.images for t in (ours, peer))
    ratios = sorted(
        (p * other) / (o * own) for o, p in zip(ours.seconds, peer.seconds, strict=True)
    )
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return middle, low, high
