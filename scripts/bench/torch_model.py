"""The peer of bench/model.py: segmentation_models_pytorch, run as PyTorch is run fastest.

On CPUs: all cores, channels_last unless the options say otherwise. On GPUs: torch.compile, bfloat16
autocast and a fused optimizer besides. It does the same work on the same bytes: it normalises and
flips on the device.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bench.interleave import Trial
from bench.model import random_batch
from bench.options import NUM_CLASSES, Options
from bench.torch_vision import import_smp
from trashseg_jax.models.smp_names import SMP_ENCODERS

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def train(options: Options) -> Trial:
    """AdamW with the gradient's norm clipped to 1. It keeps no moving average, which ours does."""
    model = make_model(options).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=1e-2, fused=True)
    forward = make_forward(model, options)
    cross_entropy = torch.nn.CrossEntropyLoss(ignore_index=255)
    batch = random_batch(options)

    def run(count: int) -> None:
        for _ in range(count):
            image, label = to_device(batch["image"]), to_device(batch["label"]).long()
            flips = torch.rand(len(image), device=DEVICE) < 0.5
            image = torch.where(flips[:, None, None, None], image.flip(2), image)
            label = torch.where(flips[:, None, None], label.flip(2), label)
            loss = cross_entropy(forward(image).float(), label)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        synchronize()

    return Trial(run, options.batch)


def infer(options: Options) -> Trial:
    forward = make_forward(make_model(options).eval(), options)
    batch = random_batch(options)

    @torch.inference_mode()
    def run(count: int) -> None:
        for _ in range(count):
            forward(to_device(batch["image"])).argmax(1).to(torch.uint8).cpu()

    return Trial(run, options.batch)


def evaluate(options: Options) -> Trial:
    """Counts with smp.metrics.get_stats, as that library's own examples do."""
    smp = import_smp()
    forward = make_forward(make_model(options).eval(), options)
    batch = random_batch(options)

    @torch.inference_mode()
    def run(count: int) -> None:
        for _ in range(count):
            prediction = forward(to_device(batch["image"])).argmax(1)
            label = to_device(batch["label"]).long()
            stats = smp.metrics.get_stats(
                prediction, label, mode="multiclass", num_classes=NUM_CLASSES
            )
            [part.cpu() for part in stats]

    return Trial(run, options.batch)


def make_model(options: Options) -> torch.nn.Module:
    model = import_smp().Unet(
        SMP_ENCODERS[options.encoder], encoder_weights=None, classes=NUM_CLASSES
    )
    return model.to(DEVICE, memory_format=LAYOUTS[options.layout])


def make_forward(model: torch.nn.Module, options: Options) -> Callable[[Any], torch.Tensor]:
    """Returns uint8[b,h,w,3] on the device -> logits [b,k,h,w]."""
    mean = torch.tensor(MEAN, device=DEVICE) * 255
    std = torch.tensor(STD, device=DEVICE) * 255
    half = options.dtype == "bfloat16"

    def forward(image: torch.Tensor) -> torch.Tensor:
        # A permuted NHWC array is what channels_last means: there nothing is copied.
        image = ((image - mean) / std).permute(0, 3, 1, 2)
        image = image.contiguous(memory_format=LAYOUTS[options.layout])
        with torch.autocast(DEVICE, torch.bfloat16) if half else contextlib.nullcontext():
            return model(image)

    return torch.compile(forward) if DEVICE == "cuda" else forward


def to_device(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).to(DEVICE, non_blocking=True)


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
