"""Several processes, each with devices of its own, as one run; see docs/scaling.md.

JAX and NumPy are imported where they are needed: a wrong flag is answered at once.
"""

import hashlib
import os
import signal
import socket
import sys
import time
from typing import NoReturn

from trashseg_jax.errors import InputError

HEARTBEAT_SECONDS = 30  # a process that is silent for this long ends all the others
FAREWELL_SECONDS = 3


def check_flags(
    *, coordinator: str | None, num_processes: int | None, process_id: int | None, detect: bool
) -> None:
    """Raises InputError unless the three describe one process of a run, or are None."""
    flags = {
        "--coordinator": coordinator,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    given = [name for name, value in flags.items() if value is not None]
    missing = [name for name, value in flags.items() if value is None]
    if given and detect:
        raise InputError(
            f"--distributed and {given[0]}: the first detects what the other says; leave one out"
        )
    if given and missing:
        raise InputError(f"{given[0]} without {missing[0]}: pass all of {', '.join(flags)} or none")
    if coordinator is None or num_processes is None or process_id is None:
        return
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise InputError(
            f"--coordinator={coordinator}: must be HOST:PORT, process 0's host and a port from 1 "
            "to 65535 that is free there"
        )
    if num_processes < 1:
        raise InputError(f"--num_processes={num_processes}: must be 1 or more")
    if not 0 <= process_id < num_processes:
        raise InputError(
            f"--process_id={process_id}: must be from 0 to {num_processes - 1}, one less than "
            f"--num_processes={num_processes}"
        )


def join(
    *, coordinator: str | None, num_processes: int | None, process_id: int | None, detect: bool
) -> None:
    """Joins the run's other processes; does nothing without `coordinator` and `detect`.

    Waits up to five minutes for them. The arguments have passed `check_flags`.
    """
    if coordinator is None and not detect:
        return
    import jax

    if coordinator is not None and process_id == 0:
        _check_port(coordinator)
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
    except ValueError as error:  # what JAX raises when no launcher has set its variables
        raise InputError(
            f"--distributed: {error} JAX knows no launcher in this environment; "
            "pass --coordinator, --num_processes and --process_id"
        ) from error
    if jax.process_index() != 0:
        _silence()


def _check_port(coordinator: str) -> None:
    """Raises InputError for a port in use, at which JAX would crash without a word."""
    port = int(coordinator.rpartition(":")[2])
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise InputError(
            f"--coordinator={coordinator}: process 0 cannot listen there ({error.strerror}); "
            "name another port"
        ) from error


def _silence() -> None:
    """Leaves tables and progress bars to process 0; errors and warnings are still shown."""
    os.environ["TQDM_DISABLE"] = "1"  # read when tqdm is imported, which it is not yet
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def check_same(what: str, content: bytes, *, remedy: str) -> None:
    """Raises InputError, in every process, unless `content` is the same in all of them."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if not jax.distributed.is_initialized():
        return
    digest = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
    digests = multihost_utils.process_allgather(digest)
    others = np.flatnonzero((digests != digests[0]).any(1))
    if others.size:
        raise InputError(f"{what}: differs between process 0 and process {others[0]}; {remedy}")


def wait_for_all(what: str) -> None:
    """Returns when every process of the run has come here."""
    import jax
    from jax.experimental import multihost_utils

    if jax.distributed.is_initialized():
        multihost_utils.sync_global_devices(what)


def leave(code: int) -> NoReturn:
    """Ends this process after an error; one of several does so without waiting for the others.

    Python's own exit would wait for them while they wait for this one's part of a sum. A negative
    code ends it by that signal: a shell's loop goes on after an exit code, whatever it is.
    """
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)  # first: another one ends it at once
    jax = sys.modules.get("jax")  # a wrong flag ends before it is imported
    several = bool(jax and jax.distributed.is_initialized())
    if jax and several and jax.process_index() == 0:
        time.sleep(FAREWELL_SECONDS)  # the others end with it: let them show their own error
    sys.stdout.flush()
    sys.stderr.flush()
    if code < 0:
        os.kill(os.getpid(), -code)
    if several:
        os._exit(code)
    sys.exit(code)
