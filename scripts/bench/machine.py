"""What the machine is and what it can do at best: the floors beside a benchmark's figures."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from bench.interleave import Trial
from bench.options import Options
from trashseg_jax.devices.compiling import compiler_options
from trashseg_jax.devices.sharding import processor_name

# Of the flags of /proc/cpuinfo, the widest first: what a processor's fastest kernels are made of.
INSTRUCTIONS = ("amx_tile", "avx512_bf16", "avx512f", "avx2", "asimd")
FAMILY = {"family": "cpu family", "model": "model"}

PACKAGES = ("jax", "flax", "tensorflow-cpu", "pydensecrf2")
PEERS = ("torch", "segmentation_models_pytorch", "albumentations")


def multiply(options: Options) -> Trial:
    """A product of square matrices; fact: its operations."""
    side = 2048 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((side, side), options.dtype)
    product = jax.jit(jnp.matmul, compiler_options=compiler_options())

    def run(count: int) -> None:
        jax.block_until_ready([product(a, a) for _ in range(count)])

    return Trial(run, 1, {"flops": 2.0 * side**3})


def copy(options: Options) -> Trial:
    """An array read and another written; fact: bytes of both."""
    del options
    a = jnp.ones(2**26, jnp.float32)
    increment = jax.jit(lambda a: a + 1)

    def run(count: int) -> None:
        for _ in range(count):
            increment(a).block_until_ready()

    return Trial(run, 1, {"bytes": 2.0 * a.nbytes})


def describe() -> dict[str, Any]:
    """Returns the processor, the device and the versions."""
    device = jax.devices()[0]
    return {
        "processor": describe_processor(processor_name(), read_cpuinfo(), cores=os.cpu_count()),
        "device": device.device_kind if device.platform != "cpu" else "cpu",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in (*PACKAGES, *PEERS)},
    }


def read_cpuinfo() -> dict[str, str]:
    """Returns what Linux says of the first core; empty on other systems."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().split("\n\n")[0].splitlines() if path.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def describe_processor(name: str, cpuinfo: dict[str, str], *, cores: int | None) -> str:
    """Returns cores, name, family and widest instructions.

    A virtual machine calls every generation of a maker by one name.
    """
    parts = [f"{key} {cpuinfo[of]}" for key, of in FAMILY.items() if of in cpuinfo]
    flags = (cpuinfo.get("flags") or cpuinfo.get("Features", "")).split()
    parts += [flag for flag in INSTRUCTIONS if flag in flags][:1]
    return f"{cores} x {name}" + (f" ({', '.join(parts)})" if parts else "")


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
