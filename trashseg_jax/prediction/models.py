"""What predicts: the models of runs' or models' folders, and the segmenter of one or several."""

from collections.abc import Sequence
from pathlib import Path

from trashseg_jax import inference, model_folder
from trashseg_jax.configs.ranges import RANGES
from trashseg_jax.errors import InputError
from trashseg_jax.model_description import holds_model
from trashseg_jax.model_folder import Model

LATEST = "latest"


def load_all(folders: Sequence[Path], *, checkpoint: str, calibration: bool) -> list[Model]:
    """Returns the models of several folders; raises InputError where their classes differ.

    Without `calibration` they have none. A checkpoint that is named, other than the latest, must be
    one of a run's.
    """
    if checkpoint != LATEST and all(map(holds_model, folders)):
        raise InputError(
            f"checkpoint {checkpoint!r}: --model={folders[0]} is a model's folder, which has one "
            "set of weights; leave out --checkpoint, or name the run"
        )
    if len(folders) == 1:
        return [load(folders[0], checkpoint=checkpoint, calibration=calibration)]
    from trashseg_jax import scored_models  # late: a single model starts without it

    scored_models.check_named_once("model", folders)
    models = [load(one, checkpoint=checkpoint, calibration=calibration) for one in folders]
    classes = {folder: model.classes for folder, model in zip(folders, models, strict=True)}
    scored_models.check_classes(classes)
    return models


def load(folder: Path, *, checkpoint: str, calibration: bool) -> Model:
    """Returns the model of a run's folder, of the checkpoint named, or of a model's folder."""
    if holds_model(folder):
        return model_folder.read(folder, calibrated=calibration)
    # Imported late: a model's folder needs nothing that restores a training.
    from trashseg_jax import model_sources

    return model_sources.load(folder, checkpoint=checkpoint, calibration=calibration)


def make_segmenter(
    model: Model,
    *others: Model,
    scale: str,
    tile_scale: float,
    tta: tuple[str, ...],
    batch_size: int,
    keep_probs: bool,
) -> inference.Segmenter:
    """Returns what segments with a model, or with the mean of several.

    Raises InputError for options out of their ranges, or at odds with each other.
    """
    rule = RANGES["eval.tile_scale"]
    if not rule.holds(tile_scale):
        raise InputError(f"tile_scale={tile_scale}: must be {rule.says}")
    own = inference.member_of(model)
    return inference.Segmenter(
        own.model,
        own.variables,
        normalize=own.normalize,
        num_classes=len(model.classes),
        image_size=own.image_size,
        scale=scale,
        tile_scale=tile_scale,
        tta=tta,
        batch_size=batch_size,
        keep_probs=keep_probs,
        others=[inference.member_of(other) for other in others],
        calibration=own.calibration,
    )
