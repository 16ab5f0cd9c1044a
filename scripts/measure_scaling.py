"""Prints the tables of docs/scaling.md: what grows with the devices and with the data.

    python scripts/measure_scaling.py
    python scripts/measure_scaling.py --image_size=128 --devices=1,2

The first compiles the training step of configs/reference.py:aistage for simulated CPU devices,
runs nothing, and reads what the compiled program sums over devices and holds in memory. Simulated
devices share the machine's cores: nothing here says how fast a step would be.
"""

import argparse
import itertools
import os
import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# HLO, which is read here, is optimised as ever; the machine code, which is not run, is not.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8"
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

sys.path.insert(1, str(Path(__file__).parent.parent))

from bench.hlo import all_reduces
from bench.step_program import compile_step
from trashseg_jax.data import sampling

MAX_DEVICES = 8  # as above
DECODER = (512, 256, 128, 64, 32, 16)  # features that come in, then those of each block
MB = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image_size", type=int, default=512)
    parser.add_argument("--rows", type=int, default=2, help="images a device")
    parser.add_argument("--devices", default="1,2,4,8")
    parser.add_argument("--records", default="1000,10000,100000,1000000")
    options = parser.parse_args()
    device_counts = [int(count) for count in options.devices.split(",")]
    if not all(1 <= count <= MAX_DEVICES for count in device_counts):
        parser.error(f"--devices={options.devices}: must be numbers from 1 to {MAX_DEVICES}")
    print_devices(device_counts, rows=options.rows, image_size=options.image_size)
    print_records([int(count) for count in options.records.split(",")])


def print_devices(device_counts: list[int], *, rows: int, image_size: int) -> None:
    print(
        f"ResNet-34 U-Net, float32, {image_size}x{image_size}, {rows} images a device, AdamW, EMA"
    )
    print("devices  batch  sums  MB summed  closed form  arguments MB  temporary MB  compile s")
    for count in device_counts:
        began = time.perf_counter()
        mesh = Mesh(np.array(jax.devices()[:count]), ("data",), axis_types=(AxisType.Auto,))
        # bfloat16 is emulated on CPUs, with more memory.
        state, compiled = compile_step(mesh, rows=rows, image_size=image_size, dtype="float32")
        seconds = time.perf_counter() - began
        sizes = all_reduces(compiled.as_text())
        expected = closed_form(state) if count > 1 else 0
        memory = compiled.memory_analysis()
        print(
            f"{count:7}  {count * rows:5}  {len(sizes):4}  {sum(sizes) / MB:9.3f}"
            f"  {expected / MB:11.3f}  {memory.argument_size_in_bytes / MB:12.1f}"
            f"  {memory.temp_size_in_bytes / MB:12.1f}  {seconds:9.0f}",
            flush=True,
        )


def closed_form(state: Any) -> int:
    """Returns the bytes of a gradient, of two sums for each BatchNorm channel, and of the loss.

    Forward those of x and x^2; backward none but the gradients of scale and bias. The gradients of
    kernels that meet upsampled features are summed as four 2x2 kernels, 16 taps in place of 9.
    """
    params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    channels = sum(leaf.size for leaf in jax.tree.leaves(state.batch_stats)) // 2
    upsampled = sum(c * f for c, f in itertools.pairwise(DECODER))
    return 4 * (params + 2 * channels + 7 * upsampled + 1)


def print_records(counts: list[int]) -> None:
    print("\nrecords  build table s  peak MB  table MB  drawn at 1e6 s  dealt at 1e6 s  order MB")
    for count in counts:
        weights = np.random.default_rng(0).exponential(size=count)
        build_s, table = timed(sampling.alias_table, weights)
        peak_mb = peak_bytes(sampling.alias_table, weights) / MB
        drawn_s, _ = timed(first_batch, partial(sampling.weighted_index, seed=0, table=table))
        dealt_s, _ = timed(first_batch, partial(sampling.uniform_index, seed=0, size=count))
        table_mb = sum(column.nbytes for column in table) / MB
        print(
            f"{count:7}  {build_s:13.4f}  {peak_mb:7.2f}  {table_mb:8.3f}  {drawn_s:14.5f}"
            f"  {dealt_s:14.5f}  {8 * count / MB:8.3f}"
        )


def first_batch(index_of: Callable[[int], int]) -> list[int]:
    """Returns what a run that is resumed at step 10^6 reads first, in batches of 16."""
    return [index_of(16 * 10**6 + row) for row in range(16)]


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    began = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - began, result


def peak_bytes(function: Callable[..., Any], *arguments: Any) -> int:
    tracemalloc.start()
    function(*arguments)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


if __name__ == "__main__":
    main()
