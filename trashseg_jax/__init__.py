"""Semantic segmentation of trash photographs with JAX and Flax."""
