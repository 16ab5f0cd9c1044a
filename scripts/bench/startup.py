"""Seconds from a command to its first answer, every run a new process.

A training's is its first step's loss, a prediction's its first mask, an evaluation's all of its
figures. Ours reads photographs from disk; the peer's scripts work on random data and read none.
"""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench import photographs
from bench.options import Options

SCRIPTS = Path(__file__).parent.parent
MAIN = [sys.executable, "-m", "trashseg_jax.main"]
PREDICT = [sys.executable, "-m", "trashseg_jax.predict"]
POLL_SECONDS = 0.005
VAL_IMAGES = 16  # of an evaluation


def measure(subject: str, options: Options, *, rounds: int) -> dict[str, list[float]]:
    """Returns seconds by contender, one a round; of ours `cold`, no program compiled, and `warm`.

    They take turns, after a run apart of each that reads the libraries from the disk.
    """
    with tempfile.TemporaryDirectory() as name:
        ours = Startup(options, Path(name))
        ours.prepare()
        command, peer = SUBJECTS[subject]
        contenders: dict[str, Callable[[], float]] = {
            "help": partial(time_to_end, [*MAIN, "--help"]),
            "cold": partial(command, ours, warm=False),
            "warm": partial(command, ours, warm=True),
            "peer": partial(time_peer, options, peer),
        }
        contenders["warm"]()  # compiles what it loads from now on
        contenders["peer"]()
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, contender in contenders.items():
                times[name].append(contender())
    return times


class Startup:
    """Our commands, on a run of one step that lies in `folder` once `prepare` has ended."""

    def __init__(self, options: Options, folder: Path):
        self.options, self.folder = options, folder
        self.numbers = itertools.count()

    def prepare(self) -> None:
        """Renders and prepares the data, and trains a step whose checkpoint the others read."""
        self.time(self.train_command(self.folder / "run", steps=1), warm=True)

    def first_step(self, *, warm: bool) -> float:
        run = self.new_folder()
        log = run / "log.jsonl"
        return self.time(
            self.train_command(run, steps=1000),
            warm=warm,
            is_done=lambda: log.exists() and '"loss"' in log.read_text(),
        )

    def first_mask(self, *, warm: bool) -> float:
        output = self.new_folder()
        photos = photographs.files(self.options, photographs.SQUARE)
        command = [*PREDICT, f"--model={self.folder / 'run'}", f"--input={photos}"]
        return self.time(
            [*command, f"--output={output}"],
            warm=warm,
            is_done=lambda: any((output / "masks").glob("**/*.png")),
        )

    def evaluation(self, *, warm: bool) -> float:
        workdir = f"--workdir={self.folder / 'run'}"
        return self.time([*MAIN, "--mode=evaluate", workdir], warm=warm)

    def train_command(self, run: Path, *, steps: int) -> list[str]:
        flags = {
            "model.encoder": self.options.encoder,
            "model.width": 64,
            "model.decoder_features": "(256,128,64,32,16)",
            "model.dtype": self.options.dtype,
            "data.image_size": self.options.size,
            "data.cache_dir": self.folder,
            "data.demo.num_train": 4 * self.options.batch,
            "data.demo.num_val": VAL_IMAGES,
            "train.batch_size": self.options.batch,
            "train.log_every": 1,
            "train.epochs": 0.0,
            "train.steps": steps,
        }
        changes = [f"--config.{key}={value}" for key, value in flags.items()]
        return [*MAIN, "--config=configs/reference.py", f"--workdir={run}", *changes]

    def time(
        self, command: list[str], *, warm: bool, is_done: Callable[[], bool] | None = None
    ) -> float:
        """Returns the seconds until `is_done`, or without it until the command has ended."""
        programs = self.folder / "programs" if warm else self.new_folder()
        programs.mkdir(exist_ok=True)
        environment = {**os.environ, "XDG_CACHE_HOME": str(programs)}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        with tempfile.TemporaryFile("w+") as output:
            began = time.perf_counter()
            process = subprocess.Popen(
                command, cwd=SCRIPTS.parent, env=environment, stdout=output, stderr=output
            )
            try:
                while process.poll() is None and not (is_done and is_done()):
                    time.sleep(POLL_SECONDS)
                seconds = time.perf_counter() - began
                code = process.returncode
                if code if is_done is None else code is not None:  # failed, or ended too early
                    output.seek(0)
                    raise SystemExit(output.read())
                return seconds
            finally:
                process.kill()
                process.wait()

    def new_folder(self) -> Path:
        """Returns a folder's name that no other call has returned."""
        return self.folder / str(next(self.numbers))


SUBJECTS = {  # ours, and what the peer does
    "startup": (Startup.first_step, "train"),
    "startup-predict": (Startup.first_mask, "predict"),
    "startup-evaluate": (Startup.evaluation, "predict"),
}


def time_to_end(command: list[str]) -> float:
    began = time.perf_counter()
    # absl ends --help with exit code 1.
    subprocess.run(command, cwd=SCRIPTS.parent, stdout=subprocess.DEVNULL, check=False)
    return time.perf_counter() - began


def time_peer(options: Options, what: str) -> float:
    """Returns the seconds until the peer's script has made a step or a mask."""
    told = json.dumps({**dataclasses.asdict(options), "data_dir": None})
    began = time.perf_counter()
    command = [sys.executable, "-m", "bench.torch_startup", what, told]
    with subprocess.Popen(command, cwd=SCRIPTS, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - began
    if not line.startswith("done"):
        raise SystemExit("bench.torch_startup failed: its traceback is above")
    return seconds
