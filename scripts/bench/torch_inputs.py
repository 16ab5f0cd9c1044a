"""The peer of bench/inputs.py: DataLoader, pycocotools, OpenCV and albumentations."""

import itertools
from pathlib import Path
from typing import Any

import albumentations
import cv2
import numpy as np
import torch
from pycocotools.coco import COCO

from bench import photographs
from bench.interleave import Trial
from bench.options import Options


class Photographs(torch.utils.data.Dataset):
    """Decodes an image, paints its polygons, the large first, and augments both."""

    def __init__(self, folder: Path, size: int):
        self.folder = folder
        self.coco = COCO(folder / "train.json")
        self.ids = self.coco.getImgIds()
        self.augment = albumentations.Compose(
            [
                albumentations.RandomResizedCrop(
                    (size, size), scale=(0.25, 1), ratio=(0.75, 4 / 3)
                ),
                albumentations.HorizontalFlip(p=0.5),
                albumentations.ColorJitter(0.2, 0.2, 0.2, hue=0, p=1),
            ]
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        info = self.coco.imgs[self.ids[index]]
        image = cv2.cvtColor(cv2.imread(str(self.folder / info["file_name"])), cv2.COLOR_BGR2RGB)
        label = np.zeros(image.shape[:2], np.uint8)
        for annotation in sorted(self.coco.imgToAnns[info["id"]], key=lambda a: -a["area"]):
            label[self.coco.annToMask(annotation) == 1] = annotation["category_id"]
        augmented: Any = self.augment(image=image, mask=label)
        return augmented["image"], augmented["mask"]


def load(options: Options) -> Trial:
    """Batches on the host, from one endless stream: no worker waits for an epoch's last image."""
    dataset = Photographs(photographs.folder(options), options.size)
    loader = torch.utils.data.DataLoader(
        dataset,
        options.batch,
        sampler=torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=10**9),
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
        worker_init_fn=one_thread,
    )
    batches, count = iter(loader), photographs.batches_a_repetition(options)

    def run(repetitions: int) -> None:
        for _ in itertools.islice(batches, repetitions * count):
            pass

    return Trial(run, count * options.batch)


def one_thread(worker: int) -> None:
    """Workers share the cores already."""
    del worker
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
