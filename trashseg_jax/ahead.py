"""Work that threads do before it is asked for."""

import collections
import concurrent.futures
import itertools
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any


def map_ahead(
    work: Callable[[Any], Any], items: Iterable[Any], *, threads: int | None = None
) -> Generator[Any, None, None]:
    """Yields `work(item)` in order, by a thread per core or as many as asked for.

    No more items than that are held. Closed early, it only ends what it has begun.
    """
    count = threads or os.cpu_count() or 1
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > count:
                    yield waiting.popleft().result()
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
