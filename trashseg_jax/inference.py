"""From photographs of any size to classes: a stand-in, "fit" only, one photograph at a time."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float16, UInt8
from PIL import Image

from trashseg_jax.errors import InputError


class Segmented(NamedTuple):
    """A photograph's classes, the probability of each pixel's class, and all if they are kept."""

    classes: UInt8[np.ndarray, "h w"]
    confidence: Float16[np.ndarray, "h w"]
    probs: Float16[np.ndarray, "h w k"] | None


class Segmenter:
    def __init__(
        self,
        model: Any,
        variables: Any,
        *,
        normalize: Any,
        num_classes: int,
        image_size: int,
        scale: str,
        tta: tuple[str, ...],
        batch_size: int,
        keep_probs: bool,
    ):
        if scale != "fit" or tta:
            raise InputError(f"--scale={scale}, --tta={','.join(tta)}: not in this version")
        del num_classes, batch_size
        self._variables, self._size, self._keep_probs = variables, image_size, keep_probs
        self._apply = jax.jit(lambda v, x: model.apply(v, normalize(x), train=False))

    def segment(self, images: Iterator[np.ndarray]) -> Iterator[Segmented]:
        for image in images:
            height, width = image.shape[:2]
            factor = self._size / max(height, width)
            h, w = max(1, round(height * factor)), max(1, round(width * factor))
            scaled = image
            if (h, w) != (height, width):
                scaled = np.asarray(
                    Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR)
                )
            padding = ((0, self._size - h), (0, self._size - w), (0, 0))
            logits: Any = self._apply(self._variables, np.pad(scaled, padding)[None])
            logits = jax.image.resize(
                logits[0, :h, :w], (height, width, logits.shape[-1]), "linear"
            )
            probs = np.asarray(jax.nn.softmax(logits), np.float16)
            classes = np.asarray(jnp.argmax(logits, -1), np.uint8)
            yield Segmented(classes, probs.max(-1), probs if self._keep_probs else None)
