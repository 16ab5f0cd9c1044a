"""Models to hand on, out of a run or of a state_dict of segmentation_models_pytorch."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from trashseg_jax import build, evaluate, model_folder, settings
from trashseg_jax.configs import default
from trashseg_jax.data import mix, taxonomy
from trashseg_jax.data.augment import STATISTICS
from trashseg_jax.devices import sharding
from trashseg_jax.errors import InputError
from trashseg_jax.model_description import MODEL_RULES, holds_model
from trashseg_jax.model_folder import Model
from trashseg_jax.models import pretrained, smp_names
from trashseg_jax.models.unet import UNet
from trashseg_jax.refine.calibration import Calibration
from trashseg_jax.run.identity import BESIDE, differences, identify_classes, read_identity
from trashseg_jax.settings import Config
from trashseg_jax.steps import TrainState

# Of metrics.json, what is said of the weights.
FIGURES = (
    "dataset",
    "split",
    "step",
    "num_images",
    "miou",
    "miou_interval",
    "iou",
    "miou_common",
    "miou_per_image",
    "pixel_accuracy",
    "mean_dice",
    "pixel_share",
    "confusion",
)


def load(folder: Path, *, checkpoint: str, calibration: bool) -> Model:
    """Returns the model of a folder; of a run's, the one of that checkpoint, without figures.

    Without `calibration` it has none.
    """
    if holds_model(folder):
        return model_folder.read(folder, calibrated=calibration)
    config: Any = settings.read_config(folder, defaults=default.get_config)
    config.eval.checkpoint = checkpoint
    config.eval.calibration = calibration
    return trained_model(config, folder)


def model_of_run(config: Config, workdir: Path) -> Model:
    """Returns the model of the checkpoint that `eval.checkpoint` names, with its figures if any."""
    model = trained_model(config, workdir)
    step = (model.training or {})["step"]
    figures = find_figures(workdir, step=step, calibration=model.calibration)
    if figures is None:
        print(
            f"{workdir}: has no figures of step {step}, so the card has none; to have them, score "
            f"it with --mode=evaluate --config=run:{workdir} "
            f"--config.eval.checkpoint={config.eval.checkpoint} and export again"
        )
    return dataclasses.replace(model, figures=figures)


def trained_model(config: Config, workdir: Path) -> Model:
    """Returns the model of the checkpoint that `eval.checkpoint` names, as it is evaluated.

    With `eval.calibration` it has that of the run, if there is one.
    """
    network, state, identity = restore_run(config, workdir)
    classes, step = tuple(identity["classes"]), int(state.step)
    return Model(
        network=network,
        variables=jax.tree.map(np.asarray, state.eval_variables()),
        architecture={
            key.removeprefix("model."): model_folder.as_tuple(identity[key]) for key in MODEL_RULES
        },
        dtype=config.model.dtype,
        classes=classes,
        categories=identity["categories"],
        palette=taxonomy.palette(len(classes)),
        normalize=identity["data.normalize"],
        image_size=config.data.image_size,
        figures=None,
        training={
            "run": workdir.resolve().name,
            "step": step,
            "averaged": bool(state.ema),
            "options": options_to_hand_on(config),
        },
        calibration=evaluate.find_calibration(config, workdir, classes, step=step),
    )


def restore_run(config: Config, workdir: Path) -> tuple[UNet, TrainState, dict[str, Any]]:
    """Returns the network of a run, the state that `eval.checkpoint` names, and its identity."""
    identity = read_identity(workdir / "config.json", class_map=config.data.class_map)
    network = build.build_model(config, num_classes=len(identity["classes"]))
    tx, _ = build.build_optimizer(config, steps=1)
    state = evaluate.restore(config, workdir, network, tx, sharding.make_mesh())
    return network, state, identity


def average_weights(models: Mapping[Path, Model]) -> Model:
    """Returns the model whose weights are the mean of others'.

    That is the uniform soup of "Model soups" (Wortsman et al. 2022). BatchNorm's statistics are
    averaged too. Raises InputError where the models are not alike.
    """
    (first_folder, first), *others = models.items()
    for folder, other in others:
        _check_alike(first_folder, first, folder, other)
    trees = [model.variables for model in models.values()]
    parts = [
        model.training or {"run": folder.resolve().name, "step": None}
        for folder, model in models.items()
    ]
    return dataclasses.replace(
        first,
        variables=jax.tree.map(_mean, *trees),
        figures=None,
        training={"soup": parts},
        calibration=None,
    )


def _mean(*arrays: np.ndarray) -> np.ndarray:
    return np.asarray(np.mean(arrays, axis=0, dtype=np.float64), np.float32)


def _check_alike(first_folder: Path, first: Model, folder: Path, other: Model) -> None:
    sizes = {"image_size": first.image_size}, {"image_size": other.image_size}
    different = differences(first.identity | sizes[0], other.identity | sizes[1], says=BESIDE)
    if different:
        raise InputError(
            f"--soup={folder}: is another model than that of {first_folder}: "
            f"{'; '.join(different)}; average models of one architecture and the same classes"
        )


def find_figures(
    workdir: Path, *, step: int, calibration: Calibration | None
) -> dict[str, Any] | None:
    """Returns the figures of that step's weights, with that calibration; None if there are none."""
    wanted = calibration and calibration.describe()
    for folder in (workdir, workdir / "evaluations" / f"val-{step}"):
        path = folder / "metrics.json"
        figures = json.loads(path.read_text()) if path.exists() else {}
        if figures.get("step") == step and figures.get("calibration") == wanted:
            return {key: figures[key] for key in FIGURES}
    return None


def options_to_hand_on(config: Config) -> dict[str, Any]:
    """Returns the run's options as json has them, without folders of this machine."""
    options = json.loads(json.dumps(config.to_dict()))
    del options["recipes"]
    mixed_in = mix.without_folders(config.data.mix)
    options = _without_folders(options)
    options["data"]["mix"] = mixed_in
    return options


def _without_folders(value: Any) -> Any:
    """Keeps the last name of a path, and a hub id, which says whose it is."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, str) and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", value):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value


def model_of_smp(
    path: Path, *, encoder: str, class_names: tuple[str, ...], normalize: str, image_size: int
) -> Model:
    """Returns the model of an smp.Unet's state_dict; a single class name is that of a class map."""
    if encoder not in smp_names.SMP_ENCODERS:
        known = ", ".join(smp_names.SMP_ENCODERS)
        raise InputError(f"--encoder={encoder}: must be one of {known}")
    if normalize not in STATISTICS:
        raise InputError(f"--normalize={normalize}: must be one of {', '.join(STATISTICS)}")
    stride = smp_names.SMP_OPTIONS["output_stride"]
    if image_size < stride or image_size % stride:
        raise InputError(f"--image_size={image_size}: must be a multiple of {stride}")
    classes, categories = read_classes(class_names)
    weights = smp_names.own_weights(str(path), pretrained.read_file(path))
    outputs = len(weights[f"{smp_names.HEAD}.weight"])
    if outputs != len(classes):
        raise InputError(
            f"--classes: has {len(classes)} names, and the head in {path} {outputs} outputs; name "
            "each, in their order"
        )
    architecture = smp_names.read_architecture(weights, encoder=encoder)
    network = model_folder.make_network(architecture, num_classes=outputs, dtype="float32")
    shapes = model_folder.variable_shapes(network)
    return Model(
        network=network,
        variables=smp_names.from_state_dict(str(path), weights, shapes, encoder=network.encoder),
        architecture=architecture,
        dtype="float32",
        classes=classes,
        categories=categories,
        palette=taxonomy.palette(outputs),
        normalize=normalize,
        image_size=image_size,
        figures=None,
        training=None,
        calibration=None,
    )


def read_classes(names: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, str] | None]:
    """Returns class names; and the class of each category, where one name is a class map's."""
    if len(names) == 1:
        identity = identify_classes(taxonomy.load_class_map(names[0]))
        return tuple(identity["classes"]), identity["categories"]
    stripped = tuple(name.strip() for name in names)
    if len(set(stripped)) < len(stripped) or not all(stripped):
        raise InputError(f"--classes={','.join(names)}: must be different names")
    return stripped, None
