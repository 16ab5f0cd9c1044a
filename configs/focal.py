"""As configs/reference.py, with the focal loss: the reference's second experiment."""

from trashseg_jax.configs import default


def get_config(dataset: str = "demo"):
    config = default.get_config(dataset)
    config.loss.name = "focal"
    config.loss.gamma = 2.0
    return config
