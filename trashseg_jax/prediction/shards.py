"""Which part of a list of photographs is this process's: --shard=3/16, or by SLURM's variables."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from trashseg_jax.errors import InputError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Shard:
    """The part `index`, from 0 on, of `count`."""

    index: int
    count: int

    def part(self, items: Sequence[T]) -> Sequence[T]:
        """Returns every count-th item: neighbours, of one kind often, go to different processes."""
        return items[self.index :: self.count]

    @property
    def suffix(self) -> str:
        """What tells a shard's files from another's; "" where there is only one."""
        return f"-{self.index + 1}-of-{self.count}" if self.count > 1 else ""


def parse_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """Returns the shard of "3/16", of "slurm", or the whole for ""."""
    if not text:
        return Shard(0, 1)
    if text == "slurm":
        return _of_slurm(environment)
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(
            f"--shard={text}: must be a part and how many there are, 1/16 to 16/16, or slurm"
        )
    return Shard(int(match[1]) - 1, int(match[2]))


def _of_slurm(environment: Mapping[str, str]) -> Shard:
    """Returns the task of a job array, of srun's tasks, or of both, these within that."""

    def read(name: str, default: int | None) -> int:
        text = environment.get(name, "")
        if not text.isdecimal() and default is None:
            raise InputError(f"--shard=slurm: ${name} is {text!r}; pass --shard=PART/COUNT")
        return int(text) if text.isdecimal() else default or 0

    if not environment.keys() & {"SLURM_ARRAY_TASK_ID", "SLURM_PROCID"}:
        raise InputError(
            "--shard=slurm: neither $SLURM_ARRAY_TASK_ID nor $SLURM_PROCID is set; start it with "
            "srun or as a job array, or pass --shard=PART/COUNT"
        )
    index, count = 0, 1
    if "SLURM_ARRAY_TASK_ID" in environment:
        start, step = read("SLURM_ARRAY_TASK_MIN", None), read("SLURM_ARRAY_TASK_STEP", 1) or 1
        count = read("SLURM_ARRAY_TASK_COUNT", None)
        index, rest = divmod(read("SLURM_ARRAY_TASK_ID", None) - start, step)
        if rest or not 0 <= index < count:
            raise InputError(
                "--shard=slurm: the job array's numbers have gaps; use --array=0-15, for example"
            )
    tasks = read("SLURM_NTASKS", 1)
    return Shard(index * tasks + read("SLURM_PROCID", 0), count * tasks)
