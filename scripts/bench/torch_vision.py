"""Imports segmentation_models_pytorch beside a torchvision that was built for another PyTorch.

torchvision's compiled operators then cannot be loaded, and declaring two that it looks for is
enough: the U-Net uses none of them.
"""

from typing import Any

import torch


def import_smp() -> Any:
    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # operator torchvision::nms does not exist
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _libraries.append(library)
    import segmentation_models_pytorch as smp

    return smp


_libraries: list[Any] = []  # a library's declarations go when it goes
