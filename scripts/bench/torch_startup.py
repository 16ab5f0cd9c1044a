"""segmentation_models_pytorch's first training step, or first mask, and nothing else."""

import contextlib
import io
import json
import sys

import numpy as np
import torch
from PIL import Image

from bench.options import NUM_CLASSES, Options
from bench.torch_vision import import_smp

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    what, told = sys.argv[1:]
    options = Options(**json.loads(told))
    half = options.dtype == "bfloat16"
    with torch.autocast(DEVICE, torch.bfloat16) if half else contextlib.nullcontext():
        {"train": train, "predict": predict}[what](options)


def make_model(options: Options) -> torch.nn.Module:
    model = import_smp().Unet(options.encoder, encoder_weights=None, classes=NUM_CLASSES)
    return model.to(DEVICE, memory_format=torch.channels_last)


def train(options: Options) -> None:
    model = make_model(options).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=1e-2, fused=True)
    forward = torch.compile(model) if DEVICE == "cuda" else model
    shape = (options.batch, options.size, options.size)
    image = torch.rand((options.batch, 3, *shape[1:]), device=DEVICE)
    image = image.contiguous(memory_format=torch.channels_last)
    label = torch.randint(NUM_CLASSES, shape, device=DEVICE)
    loss = torch.nn.functional.cross_entropy(forward(image).float(), label)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    print("done", loss.item(), flush=True)  # waits for the device


@torch.inference_mode()
def predict(options: Options) -> None:
    """One image to a mask as PNG, in memory; weights as they are initialised."""
    model = make_model(options).eval()
    image = torch.rand((1, 3, options.size, options.size), device=DEVICE)
    logits = model(image.contiguous(memory_format=torch.channels_last))
    mask = logits.argmax(1)[0].to(torch.uint8).cpu().numpy()
    Image.fromarray(np.asarray(mask)).save(file := io.BytesIO(), "PNG")
    print("done", file.tell(), flush=True)


if __name__ == "__main__":
    main()
