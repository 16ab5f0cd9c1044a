"""TensorFlow as this project uses it: on the host alone, and silent.

Import `tf` from here, never from tensorflow: the variables below are read while it is imported.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# On processors with AVX-512, TensorFlow would switch oneDNN on and say so on standard error before
# it has read its log level. Nothing here runs an operation that oneDNN has a kernel for.
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
# It would import Keras 3, with scikit-learn where that is installed; nothing here uses either.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import tensorflow as tf

tf.config.set_visible_devices([], "GPU")  # the accelerator is JAX's alone

__all__ = ["tf"]
