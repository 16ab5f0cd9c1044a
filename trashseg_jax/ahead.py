"""Work that threads do before it is asked for."""

import collections
import concurrent.futures
import itertools
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any


def map_ahead(
    work: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    threads: int | None = None,
    weigh: Callable[[Any], int] = lambda item: 0,
    at_most: int = sys.maxsize,
) -> Generator[Any, None, None]:
    """Yields `work(item)` in order, by a thread per core or as many as asked for.

    No more items than that are held, and none that together weigh more than `at_most`: one that
    does by itself is worked on alone. Closed early, it only ends what it has begun.
    """
    count = threads or os.cpu_count() or 1
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    weights: collections.deque[int] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        try:
            for item in items:
                weights.append(weigh(item))
                while waiting and sum(weights) > at_most:
                    yield waiting.popleft().result()
                    weights.popleft()
                waiting.append(pool.submit(work, item))
                if len(waiting) > count:
                    yield waiting.popleft().result()
                    weights.popleft()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def one_behind(items: Iterable[Any]) -> Iterator[Any]:
    """Yields each item when the next one has been made, and the last one at the end.

    What a device was asked for is fetched only when it has been asked for more, so it never waits.
    """
    held: collections.deque[Any] = collections.deque()
    for item in items:
        held.append(item)
        del item  # what is held as well would outlive its turn
        if len(held) == 2:
            yield held.popleft()
    yield from held


def batched(items: Iterable[Any], size: int) -> Iterator[tuple[Any, ...]]:
    """Yields tuples of up to `size`; itertools.batched is Python 3.12's."""
    items = iter(items)
    while group := tuple(itertools.islice(items, size)):
        yield group
