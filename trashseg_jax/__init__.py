"""Semantic segmentation of trash photographs with JAX and Flax."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trashseg_jax.prediction.predictor import Prediction, Predictor

__all__ = ["Prediction", "Predictor"]


def __getattr__(name: str) -> Any:
    """Imports what `__all__` names when it is first used: the package itself stays light."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trashseg_jax.prediction import predictor

    return getattr(predictor, name)
