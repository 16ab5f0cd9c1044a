"""Measures this project beside what people would otherwise use, in one run, in turns.

    python scripts/benchmark.py train infer --size=128 --batch=8
    python scripts/benchmark.py --check

The peers are in requirements-bench.txt. docs/benchmarks.md explains the subjects and holds the
results that --store has written to docs/benchmarks.json.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

# Where the package is not installed, as on a machine that is lent for an hour.
sys.path.insert(1, str(Path(__file__).parent.parent))

from bench import interleave, startup
from bench.options import Options
from trashseg_jax.devices import large_pages

STORED = Path(__file__).parent.parent / "docs" / "benchmarks.json"
PEER_PHONE = "bench.torch_prediction:masks_phone"
MODEL = "bench.model:infer"
SUBJECTS = {  # ours, the peer; and what ours would reach if all but it were overlapped
    "train": ("bench.model:train", "bench.torch_model:train"),
    "infer": ("bench.model:infer", "bench.torch_model:infer"),
    "eval": ("bench.model:evaluate", "bench.torch_model:evaluate"),
    "input": ("bench.inputs:load", "bench.torch_inputs:load"),
    "input+augment": ("bench.inputs:load_and_augment", "bench.torch_inputs:load"),
    "predict": ("bench.prediction:everything", "bench.torch_prediction:masks", MODEL),
    "predict-masks": ("bench.prediction:masks", "bench.torch_prediction:masks", MODEL),
    "predict-phone": ("bench.prediction:everything_phone", PEER_PHONE, MODEL),
    "predict-phone-masks": ("bench.prediction:masks_phone", PEER_PHONE, MODEL),
    "crf": ("bench.refinement:pooled", "bench.refinement:serial"),
    "crf-device": ("bench.refinement:on_device", "bench.refinement:serial"),
}
FLOORS = ("bench.machine:multiply", "bench.machine:copy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    subjects = [*SUBJECTS, "startup"]
    parser.add_argument("subjects", nargs="*", help=f"of {', '.join(subjects)}")
    parser.add_argument("--size", type=int, default=512, help="pixels of an image's side")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--encoder", default="resnet34")
    parser.add_argument("--rounds", type=int, default=7, help="at least 2")
    parser.add_argument("--data_dir", type=Path, help="COCO folder for input; else rendered scenes")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="write all that was measured to this json")
    parser.add_argument("--store", action="store_true", help=f"add it to {STORED.name}")
    parser.add_argument("--check", action="store_true", help="repeat what is stored and compare")
    parser.add_argument("--tolerance", type=float, default=0.15, help="share a ratio may fall by")
    arguments = parser.parse_args()
    # Both sides have what our commands ask the C library for.
    os.environ.setdefault(large_pages.TUNABLES, large_pages.LARGE_PAGES)
    for name in arguments.subjects:
        if name not in subjects:
            parser.error(f"subject {name!r}: must be one of {', '.join(subjects)}")
    if arguments.rounds < 2:
        parser.error(f"--rounds={arguments.rounds}: must be at least 2, for a spread")
    if arguments.check:
        sys.exit(check(arguments))
    names = [field.name for field in dataclasses.fields(Options)]
    options = Options(**{name: getattr(arguments, name) for name in names})
    if not arguments.subjects:
        parser.error(f"name at least one subject: {', '.join(subjects)}")
    results = [measure(name, options, arguments.rounds) for name in arguments.subjects]
    if arguments.out:
        write_json(arguments.out, results)
    if arguments.store:
        store(results)


def measure(subject: str, options: Options, rounds: int) -> dict[str, Any]:
    """Returns a subject's figures, which it prints."""
    about = {"subject": subject, **dataclasses.asdict(options), "rounds": rounds}
    about["data_dir"] = options.data_dir and options.data_dir.name
    machine = interleave.call("bench.machine:describe")
    run = measure_startup if subject == "startup" else measure_rates
    result = {**about, **run(subject, options, rounds), "machine": machine}
    print(describe(result), flush=True)
    return result


def measure_rates(subject: str, options: Options, rounds: int) -> dict[str, Any]:
    load = os.getloadavg()[0]
    ours, peer, *model = interleave.time_in_turns(SUBJECTS[subject], options, rounds=rounds)
    middle, low, high = interleave.ratio(ours, peer)
    return {
        "ratio": middle,
        "quartiles": [low, high],
        "images_per_second": {"ours": ours.rate, "peer": peer.rate},
        "seconds": {"ours": ours.seconds, "peer": peer.seconds},
        "facts": ours.facts,
        "load_before": load,
        **({"share_of_model": interleave.ratio(ours, *model)} if model else {}),
        **({"floor": floor(ours, options)} if "flops" in ours.facts else {}),
    }


def floor(ours: interleave.Timing, options: Options) -> dict[str, float]:
    """Returns the machine's peaks, and which share of each a repetition reached."""
    product, copied = interleave.time_in_turns(FLOORS, options, rounds=5)
    peak_flops = product.facts["flops"] / min(product.seconds)
    peak_bytes = copied.facts["bytes"] / min(copied.seconds)
    seconds = statistics.median(ours.seconds)
    return {
        "peak_flops": peak_flops,
        "peak_bytes": peak_bytes,
        "share_of_flops": ours.facts["flops"] / seconds / peak_flops,
        "share_of_bytes": ours.facts["bytes"] / seconds / peak_bytes,
    }


def measure_startup(subject: str, options: Options, rounds: int) -> dict[str, Any]:
    """Seconds; the ratio is the peer's first step over ours with compiled programs at hand."""
    del subject
    times = startup.measure(options, rounds=rounds)
    ours, peer = times["first_step_warm"].seconds, times["peer"].seconds
    ratios = [p / o for o, p in zip(ours, peer, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    seconds = {name: values.seconds for name, values in times.items()}
    return {"ratio": middle, "quartiles": [low, high], "seconds": seconds, "facts": {}}


def describe(result: dict[str, Any]) -> str:
    """Returns a subject's figures as lines for a person."""
    low, high = result["quartiles"]
    parts = [
        f"{result['subject']} {result['encoder']} {result['size']}x{result['size']} "
        f"batch {result['batch']} {result['dtype']} on {result['machine']['device']}: "
        f"{result['ratio']:.2f}x the peer (quartiles {low:.2f} to {high:.2f})"
    ]
    if rates := result.get("images_per_second"):
        parts.append(f"  images/s: ours {rates['ours']:.2f}, peer {rates['peer']:.2f}")
    else:
        medians = (f"{k} {statistics.median(v):.2f}" for k, v in result["seconds"].items())
        parts.append(f"  seconds: {', '.join(medians)}")
    if share := result.get("share_of_model"):
        middle, low, high = share
        parts.append(f"  {middle:.0%} of the bare model (quartiles {low:.0%} to {high:.0%})")
    if shares := result.get("floor"):
        parts.append(
            f"  {result['facts']['flops'] / 1e9:.1f} GFLOP, {result['facts']['bytes'] / 1e9:.2f} GB"
            f" a repetition: {shares['share_of_flops']:.0%} of the matrix peak"
            f" ({shares['peak_flops'] / 1e9:.0f} GFLOP/s), {shares['share_of_bytes']:.0%} of the"
            f" copy bandwidth ({shares['peak_bytes'] / 1e9:.1f} GB/s)"
        )
    return "\n".join(parts)


def key(result: dict[str, Any]) -> tuple[Any, ...]:
    """Returns what makes two results comparable."""
    names = ("subject", "size", "batch", "dtype", "encoder", "data_dir", "workers")
    return (*(result[name] for name in names), result["machine"]["device"])


def store(results: list[dict[str, Any]]) -> None:
    """Puts results into the stored ones, in the place of older ones of the same kind."""
    stored = {key(result): result for result in read_stored()}
    write_json(STORED, list({**stored, **{key(result): result for result in results}}.values()))


def read_stored() -> list[dict[str, Any]]:
    return json.loads(STORED.read_text()) if STORED.exists() else []


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


def check(arguments: argparse.Namespace) -> int:
    """Measures again what is stored for this device; returns 1 if a ratio has fallen, else 0."""
    device = interleave.call("bench.machine:describe")["device"]
    wanted = [
        result
        for result in read_stored()
        if result["machine"]["device"] == device
        and (not arguments.subjects or result["subject"] in arguments.subjects)
    ]
    fallen = [r for r in wanted if not holds(r, arguments)]
    print(f"{len(wanted) - len(fallen)} of {len(wanted)} ratios hold")
    return int(bool(fallen) or not wanted)


def holds(stored: dict[str, Any], arguments: argparse.Namespace) -> bool:
    """Measures once more; says whether the ratio is within the tolerance of the stored one."""
    names = [field.name for field in dataclasses.fields(Options)]
    options = Options(**{**{n: stored[n] for n in names}, "data_dir": arguments.data_dir})
    if (arguments.data_dir and arguments.data_dir.name) != stored["data_dir"]:
        print(f"{stored['subject']}: needs --data_dir=.../{stored['data_dir']}")
        return False
    now = measure(stored["subject"], options, arguments.rounds)["ratio"]
    least = stored["ratio"] * (1 - arguments.tolerance)
    verdict = "holds" if now >= least else "HAS FALLEN"
    print(f"  {verdict}: {now:.2f}, stored {stored['ratio']:.2f}, at least {least:.2f}")
    return now >= least


if __name__ == "__main__":
    main()
