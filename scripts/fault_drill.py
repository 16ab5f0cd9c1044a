"""Kills, signals, starves and damages a small training, and checks that nothing is lost by it.

    python scripts/fault_drill.py                       # everything; 20 kills
    python scripts/fault_drill.py --kills=4 --only=kills,signals,damage

Every drill is an ordinary `python -m trashseg_jax.main` on rendered scenes, whose end is compared
with that of a run that was left alone: the arrays of the last checkpoint by their SHA-256,
log.jsonl but for its times, metrics.json byte for byte. Exits with 1 if anything differs.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

ROOT = Path(__file__).resolve().parent.parent
STEPS = 200
EVAL_EVERY = 20
FLAGS = (
    "--config=configs/focal_balanced.py",
    *("--config.data.demo.num_train=24", "--config.data.demo.num_val=8"),
    *("--config.data.demo.size=64", "--config.data.image_size=32", "--config.model.width=4"),
    *("--config.model.decoder_features=(8,8,8,8,8)", f"--config.train.steps={STEPS}"),
    *("--config.train.batch_size=4", "--config.eval.batch_size=4", "--config.train.log_every=1"),
    *("--config.train.checkpoint_every=10", f"--config.train.eval_every={EVAL_EVERY}"),
    "--config.data.sampling.name=class_balanced",
)
PATIENCE = 900.0  # seconds that a run may take: nothing hangs for ever


class Outcome(NamedTuple):
    """How a run ended: all that must not depend on what happened on the way."""

    arrays: str  # SHA-256
    log: str
    metrics: str


class Run:
    """The command of one training: its folder, its data cache and its devices."""

    def __init__(self, folder: Path, *flags: str, cache: Path | None = None, devices: int = 1):
        self.workdir = folder / "run"
        self.output = folder / "output.txt"
        cache_flag = f"--config.data.cache_dir={cache or folder / 'cache'}"
        self.flags = [*FLAGS, *flags, f"--workdir={self.workdir}", cache_flag]
        programs = folder.parent / "programs"  # compiled once for all runs
        self.environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(programs),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"
            " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
        }

    def start(self, *prefix: str) -> subprocess.Popen:
        """Starts it, or goes on with it; what it prints is in `output`."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        command = [*prefix, sys.executable, "-m", "trashseg_jax.main", *self.flags]
        with self.output.open("w") as output:
            return subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=output, stderr=output
            )

    def finish(self, *prefix: str) -> int:
        """Runs it to its end; returns the exit code."""
        return self.start(*prefix).wait(PATIENCE)

    def last_step(self) -> int:
        path = self.workdir / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return next((s for line in lines[::-1] if (s := step_of(line)) is not None), 0)

    def last_line(self) -> str:
        """Returns the error's line, or else the last one."""
        lines = self.output.read_text().strip().splitlines()
        return next((line for line in lines if line.startswith("error: ")), lines[-1])[:240]

    def outcome(self) -> Outcome:
        entries = [json.loads(line) for line in (self.workdir / "log.jsonl").open()]
        kept = [{k: v for k, v in e.items() if k != "images_per_second"} for e in entries]
        metrics = (self.workdir / "metrics.json").read_text()
        return Outcome(hash_arrays(self.workdir / "checkpoints" / str(STEPS)), str(kept), metrics)


def step_of(line: str) -> int | None:
    try:
        return json.loads(line)["step"]
    except ValueError:  # the line that is being written
        return None


def hash_arrays(folder: Path) -> str:
    digest = hashlib.sha256()
    warnings.filterwarnings("ignore", "Sharding info not provided")  # any device will do
    for path, leaf in jax.tree_util.tree_leaves_with_path(ocp.load(folder)):
        digest.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()


def wait_until(process: subprocess.Popen, condition: Callable[[], bool]) -> bool:
    """Returns whether the condition came true while the process was running."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.003)
    return False


# Moments to kill a run at, as conditions on what it has left so far.


def rendering(run: Run) -> bool:
    return any((run.workdir.parent / "cache").glob("demo-*/**/*"))


def preparing(run: Run) -> bool:
    return any((run.workdir.parent / "cache" / "prepared").glob("*/**/*incomplete*"))


def saving(run: Run) -> bool:
    return any((run.workdir / "checkpoints").glob("*tmp*"))


def evaluating(run: Run) -> bool:
    """The step has been logged, its figures have not."""
    lines = (run.workdir / "log.jsonl").read_text().splitlines()
    return run.last_step() % EVAL_EVERY == 0 and "loss" in lines[-1]


def condition(moment: str, run: Run, target: int) -> Callable[[], bool]:
    """Returns the question whether a run is at such a moment, at or after the step `target`."""
    if moment == "rendering":
        return lambda: rendering(run)
    if moment == "preparing":
        return lambda: preparing(run)
    within = {"stepping": lambda: True, "saving": lambda: saving(run)}
    then = within.get(moment, lambda: evaluating(run))
    return lambda: run.last_step() >= target and then()


def drill_kills(base: Path, expected: Outcome, options: argparse.Namespace) -> list[str]:
    """SIGKILL at random moments of each kind, from the first rendered scene to the last step."""
    rng, lines, killed, rounds = random.Random(options.seed), [], 0, 0
    while killed < options.kills:
        rounds += 1
        run = Run(base / f"kills{rounds}")
        moments = ["rendering", "preparing"]
        while True:
            moment = moments.pop(0) if moments else rng.choice(["stepping", "saving", "evaluating"])
            if killed == options.kills:
                check(run.finish() == 0, run.last_line())
                break
            process = run.start()
            # Beyond the last one: so the run gets on in spite of all.
            target = run.last_step() + rng.randrange(1, 30)
            if not wait_until(process, condition(moment, run, target)):
                check(process.wait(PATIENCE) == 0, run.last_line())
                break
            time.sleep(rng.uniform(0, 0.03))
            process.kill()
            process.wait()
            killed += 1
            lines.append(f"kill {killed:2d}: {moment:10s} last logged step {run.last_step()}")
            print(lines[-1], flush=True)
        compare(run.outcome(), expected)
        lines.append(f"round {rounds}: the same end as the run that was left alone")
        print(lines[-1], flush=True)
    return [f"{killed} kills in {rounds} runs, all ended alike, SHA-256 {expected.arrays[:16]}"]


def drill_signals(base: Path, expected: Outcome, options: argparse.Namespace) -> list[str]:
    """SIGTERM: saved, exit code 75; then SIGINT: saved, and ended by that signal."""
    del options
    run, lines = Run(base / "signals", cache=base / "cache"), []
    for number, code in ((signal.SIGTERM, 75), (signal.SIGINT, -signal.SIGINT)):
        process, since = run.start(), run.last_step()
        wait_until(process, lambda since=since: run.last_step() > since + 3)
        process.send_signal(number)
        check(process.wait(PATIENCE) == code, run.last_line())
        lines.append(f"exit {code}: {run.last_line()}")
    check(run.finish() == 0, run.last_line())
    compare(run.outcome(), expected)
    return [*lines, "went on to the same end"]


def drill_damage(base: Path, expected: Outcome, options: argparse.Namespace) -> list[str]:
    """One flipped bit in the latest checkpoint: named, set aside, the one before taken."""
    del options
    run = Run(base / "damage", cache=base / "cache")
    process = run.start()
    wait_until(process, lambda: run.last_step() > 35)
    process.kill()
    process.wait()
    saved = [p for p in (run.workdir / "checkpoints").iterdir() if p.name.isdigit()]
    latest = max(saved, key=lambda path: int(path.name))
    largest = max(
        (p for p in latest.rglob("*") if p.is_file()), key=lambda path: path.stat().st_size
    )
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    check(run.finish() == 0, run.last_line())
    said = [line for line in run.output.read_text().splitlines() if "is damaged" in line]
    check(len(said) == 1, "the damage went unseen")
    compare(run.outcome(), expected)
    return [said[0][-110:], "went on to the same end"]


def drill_disk(base: Path, expected: Outcome, options: argparse.Namespace) -> list[str]:
    """No file may grow beyond 100 KiB, as if the disk were full: an error, then the same end."""
    del options
    run = Run(base / "disk", cache=base / "cache")
    code = run.finish("bash", "-c", 'ulimit -f 100; exec "$@"', "bash")  # in KiB
    check(code == 3, f"exit code {code}: {run.last_line()}")
    said = run.last_line()
    check(run.finish() == 0, run.last_line())
    compare(run.outcome(), expected)
    return [f"exit 3: {said}", "with room again, went on to the same end"]


def drill_lock(base: Path, expected: Outcome, options: argparse.Namespace) -> list[str]:
    """A second run in the same folder is refused, the first one is not disturbed."""
    del options
    run = Run(base / "lock", cache=base / "cache")
    first = run.start()
    wait_until(first, lambda: run.last_step() > 1)
    second = Run(base / "lock", cache=base / "cache")
    second.output = base / "lock" / "second.txt"
    check(second.finish() == 2, second.last_line())
    check(first.wait(PATIENCE) == 0, run.last_line())
    compare(run.outcome(), expected)
    return [f"exit 2: {second.last_line()}"]


def drill_elastic(base: Path, expected: Outcome, options: argparse.Namespace) -> list[str]:
    """Four simulated devices, then two, then one: the same state goes on."""
    del options, expected
    lines = []
    for devices in (4, 2, 1):
        run = Run(base / "elastic", cache=base / "cache", devices=devices)
        process, since = run.start(), run.last_step()
        if devices > 1:
            wait_until(process, lambda run=run, since=since: run.last_step() > since + 20)
            process.terminate()
        code = process.wait(PATIENCE)
        check(code == (75 if devices > 1 else 0), run.last_line())
        lines.append(f"{devices} devices: steps {since} to {run.last_step()}")
    entries = [json.loads(line) for line in (run.workdir / "log.jsonl").open()]
    steps = [entry["step"] for entry in entries if "loss" in entry]
    check(steps == list(range(1, STEPS + 1)), "a step is missing, or logged twice")
    return lines


def drill_memory(base: Path, expected: Outcome, options: argparse.Namespace) -> list[str]:
    """2,000 steps with an evaluation every 100: resident memory from step 500 on."""
    del options, expected
    steps = 2000
    flags = (f"--config.train.steps={steps}", "--config.train.checkpoint_every=500")
    run = Run(base / "memory", *flags, "--config.train.eval_every=100", cache=base / "cache")
    process, curve, due = run.start(), {}, 100
    while process.poll() is None:
        if run.last_step() >= due:
            curve[due] = resident_mib(process.pid)
            due += 100
        time.sleep(0.2)
    check(process.wait() == 0, run.last_line())
    later = {step: mib for step, mib in curve.items() if step >= 500}
    growth = max(later.values()) / later[500] - 1
    check(growth < 0.05, f"resident memory grew by {growth:.1%} from step 500 on: {curve}")
    shown = ", ".join(f"{step}: {mib:.0f}" for step, mib in curve.items() if step % 500 == 0)
    return [f"MiB at step {shown}; at most {growth:+.1%} after step 500"]


def resident_mib(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, IndexError):  # it has just ended
        return 0.0
    return pages * resource.getpagesize() / 2**20


class Difference(Exception):
    """What a drill found."""


def check(good: bool, otherwise: str) -> None:
    if not good:
        raise Difference(otherwise)


def compare(actual: Outcome, expected: Outcome) -> None:
    for name in Outcome._fields:
        check(getattr(actual, name) == getattr(expected, name), f"{name} differ")


DRILLS = {
    "kills": drill_kills,
    "signals": drill_signals,
    "damage": drill_damage,
    "disk": drill_disk,
    "lock": drill_lock,
    "elastic": drill_elastic,
    "memory": drill_memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--only", default=",".join(DRILLS), help="drills, by comma")
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(DRILLS):
        parser.error(f"--only: {', '.join(unknown)}: must be of {', '.join(DRILLS)}")
    with tempfile.TemporaryDirectory(prefix="fault-drill-") as folder:
        base = Path(folder)
        alone = Run(base / "alone", cache=base / "cache")
        begin = time.monotonic()
        if alone.finish() != 0:
            sys.exit(f"the run that was left alone failed: {alone.last_line()}")
        expected = alone.outcome()
        print(f"left alone: {STEPS} steps in {time.monotonic() - begin:.0f} s", flush=True)
        failed = [name for name in chosen if not passes(name, base, expected, options)]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def passes(name: str, base: Path, expected: Outcome, options: argparse.Namespace) -> bool:
    begin = time.monotonic()
    try:
        lines, good = DRILLS[name](base, expected, options), True
    except (Difference, subprocess.TimeoutExpired) as error:
        lines, good = [str(error)], False
    verdict = "passed" if good else "FAILED"
    print(
        f"{name}: {verdict} in {time.monotonic() - begin:.0f} s", *lines, sep="\n    ", flush=True
    )
    return good


if __name__ == "__main__":
    main()
