"""Measures this project beside what people would otherwise use, in one run, in turns.

    python scripts/benchmark.py train infer --size=128 --batch=8
    python scripts/benchmark.py --check

The peers are in requirements-bench.txt. docs/benchmarks.md explains the subjects and holds the
results that --store has written to docs/benchmarks.json.
"""

import argparse
import dataclasses
import itertools
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
    # A step's convolutions, each alone: train's floor.
    "conv-forward": ("bench.convolutions:forward", "bench.torch_convolutions:forward"),
    "conv-input-gradients": (
        "bench.convolutions:input_gradients",
        "bench.torch_convolutions:input_gradients",
    ),
    "conv-kernel-gradients": (
        "bench.convolutions:kernel_gradients",
        "bench.torch_convolutions:kernel_gradients",
    ),
    # What people turn on, beside our own plain step.
    "train-accumulate": ("bench.model:train_accumulated", "bench.model:train"),
    "train-remat": ("bench.model:train_remat", "bench.model:train"),
    "train-dilated": ("bench.model:train_dilated", "bench.model:train"),
}
DTYPES = ("float32", "bfloat16")
LAYOUTS = ("channels_last", "contiguous")
OF_NETWORK = ("train", "infer", "eval")  # which have all dtypes and layouts
FLOORS = ("bench.machine:multiply", "bench.machine:copy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    subjects = [*SUBJECTS, *startup.SUBJECTS]
    parser.add_argument("subjects", nargs="*", help=f"of {', '.join(subjects)}")
    parser.add_argument("--size", type=int, default=512, help="pixels of an image's side")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--layout", choices=LAYOUTS, default="channels_last", help="the peer's")
    parser.add_argument(
        "--best",
        action="store_true",
        help=f"each side in all dtypes, and layouts, best against best; {', '.join(OF_NETWORK)}",
    )
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
    if arguments.best:
        measure_best(arguments.subjects, options, arguments.rounds, parser)
        return
    results = [measure(name, options, arguments.rounds) for name in arguments.subjects]
    if arguments.out:
        write_json(arguments.out, results)
    if arguments.store:
        store(results)


def measure(subject: str, options: Options, rounds: int) -> dict[str, Any]:
    """Returns a subject's figures, which it prints."""
    about = {"subject": subject, **dataclasses.asdict(options), "rounds": rounds}
    about["data_dir"] = options.data_dir and options.data_dir.name
    machine = describe_machine(options)
    run = measure_startup if subject in startup.SUBJECTS else measure_rates
    result = {**about, **run(subject, options, rounds), "machine": machine}
    if "flops" in result["facts"]:
        result["shares"] = shares(result, machine)
    print(describe(result), flush=True)
    return result


def measure_rates(subject: str, options: Options, rounds: int) -> dict[str, Any]:
    load = os.getloadavg()[0]
    competitors = [(name, options) for name in SUBJECTS[subject]]
    ours, peer, *model = interleave.time_in_turns(competitors, rounds=rounds)
    middle, low, high = interleave.ratio(ours, peer)
    return {
        "ratio": middle,
        "quartiles": [low, high],
        "images_per_second": {"ours": ours.rate, "peer": peer.rate},
        "seconds": {"ours": ours.seconds, "peer": peer.seconds},
        "facts": ours.facts,
        "load_before": load,
        **({"share_of_model": interleave.ratio(ours, *model)} if model else {}),
    }


def describe_machine(options: Options) -> dict[str, Any]:
    """Returns what the machine is, and its peaks: operations and bytes a second."""
    product, copied = interleave.time_in_turns([(name, options) for name in FLOORS], rounds=5)
    return {
        **interleave.call("bench.machine:describe"),
        "peak_flops": product.facts["flops"] / min(product.seconds),
        "peak_bytes": copied.facts["bytes"] / min(copied.seconds),
    }


def shares(result: dict[str, Any], machine: dict[str, Any]) -> dict[str, float]:
    """Returns which share of each of the machine's peaks a repetition of ours reached."""
    seconds = statistics.median(result["seconds"]["ours"])
    facts = result["facts"]
    return {key: facts[key] / seconds / machine[f"peak_{key}"] for key in ("flops", "bytes")}


def measure_best(
    subjects: list[str], options: Options, rounds: int, parser: argparse.ArgumentParser
) -> None:
    """Prints how fast both sides are in each of their forms, and the ratio of the fastest."""
    if unfit := [name for name in subjects if name not in OF_NETWORK]:
        parser.error(f"--best: is for {', '.join(OF_NETWORK)}, not for {', '.join(unfit)}")
    ours_forms = [{"dtype": dtype} for dtype in DTYPES]
    peer_forms = [
        {"dtype": dtype, "layout": layout} for dtype, layout in itertools.product(DTYPES, LAYOUTS)
    ]
    machine = describe_machine(options)
    for subject in subjects:
        ours, peer = SUBJECTS[subject]
        forms = [("ours", ours, form) for form in ours_forms]
        forms += [("peer", peer, form) for form in peer_forms]
        competitors = [(name, dataclasses.replace(options, **form)) for _, name, form in forms]
        timings = interleave.time_in_turns(competitors, rounds=rounds)
        best = {}
        print(f"{subject} {options.encoder} {options.size}x{options.size} batch {options.batch}")
        print(f"  on {describe_peaks(machine)}")
        for (side, _, form), timing in zip(forms, timings, strict=True):
            print(f"  {side} {', '.join(form.values())}: {timing.rate:.2f} images/s")
            best[side] = max(best.get(side, timing), timing, key=lambda one: one.rate)
        middle, low, high = interleave.ratio(best["ours"], best["peer"])
        print(f"  best against best: {middle:.2f}x (quartiles {low:.2f} to {high:.2f})", flush=True)


def measure_startup(subject: str, options: Options, rounds: int) -> dict[str, Any]:
    """Seconds; the ratio is the peer's over ours with compiled programs at hand."""
    seconds = startup.measure(subject, options, rounds=rounds)
    ratios = [p / o for o, p in zip(seconds["warm"], seconds["peer"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {"ratio": middle, "quartiles": [low, high], "seconds": seconds, "facts": {}}


def describe(result: dict[str, Any]) -> str:
    """Returns a subject's figures as lines for a person."""
    low, high = result["quartiles"]
    parts = [
        f"{result['subject']} {result['encoder']} {result['size']}x{result['size']} "
        f"batch {result['batch']} {result['dtype']} on {describe_peaks(result['machine'])}: "
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
    if reached := result.get("shares"):
        facts = result["facts"]
        parts.append(
            f"  {facts['flops'] / 1e9:.1f} GFLOP, {facts['bytes'] / 1e9:.2f} GB a repetition: "
            f"{reached['flops']:.0%} of the matrix peak, {reached['bytes']:.0%} of the copy "
            "bandwidth"
        )
    return "\n".join(parts)


def describe_peaks(machine: dict[str, Any]) -> str:
    """Returns a device or processor with its peaks, as a table should name it."""
    device = machine["device"]
    name = machine["processor"] if device == "cpu" else device
    return (
        f"{name}, {machine['peak_flops'] / 1e9:.0f} GFLOP/s, {machine['peak_bytes'] / 1e9:.0f} GB/s"
    )


def key(result: dict[str, Any]) -> tuple[Any, ...]:
    """Returns what makes two results comparable."""
    names = ("subject", "size", "batch", "dtype", "layout", "encoder", "data_dir", "workers")
    machine = result["machine"]
    return (*(result[name] for name in names), machine["device"], machine["processor"])


def store(results: list[dict[str, Any]]) -> None:
    """Puts results into the stored ones, in the place of older ones of the same kind."""
    stored = {key(result): result for result in read_stored()}
    write_json(STORED, list({**stored, **{key(result): result for result in results}}.values()))


def read_stored() -> list[dict[str, Any]]:
    return json.loads(STORED.read_text()) if STORED.exists() else []


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


def check(arguments: argparse.Namespace) -> int:
    """Measures again what is stored for this machine; returns 1 if a ratio has fallen, else 0.

    That is one with the same device and the same processor: ratios differ from one to another.
    """
    machine = interleave.call("bench.machine:describe")
    wanted = [
        result
        for result in read_stored()
        if all(result["machine"][name] == machine[name] for name in ("device", "processor"))
        and (not arguments.subjects or result["subject"] in arguments.subjects)
    ]
    fallen = [r for r in wanted if not holds(r, arguments)]
    if not wanted:
        print(f"nothing of these is stored for {machine['processor']}, {machine['device']}")
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
