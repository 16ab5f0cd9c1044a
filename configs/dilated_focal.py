"""An atrous block in place of the stem's pooling, and focal loss."""

from trashseg_jax.configs import dilated


def get_config(dataset: str = "demo"):
    config = dilated.get_config(dataset)
    config.loss.name = "focal"
    config.loss.gamma = 2.0
    return config
