"""The peer of bench/convolutions.py: the convolutions of its network, each called alone."""

from collections.abc import Callable
from typing import Any

import torch

from bench.interleave import Trial
from bench.options import Options
from bench.torch_model import DEVICE, LAYOUTS, make_model, synchronize

Layer = tuple[torch.nn.Conv2d, torch.Tensor, torch.Tensor]  # it, an input, a gradient of its output


def forward(options: Options) -> Trial:
    def convolve(layer: Layer) -> None:
        module, x, _ = layer
        module(x)

    return run_alone(options, convolve)


def input_gradients(options: Options) -> Trial:
    """Of all layers but the first, whose input is the image."""
    return run_alone(options, lambda layer: differentiate(layer, of_input=True), skip=1)


def kernel_gradients(options: Options) -> Trial:
    return run_alone(options, lambda layer: differentiate(layer, of_input=False))


def run_alone(options: Options, call: Callable[[Layer], None], *, skip: int = 0) -> Trial:
    layers = record_layers(options)[skip:]

    @torch.inference_mode()
    def run(count: int) -> None:
        for _ in range(count):
            for layer in layers:
                call(layer)
        synchronize()

    return Trial(run, options.batch)


def differentiate(layer: Layer, *, of_input: bool) -> None:
    module, x, gradient = layer
    torch.ops.aten.convolution_backward(
        gradient,
        x,
        module.weight,
        None,
        module.stride,
        module.padding,
        module.dilation,
        False,  # not transposed
        [0, 0],
        module.groups,
        [of_input, not of_input, False],
    )


def record_layers(options: Options) -> list[Layer]:
    """Returns the network's convolutions in the order in which a forward pass calls them."""
    model = make_model(options).train()
    dtype = getattr(torch, options.dtype)
    layers: list[Layer] = []

    def record(module: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        layers.append((module, inputs[0].detach(), torch.randn_like(output)))

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.bias = None
            module.register_forward_hook(record)
    shape = (options.batch, 3, options.size, options.size)
    image = torch.randn(shape, device=DEVICE).contiguous(memory_format=LAYOUTS[options.layout])
    with torch.no_grad():
        model.to(dtype)(image.to(dtype))
    for module, *_ in layers:
        module._forward_hooks.clear()
    return layers
