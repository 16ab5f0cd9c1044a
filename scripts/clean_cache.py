"""Lists the prepared copies of data sets, and removes those that no run has used for long.

    python scripts/clean_cache.py                           # lists, removes nothing
    python scripts/clean_cache.py --older_than_days=7 --remove

A copy that a run has open is left alone. One that is removed is prepared again when it is needed.
"""

import argparse
import sys
from pathlib import Path

from trashseg_jax import folders
from trashseg_jax.data import copies
from trashseg_jax.errors import InputError


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cache_dir", type=Path, help="the runs' config.data.cache_dir, if any")
    parser.add_argument("--older_than_days", type=float, default=30.0)
    parser.add_argument("--remove", action="store_true", help="remove them, not only list them")
    options = parser.parse_args()
    if not options.older_than_days >= 0:
        parser.error(f"--older_than_days={options.older_than_days}: must be 0 or more")
    try:
        cache_dir = (options.cache_dir or folders.user_cache()).expanduser()
        clean(cache_dir, days=options.older_than_days, removes=options.remove)
    except InputError as error:
        sys.exit(f"error: {error}")


def clean(cache_dir: Path, *, days: float, removes: bool) -> None:
    """Prints a line for each copy, with what is done with it, and one on all of them."""
    remedy = "name the folder with --cache_dir, or run this as its owner"
    with folders.explained(copies.folder(cache_dir), remedy):
        found = copies.list_copies(cache_dir)
        old = [copy for copy in found if copy.days >= days]
        for copy in found:
            verdict = judge(copy, removes=removes) if copy in old else ""
            size = copies.format_size(copy.size)
            print(f"{size:>10}  last used {copy.days:5.1f} days ago  {copy.path}{verdict}")
        left = copies.list_copies(cache_dir)
    print(f"{copies.folder(cache_dir)}: {describe(left)}")
    if old and not removes:
        print(f"--remove removes what is unused for {days:g} days: {describe(old)}")


def describe(some: list[copies.Copy]) -> str:
    count = "1 copy" if len(some) == 1 else f"{len(some)} copies"
    return f"{count}, {copies.format_size(sum(copy.size for copy in some))}"


def judge(copy: copies.Copy, *, removes: bool) -> str:
    if not removes:
        return ": would be removed"
    return ": removed" if copies.remove(copy) else ": in use, left alone"


if __name__ == "__main__":
    main()
