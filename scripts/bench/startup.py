"""Seconds from a command to its answer or to its first training step, every run a new process.

Ours reads photographs from a prepared data set; the peer's step is on random data and imports
nothing that reads any.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.options import Options

SCRIPTS = Path(__file__).parent.parent
MAIN = [sys.executable, "-m", "trashseg_jax.main"]
POLL_SECONDS = 0.005


@dataclasses.dataclass(frozen=True)
class Seconds:
    """A contender's times, one a round."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        return min(self.seconds), max(self.seconds)


def measure(options: Options, *, rounds: int) -> dict[str, Seconds]:
    """Times `help`, `first_step_cold` (no program compiled yet), `first_step_warm` and `peer`.

    They take turns, after a run apart that renders and prepares the data and compiles.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        contenders: dict[str, Callable[[], float]] = {
            "help": partial(time_to_end, [*MAIN, "--help"]),
            "first_step_cold": partial(time_to_step, options, folder, warm=False),
            "first_step_warm": partial(time_to_step, options, folder, warm=True),
            "peer": partial(time_peer, options),
        }
        time_to_step(options, folder, warm=True)
        time_peer(options)  # reads the libraries from the disk
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, contender in contenders.items():
                times[name].append(contender())
    return {name: Seconds(seconds) for name, seconds in times.items()}


def time_to_end(command: list[str]) -> float:
    began = time.perf_counter()
    # absl ends --help with exit code 1.
    subprocess.run(command, cwd=SCRIPTS.parent, stdout=subprocess.DEVNULL, check=False)
    return time.perf_counter() - began


def time_to_step(options: Options, folder: Path, *, warm: bool) -> float:
    """Returns the seconds until log.jsonl has step 1's loss, which the run had to wait for."""
    run = Path(tempfile.mkdtemp(dir=folder))
    flags = {
        "model.encoder": options.encoder,
        "model.width": 64,
        "model.decoder_features": "(256,128,64,32,16)",
        "model.dtype": options.dtype,
        "data.image_size": options.size,
        "data.cache_dir": folder,
        "data.demo.num_train": 4 * options.batch,
        "data.demo.num_val": 16,
        "train.batch_size": options.batch,
        "train.log_every": 1,
    }
    changes = [f"--config.{key}={value}" for key, value in flags.items()]
    command = [*MAIN, "--config=configs/reference.py", f"--workdir={run / 'run'}", *changes]
    programs = folder / "programs" if warm else run / "programs"
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(programs)}
    log = run / "run" / "log.jsonl"
    with (run / "output").open("w") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=SCRIPTS.parent, env=environment, stdout=output, stderr=output
        )
        try:
            while not (log.exists() and '"loss"' in log.read_text()):
                if process.poll() is not None:
                    raise SystemExit((run / "output").read_text())
                time.sleep(POLL_SECONDS)
            return time.perf_counter() - began
        finally:
            process.kill()
            process.wait()


def time_peer(options: Options) -> float:
    """Returns the seconds until the peer's script has made a step."""
    told = json.dumps({**dataclasses.asdict(options), "data_dir": None})
    began = time.perf_counter()
    command = [sys.executable, "-m", "bench.torch_startup", told]
    with subprocess.Popen(command, cwd=SCRIPTS, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - began
    if not line.startswith("loss"):
        raise SystemExit("bench.torch_startup failed: its traceback is above")
    return seconds
