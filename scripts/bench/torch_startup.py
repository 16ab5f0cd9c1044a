"""segmentation_models_pytorch's first training step on random data, and nothing else."""

import contextlib
import json
import sys

import torch

from bench.options import NUM_CLASSES, Options
from bench.torch_vision import import_smp


def main() -> None:
    options = Options(**json.loads(sys.argv[1]))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = import_smp().Unet(options.encoder, encoder_weights=None, classes=NUM_CLASSES)
    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=1e-2, fused=True)
    forward = torch.compile(model) if device == "cuda" else model
    shape = (options.batch, options.size, options.size)
    image = torch.rand((options.batch, 3, *shape[1:]), device=device)
    image = image.contiguous(memory_format=torch.channels_last)
    label = torch.randint(NUM_CLASSES, shape, device=device)
    half = options.dtype == "bfloat16"
    with torch.autocast(device, torch.bfloat16) if half else contextlib.nullcontext():
        logits = forward(image)
    loss = torch.nn.functional.cross_entropy(logits.float(), label)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    print("loss", loss.item(), flush=True)  # waits for the device


if __name__ == "__main__":
    main()
