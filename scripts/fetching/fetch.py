"""Files from web servers that stall, break off, are busy, or no longer have them."""

import random
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import requests
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

BUSY = (408, 425, 429, 500, 502, 503, 504)  # worth asking again
LONGEST_WAIT = 120.0  # seconds, whatever a server asks for
CHUNK = 2**16
UNAVAILABLE = "photo_unavailable"  # in the name of the picture that Flickr leads to instead


class Gone(Exception):
    """The server says that it does not have the file; asking again is of no use."""


class Failed(Exception):
    """Not to be had now, but perhaps later."""


class Patience(NamedTuple):
    """How often a server is asked, and how long it may take."""

    tries: int = 5
    backoff: float = 1.0  # seconds before the second try, doubled before each later one
    silence: float = 20.0  # seconds without an answer or a byte
    longest: float = 300.0  # seconds for a file
    per_second: float = 5.0  # requests, of all threads together
    largest: int = 100_000_000  # bytes


class Fetcher:
    """Fetches files by several threads, no faster than is polite."""

    def __init__(self, patience: Patience):
        self.patience = patience
        self._local = threading.local()
        self._turn = threading.Lock()
        self._next = 0.0

    def fetch(self, url: str, check: Callable[[bytes], Any]) -> Any:
        """Returns `check(content)`, which raises ValueError for what is not such a file.

        Raises Gone, as `check` may too, or Failed where all tries did; their text says why.
        """
        reason = ""
        for attempt in range(self.patience.tries):
            self._wait_for_turn()
            wait = self.patience.backoff * 2**attempt * random.uniform(0.5, 1.5)
            try:
                return check(self._ask(url))
            except _Busy as busy:
                reason, wait = str(busy), max(wait, busy.wait)
            except ValueError as error:  # a page of a busy server, sent as if it were the file
                reason = str(error)
            except requests.RequestException as error:
                reason = _describe(error)
            if attempt + 1 < self.patience.tries:
                time.sleep(min(wait, LONGEST_WAIT))
        raise Failed(f"{reason} (tries: {self.patience.tries})")

    def _ask(self, url: str) -> bytes:
        """Returns the whole content of one answer; raises what `fetch` asks again for, or Gone."""
        begun = time.monotonic()
        with self._session().get(url, stream=True, timeout=self.patience.silence) as answer:
            if answer.status_code in BUSY:
                after = answer.headers.get("Retry-After", "0")
                raise _Busy(f"status {answer.status_code}", _seconds(after))
            if not answer.ok:
                raise Gone(f"status {answer.status_code}")
            if UNAVAILABLE in answer.url:
                raise Gone("withdrawn")
            content = bytearray()
            for chunk in answer.iter_content(CHUNK):
                content += chunk
                if len(content) > self.patience.largest:
                    raise Gone(f"more than {self.patience.largest} bytes")
                if time.monotonic() - begun > self.patience.longest:
                    raise _Busy(f"not done after {self.patience.longest:.0f} s", 0.0)
        return bytes(content)

    def _session(self) -> requests.Session:
        """Each thread has its own, which keeps its connections open."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        return self._local.session

    def _wait_for_turn(self) -> None:
        with self._turn:
            now = time.monotonic()
            turn = max(self._next, now)
            self._next = turn + 1 / self.patience.per_second
        time.sleep(turn - now)


class _Busy(Exception):
    def __init__(self, reason: str, wait: float):
        super().__init__(reason)
        self.wait = wait


def _seconds(retry_after: str) -> float:
    """Returns what a Retry-After asks for: seconds, or those until a date."""
    try:
        return Retry().parse_retry_after(retry_after)
    except InvalidHeader:  # of no known form
        return 0.0


def _describe(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return "no answer"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "broken off"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return type(error).__name__
