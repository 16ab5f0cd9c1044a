"""The peer of bench/prediction.py: DataLoader, segmentation_models_pytorch and Pillow.

It writes the masks alone, as PNG with a palette, at the photographs' own size.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from bench import photographs
from bench.interleave import Trial
from bench.options import NUM_CLASSES, Options
from bench.torch_model import make_forward, make_model, to_device
from trashseg_jax.data import taxonomy

Sample = tuple[int, torch.Tensor]  # its place, uint8[s,s,3]


class Photographs(torch.utils.data.Dataset):
    """Decodes a photograph and scales its longer side to `side`; black fills up the square."""

    def __init__(self, files: list[Path], side: int):
        self.files, self.side = files, side

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        square = np.zeros((self.side, self.side, 3), np.uint8)
        with Image.open(self.files[index]) as image:
            width, height = scaled_size(image.size, self.side)
            scaled = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        square[:height, :width] = np.asarray(scaled)
        return index, torch.from_numpy(square)


def scaled_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    return round(size[0] * side / max(size)), round(size[1] * side / max(size))


def masks(options: Options) -> Trial:
    return predict(options, photographs.SQUARE)


def masks_phone(options: Options) -> Trial:
    return predict(options, photographs.PHONE)


def predict(options: Options, size: tuple[int, int]) -> Trial:
    """All photographs are of one `size`, so a batch's logits are scaled at once."""
    model = make_model(options).eval()
    model.load_state_dict(load_file(photographs.weights(options)))
    forward = make_forward(model, options)
    files = sorted(photographs.files(options, size).glob("*.jpg"))
    target = photographs.predicted("peer", size) / "masks"
    target.mkdir(parents=True, exist_ok=True)
    loader = torch.utils.data.DataLoader(
        Photographs(files, options.size),
        options.batch,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
        worker_init_fn=one_thread,
    )
    width, height = scaled_size(size, options.size)
    palette = taxonomy.palette(NUM_CLASSES).tobytes()

    @torch.inference_mode()
    def run(count: int) -> None:
        for _ in range(count):
            for places, images in loader:
                logits = forward(to_device(images.numpy())).float()[..., :height, :width]
                logits = torch.nn.functional.interpolate(
                    logits, size[::-1], mode="bilinear", align_corners=False
                )
                classes = logits.argmax(1).to(torch.uint8).cpu().numpy()
                for place, mask in zip(places.tolist(), classes, strict=True):
                    save(target / f"{files[place].stem}.png", mask, palette)

    return Trial(run, len(files))


def save(path: Path, mask: np.ndarray, palette: bytes) -> None:
    image = Image.fromarray(mask)
    image.putpalette(palette)
    image.save(path, compress_level=4)  # as ours


def one_thread(worker: int) -> None:
    """Workers share the cores already."""
    del worker
    torch.set_num_threads(1)
