"""Work that threads do before it is asked for."""

import collections
import concurrent.futures
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any


def map_ahead(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Yields `work(item)` in order, by a thread per core; no more items than that are held."""
    count = os.cpu_count() or 1
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(count) as threads:
        try:
            for item in items:
                waiting.append(threads.submit(work, item))
                if len(waiting) > count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def batched(items: Iterable[Any], size: int) -> Iterator[tuple[Any, ...]]:
    """Yields tuples of up to `size`; itertools.batched is Python 3.12's."""
    items = iter(items)
    while group := tuple(itertools.islice(items, size)):
        yield group
