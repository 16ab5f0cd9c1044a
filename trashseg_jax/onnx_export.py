"""A model as an ONNX graph: photographs in, classes and probabilities out, normalisation inside.

Written node by node from the weights. Where a new encoder family is to be exported, it needs a
function in FEATURES.
"""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from onnx import (  # pyright: ignore[reportMissingImports]
    TensorProto,
    checker,
    helper,
    numpy_helper,
)

from trashseg_jax.data.augment import STATISTICS
from trashseg_jax.errors import InputError
from trashseg_jax.model_folder import Model
from trashseg_jax.models import efficientnet_lite, normalization, resnet, smp_names
from trashseg_jax.models.depthwise import same_padding
from trashseg_jax.models.pretrained import Weights

# Old enough for the runtimes of the last years; 18 is the first whose Pad takes axes.
OPSET, IR_VERSION = 18, 8


class Feature(NamedTuple):
    """A tensor n c h w of the graph, and how many pixels of the image one of its own spans."""

    name: str
    stride: int


class Graph:
    """Nodes and constants so far. A tensor is called what its node is."""

    def __init__(self, weights: Weights):
        self.weights = weights  # by segmentation_models_pytorch's names
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Adds a node; returns its output's name, `name` or else a new one."""
        name = name or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def constant(self, name: str, values: Any, dtype: type = np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def conv(
        self,
        x: str,
        module: str,
        norm: str = "",
        *,
        stride: int = 1,
        dilation: int = 1,
        same: bool = False,
        depthwise: bool = False,
        epsilon: float = normalization.EPSILON,
    ) -> str:
        """Adds a convolution that keeps the size but for its stride, the BatchNorm folded in.

        With `same` it is padded as `depthwise.same_padding` says, else alike on both sides.
        """
        kernel, bias = folded(self.weights, module, norm, epsilon)
        outputs, _, size, _ = kernel.shape
        before = after = dilation * (size // 2)
        if same:
            before, after = same_padding(size, stride=stride, dilation=dilation)
        return self.add(
            "Conv",
            x,
            self.constant(f"{module}.weight", kernel),
            self.constant(f"{module}.bias", bias),
            name=module,
            strides=[stride] * 2,
            dilations=[dilation] * 2,
            pads=[before] * 2 + [after] * 2,
            group=outputs if depthwise else 1,
        )

    def conv_relu(self, x: str, module: str, norm: str, **options: Any) -> str:
        return self.add("Relu", self.conv(x, module, norm, **options))


def folded(
    weights: Weights, module: str, norm: str, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns kernel and bias of a convolution and the BatchNorm behind it, if there is one."""
    kernel = weights[f"{module}.weight"].astype(np.float64)
    if not norm:
        return kernel, weights[f"{module}.bias"]
    names = ("weight", "bias", "running_mean", "running_var")
    scale, bias, mean, var = (weights[f"{norm}.{name}"].astype(np.float64) for name in names)
    gain = scale / np.sqrt(var + epsilon)
    return kernel * gain[:, None, None, None], bias - mean * gain


def make_onnx(model: Model) -> Any:
    """Returns the checked onnx.ModelProto of a model.

    Its input `image` is u8[n,h,w,3] of any size, padded inside as an evaluation pads: black, below
    and right, to a multiple of the output stride. Outputs: `classes` u8[n,h,w] and `probabilities`
    f32[n,h,w,k]. It computes in float32. Raises InputError for an encoder without a builder.
    """
    encoder = model.network.encoder
    if type(encoder) not in FEATURES:
        known = ", ".join(family.__name__ for family in FEATURES)
        raise InputError(
            f"model.encoder={model.architecture['encoder']!r}: the ONNX export lacks this encoder "
            f"({known} are there); leave --onnx out, or add it to trashseg_jax/onnx_export.py"
        )
    graph = Graph(smp_names.to_state_dict(model.variables, encoder=encoder))
    size = graph.add("Shape", "image", name="size", start=1, end=3)
    x = prepare(graph, model.normalize, size, multiple=encoder.output_stride)
    features = FEATURES[type(encoder)](graph, encoder, x)
    logits = decode(graph, features, blocks=len(model.network.decoder_features))
    finish(graph, logits, size)
    proto = wrap(graph, model)
    checker.check_model(proto, full_check=True)
    return proto


def prepare(graph: Graph, normalize: str, size: str, *, multiple: int) -> str:
    """Adds what turns u8[n,h,w,3] into padded, normalised n 3 h w."""
    pixels = graph.add("Cast", "image", to=TensorProto.FLOAT)
    pixels = graph.add("Transpose", pixels, perm=[0, 3, 1, 2])
    zeros = graph.constant("zeros", [0, 0], np.int64)
    stride = graph.constant("output_stride", [multiple] * 2, np.int64)
    missing = graph.add("Mod", graph.add("Sub", zeros, size), stride)
    pads = graph.add("Concat", zeros, missing, axis=0)
    axes = graph.constant("height_and_width", [2, 3], np.int64)
    pixels = graph.add("Pad", pixels, pads, graph.constant("black", 0), axes)
    mean, std = (np.reshape(values, (1, 3, 1, 1)) for values in STATISTICS[normalize])
    pixels = graph.add("Mul", pixels, graph.constant("gain", 1 / (255 * std)))
    return graph.add("Add", pixels, graph.constant("offset", -mean / std))


def decode(graph: Graph, features: list[Feature], *, blocks: int) -> str:
    """Adds U-Net's decoder and head; returns the logits' name."""
    *skips, (x, stride) = features
    for i in range(blocks):
        skip = skips.pop() if skips else None
        if skip is None or skip.stride != stride:
            x, stride = upsample(graph, x), stride // 2
        if skip is not None:
            x = graph.add("Concat", x, skip.name, axis=1)
        for part in ("conv1", "conv2"):
            module = f"decoder.blocks.{i}.{part}"
            x = graph.conv_relu(x, f"{module}.0", f"{module}.1")
    return graph.conv(x, smp_names.HEAD)


def upsample(graph: Graph, x: str) -> str:
    """Adds nearest up-sampling by two: each pixel becomes four."""
    scales = graph.constant(f"{x}.scales", [1, 1, 2, 2])
    options = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return graph.add("Resize", x, "", scales, mode="nearest", **options)


def finish(graph: Graph, logits: str, size: str) -> None:
    """Adds the outputs, without the padding."""
    logits = graph.add("Slice", logits, "zeros", size, "height_and_width")
    classes = graph.add("ArgMax", logits, axis=1, keepdims=0)
    graph.add("Cast", classes, name="classes", to=TensorProto.UINT8)
    probabilities = graph.add("Softmax", logits, axis=1)
    graph.add("Transpose", probabilities, name="probabilities", perm=[0, 2, 3, 1])


def wrap(graph: Graph, model: Model) -> Any:
    """Returns the graph as a file's content, with its inputs and outputs declared."""
    shape: list[Any] = ["n", "height", "width"]
    num_classes = len(model.classes)
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [*shape, 3])
    classes = helper.make_tensor_value_info("classes", TensorProto.UINT8, shape)
    probabilities = helper.make_tensor_value_info(
        "probabilities", TensorProto.FLOAT, [*shape, num_classes]
    )
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes, "trashseg_jax", [image], [classes, probabilities], graph.constants
        ),
        producer_name="trashseg_jax",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    described = {
        "classes": model.classes,
        "palette": model.palette.tolist(),
        "image_size": model.image_size,
    }
    helper.set_model_props(proto, {key: json.dumps(value) for key, value in described.items()})
    return proto


def resnet_features(graph: Graph, encoder: Any, x: str) -> list[Feature]:
    """Adds a ResNet's stem and stages, with the strides and dilations of its plan."""
    x = graph.conv_relu(x, "encoder.conv1", "encoder.bn1", stride=2)
    features, stride = [Feature(x, 2)], resnet.STEM_STRIDES[encoder.stem_pool]
    if encoder.stem_pool == "max":
        x = graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    elif encoder.stem_pool == "atrous":
        x = atrous_block(graph, "encoder.stem_atrous", x)
    for stage, plan in enumerate(encoder.plan(), 1):
        for i, (step, dilations) in enumerate(plan):
            x = resnet_block(graph, f"encoder.layer{stage}.{i}", x, step, dilations)
            stride *= step
        features.append(Feature(x, stride))
    return features


def resnet_block(graph: Graph, module: str, x: str, stride: int, dilations: tuple[int, int]) -> str:
    """Adds a basic block, or a bottleneck where the weights have a third convolution."""
    first, second = dilations
    if f"{module}.conv3.weight" in graph.weights:
        y = graph.conv_relu(x, f"{module}.conv1", f"{module}.bn1")
        options = {"stride": stride, "dilation": first}
        y = graph.conv_relu(y, f"{module}.conv2", f"{module}.bn2", **options)
        y = graph.conv(y, f"{module}.conv3", f"{module}.bn3")
    else:
        options = {"stride": stride, "dilation": first}
        y = graph.conv_relu(x, f"{module}.conv1", f"{module}.bn1", **options)
        y = graph.conv(y, f"{module}.conv2", f"{module}.bn2", dilation=second)
    if f"{module}.downsample.0.weight" in graph.weights:
        x = graph.conv(x, f"{module}.downsample.0", f"{module}.downsample.1", stride=stride)
    return graph.add("Relu", graph.add("Add", y, x))


def atrous_block(graph: Graph, module: str, x: str) -> str:
    """Adds parallel dilated convolutions, projected and added to their input."""
    branches = [
        graph.conv_relu(x, f"{module}.conv{i}", f"{module}.bn{i}", dilation=dilation)
        for i, dilation in enumerate(resnet.AtrousBlock.dilations, 1)
    ]
    y = graph.add("Concat", *branches, axis=1)
    y = graph.conv(y, f"{module}.project_conv", f"{module}.project_bn")
    return graph.add("Relu", graph.add("Add", x, y))


def efficientnet_lite_features(graph: Graph, encoder: Any, x: str) -> list[Feature]:
    """Adds an EfficientNet-Lite's stem and stages, with the strides and dilations of its plan."""
    prefix = smp_names.PREFIXES[efficientnet_lite.EfficientNetLite]
    graph.constant("least", 0)
    graph.constant("most", efficientnet_lite.LARGEST)
    x = relu6(graph, lite_conv(graph, x, f"{prefix}conv_stem", f"{prefix}bn1", stride=2))
    features, stride, width = [], 2, encoder.widen(efficientnet_lite.STEM)
    for stage, plan in enumerate(encoder.plan()):
        for i, options in enumerate(plan):
            y = lite_block(graph, f"{prefix}blocks.{stage}.{i}", x, options)
            same = options["stride"] == 1 and options["features"] == width
            x, width = graph.add("Add", x, y) if same else y, options["features"]
            stride *= options["stride"]
        if stage in efficientnet_lite.TAPS:
            features.append(Feature(x, stride))
    return features


def lite_block(graph: Graph, module: str, x: str, options: dict[str, int]) -> str:
    """Adds the convolutions of an EfficientNet-Lite's block."""
    names = (
        ("conv_pw", "conv_dw", "conv_pwl") if options["expansion"] > 1 else ("conv_dw", "conv_pw")
    )
    strided = {"stride": options["stride"], "dilation": options["dilation"], "depthwise": True}
    for i, name in enumerate(names, 1):
        more = strided if name == "conv_dw" else {}
        x = lite_conv(graph, x, f"{module}.{name}", f"{module}.bn{i}", **more)
        x = x if name == names[-1] else relu6(graph, x)
    return x


def lite_conv(graph: Graph, x: str, module: str, norm: str, **options: Any) -> str:
    return graph.conv(x, module, norm, same=True, epsilon=efficientnet_lite.EPSILON, **options)


def relu6(graph: Graph, x: str) -> str:
    return graph.add("Clip", x, "least", "most")


# By encoder family, the function that adds it; its features are those that a decoder takes.
FEATURES: dict[type, Callable[[Graph, Any, str], list[Feature]]] = {
    resnet.ResNet: resnet_features,
    efficientnet_lite.EfficientNetLite: efficientnet_lite_features,
}
