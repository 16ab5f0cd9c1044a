"""Memory in large pages: handing out small ones takes the kernel a sixth of a training on a CPU."""

import os
import sys
from pathlib import Path

TUNABLES = "GLIBC_TUNABLES"  # glibc 2.35 knows the one below, other libraries ignore them all
LARGE_PAGES = "glibc.malloc.hugetlb=1"
MODES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_with_large_pages() -> None:
    """Starts this command anew, with its arguments, where the C library has to be asked for them.

    It reads its options when a program starts. Nothing happens where the kernel gives large pages
    to all or to nobody, where the user has set GLIBC_TUNABLES, to "" for example, and in a program
    that is not this project's: a notebook, a debugger, a test.
    """
    if TUNABLES in os.environ or not _is_command(sys.orig_argv) or not _must_ask():
        return
    environment = {**os.environ, TUNABLES: LARGE_PAGES}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _is_command(arguments: list[str]) -> bool:
    """Whether they start `python -m trashseg_jax.NAME` or `trashseg`, and nothing around it."""
    _, *rest = arguments
    while rest and rest[0].startswith("-") and rest[0] != "-m":
        rest.pop(0)  # the interpreter's
    if rest[:1] == ["-m"]:
        return rest[1:] != [] and rest[1].startswith("trashseg_jax.")
    return rest != [] and Path(rest[0]).name == "trashseg"


def _must_ask() -> bool:
    try:
        return "[madvise]" in MODES.read_text()
    except OSError:  # not Linux, or a kernel without them
        return False
