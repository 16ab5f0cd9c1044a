"""As configs/focal.py, rare classes weighing more: the reference's third experiment."""

from trashseg_jax.configs import default


def get_config(dataset: str = "demo"):
    config = default.get_config(dataset)
    config.loss.name = "focal"
    config.loss.gamma = 2.0
    config.loss.alpha = "annotation_ratio"
    return config
