"""The card of a model's folder: what it is, how good, where weak, how to use it."""

import json
from typing import Any

from trashseg_jax.model_folder import Model
from trashseg_jax.models.smp_names import smp_call, smp_lacks
from trashseg_jax.refine.calibration import Calibration
from trashseg_jax.report.table import format_number

WEAKEST = 3  # classes that are named as the least well found
# What of a training's options makes its recipe, in the order of the table.
RECIPE = (
    "recipe",
    "model.pretrained",
    "model.init",
    "train.steps",
    "train.epochs",
    "train.batch_size",
    "train.ema_decay",
    "optimizer",
    "loss",
    "data.sampling",
    "data.augment",
    "seed",
)


def format_card(model: Model, *, name: str, onnx: bool) -> str:
    """Returns README.md in Markdown, with the front matter that model hubs read."""
    parts = [
        front_matter(model, name=name, onnx=onnx),
        f"# {name}\n\n{_introduction(model)}",
        f"## Figures\n\n{_figures(model)}",
        f"## Data and recipe\n\n{_recipe(model)}",
        f"## How to use it\n\n{_use(model, onnx=onnx)}",
        f"## Licence\n\n{LICENCE}",
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(model: Model, *, name: str, onnx: bool) -> str:
    """Returns the YAML between two lines of dashes; json's texts and lists are YAML's too."""
    tags = ["semantic-segmentation", "unet", model.architecture["encoder"], "trash", "litter"]
    tags += ["jax", "flax", *(["onnx"] if onnx else [])]
    lines = [
        "library_name: trashseg_jax",
        "license: other  # to be chosen, see the end of this card",
        "pipeline_tag: image-segmentation",
        f"tags: {json.dumps(tags)}",
        *([] if model.figures is None else _model_index(model.figures, name)),
    ]
    return "\n".join(["---", *lines, "---"])


def _model_index(figures: dict[str, Any], name: str) -> list[str]:
    dataset = json.dumps(figures["dataset"], ensure_ascii=False)
    lines = [
        "model-index:",
        f"- name: {json.dumps(name, ensure_ascii=False)}",
        "  results:",
        "  - task: {type: image-segmentation, name: Semantic segmentation}",
        f"    dataset: {{type: {dataset}, name: {dataset}, split: {figures['split']}}}",
        "    metrics:",
    ]
    for kind, key, said in (
        ("mean_iou", "miou", "mIoU"),
        ("accuracy", "pixel_accuracy", "Pixel accuracy"),
    ):
        if figures[key] is not None:
            lines.append(f"    - {{type: {kind}, name: {said}, value: {figures[key]:.4f}}}")
    return lines


def _introduction(model: Model) -> str:
    classes = ", ".join(model.classes)
    return (
        f"A U-Net on a {model.architecture['encoder']} encoder that gives each pixel of a "
        f"photograph one of {len(model.classes)} classes: {classes}. It was written by "
        "trashseg_jax; `config.json` has all that is needed to build and feed it."
    )


def _figures(model: Model) -> str:
    figures = model.figures
    if figures is None:
        return (
            "These weights have not been scored, as far as this folder knows: judge them on "
            "photographs of your own before you rely on them."
        )
    rows = ["| class | IoU | share of the pixels |", "|---|---|---|"]
    for name, value in figures["iou"].items():
        shown = "absent" if value is None else f"{value:.4f}"
        rows.append(f"| {_cell(name)} | {shown} | {figures['pixel_share'][name]:.2%} |")
    return f"{_summary(figures)}\n\n" + "\n".join(rows) + f"\n\n{_weaknesses(figures)}"


def _summary(figures: dict[str, Any]) -> str:
    interval = figures["miou_interval"]
    between = (
        " (95 % of resamples of the images: {:.4f} to {:.4f})".format(*interval) if interval else ""
    )
    return (
        f"On the {figures['num_images']} images of {figures['dataset']}/{figures['split']}, after "
        f"step {figures['step']}: mIoU **{format_number(figures['miou'])}**{between}, pixel "
        f"accuracy {format_number(figures['pixel_accuracy'])}, mean Dice "
        f"{format_number(figures['mean_dice'])}, mIoU per image "
        f"{format_number(figures['miou_per_image'])}. A class that occurs and is never hit is 0 in "
        "the mean; one in neither truth nor prediction is left out of it."
    )


def _weaknesses(figures: dict[str, Any]) -> str:
    shares = figures["pixel_share"]
    scores = {name: value for name, value in figures["iou"].items() if shares[name]}
    missed = [f"{name} ({shares[name]:.2%} of the pixels)" for name in scores if not scores[name]]
    found = sorted((value, name) for name, value in scores.items() if value)
    unseen = [name for name in shares if not shares[name]]
    lines = ["What it is weak at:", ""]
    if missed:
        lines.append(f"- never hit: {', '.join(missed)}")
    if found:
        lowest = ", ".join(f"{name} ({value:.4f})" for value, name in found[:WEAKEST])
        lines.append(f"- lowest IoU of those that it hits: {lowest}")
    if unseen:
        lines.append(f"- not in the truth of this split, so unknown: {', '.join(unseen)}")
    lines.append("- photographs unlike those of its data, which nothing here measures")
    return "\n".join(lines)


def _recipe(model: Model) -> str:
    if model.training is None:
        return "Not known: the weights were converted from a file that does not tell."
    if "soup" in model.training:
        return _soup(model)
    options, averaged = model.training["options"], model.training["averaged"]
    weights = "averaged over the training's steps" if averaged else "as they were trained"
    mixed_in = options["data"].get("mix")  # an older model's file lacks it
    rows = [
        "| option | value |",
        "|---|---|",
        f"| data set | {_cell(options['data']['name'])}, class map "
        f"{_cell(options['data']['class_map'])} |",
        *([f"| mixed in, with a share each | {_cell(mixed_in)} |"] if mixed_in else []),
        f"| image size | {model.image_size} |",
        f"| normalisation | {model.normalize} |",
        f"| weights | after step {model.training['step']}, {weights} |",
    ]
    for key in RECIPE:
        value = options
        for part in key.split("."):
            value = value[part]
        rows.append(f"| `{key}` | {_cell(_shown(value))} |")
    return "\n".join(rows)


def _soup(model: Model) -> str:
    parts = (model.training or {})["soup"]
    lines = [
        f"The mean of the weights, and of BatchNorm's statistics, of {len(parts)} models (a model "
        "soup, Wortsman et al. 2022), whose options are in `config.json`:",
        "",
    ]
    for part in parts:
        step = "" if part.get("step") is None else f" after step {part['step']}"
        lines.append(f"- {_cell(part.get('run', 'another soup'))}{step}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_shown, value))})"
    return "none" if value == "" else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _use(model: Model, *, onnx: bool) -> str:
    multiple = model.architecture["output_stride"]
    parts = [
        f"The network takes RGB photographs whose longer side is scaled to {model.image_size} "
        f"pixels, padded with black below and right to multiples of {multiple}, normalised by the "
        "mean and std in `config.json`. In this folder:",
        _block(_PHOTO.format(size=model.image_size, multiple=multiple)),
        "With JAX (`pip install trashseg_jax`):",
        _block(_JAX),
        *_use_torch(model),
        *(["With ONNX Runtime, normalisation inside:", _block(_ONNX)] if onnx else []),
        *([_say_calibrated(model.calibration)] if model.calibration else []),
        "A network can be trained on with `--config.model.init=FOLDER`.",
    ]
    return "\n\n".join(parts)


def _say_calibrated(fitted: Calibration) -> str:
    return (
        "Its probabilities are calibrated where `trashseg predict` and `trashseg_jax.Predictor` "
        f"use it: by what was fitted on {fitted.num_images} images of {fitted.dataset}/"
        f"{fitted.split}, in `config.json`. The code above gives the network's own logits and "
        "classes; `model.calibration.apply(logits)` makes of them those whose softmax are the "
        "probabilities."
    )


def _use_torch(model: Model) -> list[str]:
    if lacks := smp_lacks(model.architecture):
        return [
            "segmentation_models_pytorch has no such network "
            f"({', '.join(lacks)}). The weights bear the names that it would give them, and where "
            "its Unet takes them it computes something else."
        ]
    call = smp_call(model.architecture, num_classes=len(model.classes))
    return [
        "With PyTorch and segmentation_models_pytorch, which knows these weights' names:",
        _block(_TORCH.format(call=call)),
    ]


def _block(code: str) -> str:
    return f"```python\n{code.strip()}\n```"


_PHOTO = """
import numpy as np
from PIL import Image, ImageOps

photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
scale = {size} / max(photo.size)
width, height = (max(1, round(side * scale)) for side in photo.size)
scaled = np.array(photo.resize((width, height), Image.Resampling.BILINEAR))
image = np.pad(scaled, ((0, -height % {multiple}), (0, -width % {multiple}), (0, 0)))[None]
"""
_JAX = """
from pathlib import Path

from trashseg_jax import model_folder
from trashseg_jax.data.augment import make_normalize

model = model_folder.read(Path("."))
pixels = make_normalize(model.normalize)(image)
logits = model.network.apply(model.variables, pixels, train=False)  # n h w classes
classes = np.argmax(logits, -1)[0, :height, :width]
"""
_TORCH = """
import json

import safetensors.torch
import segmentation_models_pytorch as smp
import torch

network = {call}
network.load_state_dict(safetensors.torch.load_file("model.safetensors"))
network.eval()
statistics = json.load(open("config.json"))["normalization"]
pixels = (image / 255 - statistics["mean"]) / statistics["std"]
with torch.no_grad():
    logits = network(torch.tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2))  # n classes h w
classes = logits.argmax(1)[0, :height, :width].numpy()
"""
_ONNX = """
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
classes, probabilities = session.run(None, {"image": image})
classes = classes[0, :height, :width]
"""
LICENCE = (
    "Not chosen yet: whoever hands this model on chooses one, here and in `license` above, that "
    "suits the photographs and the weights it was trained from."
)
