"""U-Net with an atrous block in place of the stem's pooling: the dilated experiment as titled.

As the reference ran it, with a dilated layer4 and the pooling where it was, it is
--config=configs/reference.py --config.model.layer4=reference_dilated. See docs/encoders.md.
"""

from trashseg_jax.configs import reference


def get_config(dataset: str = "demo"):
    config = reference.get_config(dataset)
    config.model.stem_pool = "atrous"
    config.model.output_stride = 16  # with the pooling gone, no stage need be dilated for it
    return config
