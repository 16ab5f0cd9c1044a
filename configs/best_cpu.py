"""What two CPU cores can be taught of real trash in about an hour; see docs/experiments.md."""

from trashseg_jax.configs import default


def get_config(dataset: str = "aistage"):
    config = default.get_config(dataset)
    config.data.image_size = 256
    config.data.normalize = "inception"
    config.data.sampling.name = "repeat_factor"
    config.data.augment.update({"object_crops": 0.5, "rotation": 10.0})
    config.model.encoder = "efficientnet_lite0"
    config.model.pretrained = "package:efficientnet-lite0"
    config.model.decoder_features = (128, 64, 48, 32, 16)
    config.model.dtype = "float32"  # bfloat16 is no faster on CPUs
    config.loss.region = "dice"
    config.optimizer.encoder_rate = 0.5
    config.train.update({"epochs": 0.0, "steps": 4200, "batch_size": 8, "ema_decay": 0.998})
    config.train.image_scales = (0.75, 1.0)
    config.train.update({"eval_every": 700, "checkpoint_every": 350})
    return config
