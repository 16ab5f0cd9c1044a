"""Data parallelism over all devices: state replicated, batches split along their first axis."""

import os
import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from trashseg_jax.errors import InputError

ON_HOST = ("id",)  # keys of a batch that no device needs


def describe_devices() -> str:
    """Returns how many devices there are, and of which kind; of CPUs the processor's name.

    Raises InputError where JAX finds none of the platform that it is told to use.
    """
    try:
        devices = jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where a platform has no plugin
        platforms = os.environ.get("JAX_PLATFORMS", "")
        reason = next(iter(str(error).strip().splitlines()), "it is not installed here")
        raise InputError(
            f"JAX_PLATFORMS={platforms}: JAX cannot use that platform ({reason}); unset the "
            "variable, or pip install -r requirements-cuda.txt for an NVIDIA GPU"
        ) from error
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        kind = f"CPU ({processor_name()}, {os.cpu_count()} cores)"
    return f"{len(devices)} x {kind}"


def processor_name() -> str:
    """Returns the processor's model as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def make_mesh() -> Mesh:
    """Returns a mesh of all devices of all processes with the one axis "data".

    Each process's devices follow those of the one before, and so do its rows of a batch. Raises
    InputError where the processes have different numbers of devices.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    counts = np.bincount([device.process_index for device in devices])
    if np.ptp(counts):
        raise InputError(
            f"the processes have {', '.join(map(str, counts))} devices: all need as many, since "
            "each reads an equal share of a batch"
        )
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def as_replicated(abstract: Any, mesh: Mesh) -> Any:
    """Returns a tree of jax.ShapeDtypeStruct like `abstract`, each replicated over `mesh`."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), abstract
    )


def check_batch_size(key: str, batch_size: int, mesh: Mesh, *, parts: int = 1) -> None:
    """Raises InputError, naming the next sizes, unless devices times `parts` divide the batch."""
    unit = mesh.size * parts
    if batch_size < 1 or batch_size % unit:
        lower = batch_size // unit * unit
        sizes = f"{lower} or {lower + unit}" if lower > 0 else f"{unit}"
        what = f"{mesh.size} devices" + (f" x {parts} parts of a batch" if parts > 1 else "")
        raise InputError(
            f"{key}={batch_size}: must be a positive multiple of the {what}; use {sizes}"
        )


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts this process's rows of a batch, but for ON_HOST, onto its devices.

    There they are part of the global batch.
    """
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return {
        key: jax.make_array_from_process_local_data(sharding, rows)
        for key, rows in batch.items()
        if key not in ON_HOST
    }


def local_rows(array: jax.Array | np.ndarray) -> np.ndarray:
    """Fetches this process's rows, in order, of an array that is split along its first axis.

    One on the host has no others.
    """
    if isinstance(array, np.ndarray):
        return array
    shards = [s for s in array.addressable_shards if s.replica_id == 0]
    shards.sort(key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def to_host(rows: jax.Array | np.ndarray) -> np.ndarray:
    """Fetches the rows of all processes, in their order, of an array that each has its share of."""
    if jax.process_count() == 1:
        return np.asarray(rows)
    mine = np.ascontiguousarray(local_rows(rows))
    # As bytes: JAX would make int64 int32.
    raw = mine.reshape(len(mine), -1).view(np.uint8)
    joined = multihost_utils.process_allgather(raw, tiled=True)
    return joined.view(mine.dtype).reshape(-1, *mine.shape[1:])
