"""Four simulated devices for all tests, and what several files share."""

import atexit
import gc
import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# Most of a test's time would be compilation: small programs need no optimised code.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=4"
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false"
)
# One cache for the session: the test processes, and the command lines they start, inherit it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    folder = tempfile.mkdtemp(prefix="trashseg-jax-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

from pathlib import Path

import jax.numpy as jnp
import pytest
import tiny_encoder  # noqa: F401 (adds "tiny" to the encoders)

from trashseg_jax import build
from trashseg_jax.configs import default
from trashseg_jax.data.demo import scenes
from trashseg_jax.models import encoders, unet

# What is here now stays; looking through it again and again, while programs are traced, would be
# a twelfth of the tests' time. The threshold is the commands' own (main.py).
gc.freeze()
gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session")
def tiny_model():
    """A U-Net of 4 to 32 features."""
    encoder = encoders.ENCODERS["tiny"](
        width=4,
        dtype=jnp.float32,
        output_stride=32,
        stem_pool="max",
        layer4="standard",
        multi_grid=(1,),
        remat=False,
        drop_path=0.0,
    )
    decoder = (8, 8, 8, 8, 8)
    return unet.UNet(encoder, 11, decoder, jnp.float32, dropout=0.0, hold_statistics=False)


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory) -> Path:
    """A rendered demo of 12 + 5 scenes of 64x64 pixels."""
    folder = tmp_path_factory.mktemp("scenes") / "demo"
    scenes.render_demo(folder, seed=0, num_train=12, num_val=5, size=64)
    return folder


@pytest.fixture(scope="session")
def tiny_config(demo_folder, tmp_path_factory):
    """A function that returns the config of a run of seconds on `demo_folder`."""
    cache = tmp_path_factory.mktemp("cache")

    def make():
        config = default.get_config("aistage")
        config.data.dir = str(demo_folder)
        config.data.cache_dir = str(cache)
        config.data.image_size = 32
        config.model.update(
            {
                "encoder": "tiny",
                "width": 4,
                "decoder_features": (8, 8, 8, 8, 8),
                "dtype": "float32",
            }
        )
        config.data.sampling.name = "class_balanced"
        config.loss.update({"name": "focal", "alpha": "annotation_ratio", "region": "dice"})
        config.optimizer.warmup_steps = 2
        config.train.update(
            {"steps": 4, "epochs": 0.0, "batch_size": 4, "log_every": 1, "ema_decay": 0.5}
        )
        config.train.update({"eval_every": 2, "checkpoint_every": 2})
        config.eval.batch_size = 4
        return config

    return make


@pytest.fixture(scope="session")
def prepared(tiny_config):
    """`demo_folder`, prepared."""
    return build.build_data(tiny_config())
