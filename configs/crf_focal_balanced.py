"""Focal loss, balanced class weights (alpha), predictions refined by a dense CRF at the end."""

from trashseg_jax.configs import focal_balanced


def get_config(dataset: str = "demo"):
    config = focal_balanced.get_config(dataset)
    config.crf.enabled = True
    return config
