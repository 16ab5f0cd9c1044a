"""The recipe of best_cpu.py for a GPU: 512x512 pixels, a larger encoder. Not tried to its end."""

from trashseg_jax.configs import best_cpu


def get_config(dataset: str = "aistage"):
    config = best_cpu.get_config(dataset)
    config.data.image_size = 512
    config.model.encoder = "efficientnet_lite2"
    config.model.pretrained = "package:efficientnet-lite2"
    config.model.decoder_features = (256, 128, 64, 32, 16)
    config.model.dtype = "bfloat16"
    config.train.update({"steps": 20000, "batch_size": 16, "ema_decay": 0.999})
    config.train.update({"eval_every": 2000, "checkpoint_every": 2000})
    return config
