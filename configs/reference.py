"""U-Net, ResNet-34, cross-entropy: the reference's first experiment.

--config=configs/reference.py is the demo; configs/reference.py:aistage, :taco, :coco or :masks
with --config.data.dir=FOLDER is real data.
"""

from trashseg_jax.configs import default


def get_config(dataset: str = "demo"):
    config = default.get_config(dataset)
    config.loss.name = "cross_entropy"
    return config
