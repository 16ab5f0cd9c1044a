"""An encoder of one block a stage with every part of the real ones: half of resnet18's programs.

`python tests/tiny_encoder.py trashseg_jax.main ...` is `python -m trashseg_jax.main ...` with it.
"""

import runpy
import sys
from functools import partial

from trashseg_jax.models import encoders, resnet

encoders.ENCODERS["tiny"] = partial(resnet.ResNet, (1, 1, 1, 1), resnet.BasicBlock)

if __name__ == "__main__":
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
