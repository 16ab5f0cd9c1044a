"""What the subjects of scripts/benchmark.py are told."""

import dataclasses
from pathlib import Path

NUM_CLASSES = 11


@dataclasses.dataclass(frozen=True)
class Options:
    size: int  # pixels of an image's side
    batch: int
    dtype: str  # float32 or bfloat16
    encoder: str  # of models/smp_names.py's SMP_ENCODERS
    data_dir: Path | None  # photographs for `input` and `crf`; None: rendered scenes
    workers: int  # processes of those two; the machine's cores
    layout: str = "channels_last"  # of the peer's convolutions; or contiguous: NCHW
