"""The console command: `trashseg train --config=focal:aistage --config.data.dir=FOLDER`."""

import runpy
import sys

# Sub-command: the module that is run, and the flags put before the user's.
COMMANDS = {
    "train": ("trashseg_jax.main", ["--mode=train"]),
    "evaluate": ("trashseg_jax.main", ["--mode=evaluate"]),
    "calibrate": ("trashseg_jax.main", ["--mode=calibrate"]),
    "predict": ("trashseg_jax.predict", []),
    "export": ("trashseg_jax.export", []),
}
USAGE = """\
usage: trashseg COMMAND [--FLAG=VALUE ...]

  trashseg train --config=reference                      the demo, a few minutes on a CPU
  trashseg train --config=focal_balanced:aistage --config.data.dir=FOLDER
  trashseg evaluate --workdir=runs/NAME
  trashseg evaluate --model=models/NAME --config=reference:coco --config.data.dir=FOLDER
  trashseg calibrate --workdir=runs/NAME
  trashseg predict --model=runs/NAME --input=photos/ --output=out/
  trashseg export --workdir=runs/NAME --output=models/NAME

trashseg COMMAND --help lists the flags of a command."""


def main() -> None:
    """Runs a sub-command as `python -m` would; exit code 2 for an unknown one."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h", "help"):
        print(USAGE)
        return
    if name not in COMMANDS:
        print(f"error: trashseg {name}: must be one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    module, flags = COMMANDS[name]
    sys.argv[1:] = [*flags, *sys.argv[2:]]
    # As __main__: absl's --help lists the flags of the module that was started.
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
