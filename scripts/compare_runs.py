"""Sets several runs side by side on one page, which needs no network.

    python scripts/compare_runs.py runs/a runs/b --out=comparison.html

Each is the folder of a run, or of one of its evaluations. All must have been scored on the same
images with the same classes; differences are from the first one, with paired intervals.
"""

import argparse
import sys
from pathlib import Path

from trashseg_jax.errors import InputError
from trashseg_jax.report import compare
from trashseg_jax.settings import expand_home


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a run or evaluation")
    parser.add_argument("--out", default="comparison.html", help="the page; %(default)s by default")
    options = parser.parse_args()
    try:
        runs = compare.read_runs([Path(expand_home(name)) for name in options.runs])
        compare.write_comparison(Path(expand_home(options.out)), runs)
    except InputError as error:
        sys.exit(f"error: {error}")
    for run in runs:
        print(f"{run.name}: mIoU {run.figures['miou']:.4f}")
    print(options.out)


if __name__ == "__main__":
    main()
