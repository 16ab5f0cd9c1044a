"""Competitors for tests/test_benchmark.py, which run in processes of their own."""

import time

from bench.interleave import Trial


def note(path, name):
    """Writes its name into a file whenever it is timed, after a warm-up that it leaves out."""
    warm = 3  # a call to warm up and two to choose how often to repeat

    def run(count):
        nonlocal warm
        time.sleep(0.6 * count)
        if warm == 0:
            with path.open("a") as file:
                file.write(name)
        warm = max(warm - 1, 0)

    return Trial(run, 4, {"flops": 2.0})


def first(path):
    return note(path, "A")


def second(path):
    return note(path, "B")


def failing(path):
    del path
    raise RuntimeError("on purpose")


def answer():
    return {"device": "abacus"}
