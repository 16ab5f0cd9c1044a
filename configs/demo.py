"""The demo as a newcomer should first see it: published weights, and a loss that counts regions."""

from trashseg_jax.configs import default


def get_config(dataset: str = "demo"):
    config = default.get_config(dataset)
    config.data.image_size = 128
    config.data.normalize = "inception"
    config.data.sampling.name = "repeat_factor"
    config.model.update({"encoder": "efficientnet_lite0", "width": 64})
    config.model.pretrained = "package:efficientnet-lite0"
    config.model.decoder_features = (96, 64, 48, 32, 16)
    config.model.dtype = "float32"  # bfloat16 is no faster on CPUs
    config.loss.region = "dice"
    config.optimizer.learning_rate = 2e-3
    config.train.update({"epochs": 0.0, "steps": 800, "batch_size": 8, "ema_decay": 0.99})
    config.train.update({"eval_every": 400, "checkpoint_every": 400})
    return config
