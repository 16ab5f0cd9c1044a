"""Compiles the training step for a GPU that need not be there; prints what it holds and moves.

    pip install -r requirements-cuda.txt    # neither a GPU nor a driver is needed
    python scripts/inspect_step.py --batch=8,32
    python scripts/inspect_step.py --batch=32 --remat --operations=10

The program is that of configs/reference.py:aistage on one H200, as XLA's compiler for CUDA makes
it, but for the choice among cuDNN's algorithms, which needs a device, and their workspaces.
`moved` is what its operations read and write: their operands and results, each once. `floor` is
that over the memory's bandwidth: what a step takes at the least, but for what a cache keeps.
"""

import argparse
import os
import sys
from pathlib import Path
from unittest import mock

os.environ["JAX_PLATFORMS"] = "cpu"  # of this process; the program is for another
os.environ["XLA_FLAGS"] = "--xla_gpu_autotune_level=0"  # measures on the device

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

sys.path.insert(1, str(Path(__file__).parent.parent))

from bench.hlo import operations
from bench.step_program import compile_step

BANDWIDTH = 4.8e12  # bytes a second, of an H200's data sheet
TARGET = """
platform_name: "CUDA"
device_description_str: "NVIDIA H200"
dnn_version_info { major: 9 minor: 12 }
runtime_version { major: 13 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  clock_rate_ghz: 1.98
  l2_cache_size: 62914560
  memory_bandwidth: 4800000000000
  device_memory_size: 150000000000
}
"""
MB = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", default="8,32,64")
    parser.add_argument("--image_size", type=int, default=512)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--remat", action="store_true")
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--operations", type=int, default=0, help="list so many, the costliest")
    options = parser.parse_args()
    try:
        mesh = gpu_mesh()
    except NotImplementedError:
        parser.error("JAX has no compiler for CUDA here: pip install -r requirements-cuda.txt")
    print("batch  temporary MB  arguments MB  moved MB  floor ms  floor images/s")
    for batch in map(int, options.batch.split(",")):
        with mock.patch.object(jax, "default_backend", return_value="gpu"):
            _, compiled = compile_step(
                mesh,
                rows=batch,
                image_size=options.image_size,
                dtype=options.dtype,
                remat=options.remat,
                accumulate=options.accumulate,
            )
        memory = compiled.memory_analysis()
        listed = sorted(operations(compiled.as_text()), key=lambda one: -one.moved)
        moved = sum(one.moved for one in listed)
        print(
            f"{batch:5}  {memory.temp_size_in_bytes / MB:12.0f}"
            f"  {memory.argument_size_in_bytes / MB:12.0f}  {moved / MB:8.0f}"
            f"  {1000 * moved / BANDWIDTH:8.2f}  {batch * BANDWIDTH / moved:14.0f}",
            flush=True,
        )
        for one in listed[: options.operations]:
            print(f"    {one.moved / MB:8.1f} MB  {one.kind:24}  {one.source}")


def gpu_mesh() -> Mesh:
    """Returns a mesh of one H200 that programs can be compiled for."""
    topology = topologies.get_topology_desc(platform="cuda", target_config=TARGET, topology="1x1x1")
    return Mesh(np.array(topology.devices), ("data",), axis_types=(AxisType.Auto,))


if __name__ == "__main__":
    main()
