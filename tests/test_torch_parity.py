"""The same weights in PyTorch give the same features and logits.

The peers are written here, with the module names whose keys torchvision, timm and
segmentation_models_pytorch publish: installing those would need torchvision, which the CPU build of
PyTorch lacks.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures_models import make_model, random_variables, run_card
from safetensors.numpy import save_file
from test_models import encoder_of

from trashseg_jax import model_folder
from trashseg_jax.errors import InputError
from trashseg_jax.models import pretrained, resnet, smp_names, unet

reason = "PyTorch is not installed: pip install -r requirements-parity.txt"
torch = pytest.importorskip("torch", reason=reason)
from bench.torch_vision import import_smp  # noqa: E402

nn = torch.nn

WIDTH = 8
DECODER = (32, 16, 16, 8, 8)
STANDARD = {
    "output_stride": 32,
    "stem_pool": "max",
    "layer4": "standard",
    "multi_grid": (1, 1),
    "remat": False,
    "drop_path": 0.0,
}
ENCODERS = [
    (resnet.BasicBlock, (2, 1, 2, 2), {}),
    (resnet.Bottleneck, (1, 2, 1, 2), {}),
    (resnet.BasicBlock, (1, 1, 2, 2), {"output_stride": 8, "multi_grid": (1, 2)}),
    (resnet.Bottleneck, (1, 1, 2, 2), {"output_stride": 16}),
    (resnet.BasicBlock, (1, 1, 1, 2), {"layer4": "reference_dilated"}),
]


class TorchBlock(nn.Module):
    """torchvision's BasicBlock and Bottleneck, with timm's two dilations."""

    def __init__(self, before, features, stride, dilations, *, bottleneck):
        super().__init__()
        conv = partial(nn.Conv2d, bias=False)
        conv3 = partial(conv, kernel_size=3)
        first, second = dilations
        strided = {"stride": stride, "padding": first, "dilation": first}
        out = 4 * features if bottleneck else features
        if bottleneck:
            self.conv1 = conv(before, features, 1)
            self.conv2 = conv3(features, features, **strided)
            self.conv3 = conv(features, out, 1)
            self.bn3 = nn.BatchNorm2d(out)
        else:
            self.conv1 = conv3(before, features, **strided)
            self.conv2 = conv3(features, features, padding=second, dilation=second)
        self.bn1, self.bn2 = nn.BatchNorm2d(features), nn.BatchNorm2d(features)
        self.downsample = nn.Identity()
        if stride != 1 or before != out:
            self.downsample = nn.Sequential(conv(before, out, 1, stride), nn.BatchNorm2d(out))

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if hasattr(self, "conv3"):
            y = self.bn3(self.conv3(torch.relu(y)))
        return torch.relu(y + self.downsample(x))


class TorchResNet(nn.Module):
    """A ResNet whose blocks have the strides and dilations that `plan` lists."""

    def __init__(self, plan, *, bottleneck):
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTH)
        before = WIDTH
        for stage, blocks in enumerate(plan):
            layer = nn.Sequential()
            for stride, dilations in blocks:
                features = WIDTH * 2**stage
                layer.append(TorchBlock(before, features, stride, dilations, bottleneck=bottleneck))
                before = features * (4 if bottleneck else 1)
            setattr(self, f"layer{stage + 1}", layer)

    def forward(self, x):
        features = [x, torch.relu(self.bn1(self.conv1(x)))]
        x = nn.functional.max_pool2d(features[1], 3, 2, 1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return features


class TorchUpBlock(nn.Module):
    def __init__(self, before, skip, features):
        super().__init__()
        self.conv1 = self.conv(before + skip, features)
        self.conv2 = self.conv(features, features)

    @staticmethod
    def conv(before, features):
        conv = nn.Conv2d(before, features, 3, padding=1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(features), nn.ReLU())

    def forward(self, x, skip):
        x = nn.functional.interpolate(x, scale_factor=2, mode="nearest")
        if skip is not None:
            x = torch.cat([x, skip], dim=1)
        return self.conv2(self.conv1(x))


class TorchUNet(nn.Module):
    """segmentation_models_pytorch's U-Net on a BasicBlock ResNet."""

    def __init__(self, plan):
        super().__init__()
        self.encoder = TorchResNet(plan, bottleneck=False)
        befores = [8 * WIDTH, *DECODER[:-1]]
        skips = [4 * WIDTH, 2 * WIDTH, WIDTH, WIDTH, 0]
        blocks = map(TorchUpBlock, befores, skips, DECODER)
        self.decoder = nn.ModuleDict({"blocks": nn.ModuleList(blocks)})
        self.segmentation_head = nn.Sequential(nn.Conv2d(DECODER[-1], 11, 3, padding=1))

    def forward(self, x):
        _, *skips, x = self.encoder(x)
        for block in self.decoder["blocks"]:
            x = block(x, skips.pop() if skips else None)
        return self.segmentation_head(x)


def randomize(model):
    """Gives every weight and statistic a random value and returns the state_dict in NumPy."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return {name: value.numpy() for name, value in model.eval().state_dict().items()}


def zeros(model, image):
    shapes = jax.eval_shape(partial(model.init, jax.random.key(0), train=False), image)
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def random_image(height, width):
    image = np.random.default_rng(1).normal(size=(2, height, width, 3)).astype(np.float32)
    return jnp.asarray(image), torch.tensor(image.transpose(0, 3, 1, 2))


def largest_error(ours, theirs):
    """Of tensors b h w c and b c h w, relative to the largest value."""
    theirs = theirs.detach().numpy().transpose(0, 2, 3, 1)
    assert ours.shape == theirs.shape
    error = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    print(f"largest error relative to the largest value: {error:.2e}")
    return error


@pytest.mark.parametrize(("height", "width"), [(64, 96), (75, 97)])
@pytest.mark.parametrize(("block", "depths", "options"), ENCODERS)
def test_resnet_features_are_pytorchs(block, depths, options, height, width, tmp_path):
    options = {**STANDARD, **options}
    ours = resnet.ResNet(depths, block, width=WIDTH, dtype=jnp.float32, **options)
    theirs = TorchResNet(ours.plan(), bottleneck=block is resnet.Bottleneck)
    save_file(randomize(theirs), tmp_path / "weights.safetensors")
    image, tensor = random_image(height, width)
    # The convolutions that "reference_dilated" leaves fresh are loaded here too.
    every_leaf = dataclasses.replace(ours, layer4="standard")
    variables = pretrained.load_encoder(
        str(tmp_path / "weights.safetensors"), zeros(ours, image), encoder=every_leaf, prefix=""
    )
    features = ours.apply(variables, image, train=False)
    for ours_at, theirs_at in zip(features, theirs(tensor), strict=True):
        assert largest_error(ours_at, theirs_at) < 1e-4


def make_unets():
    """Ours and its peer, of the same architecture."""
    encoder = resnet.ResNet(
        (2, 1, 2, 2), resnet.BasicBlock, width=WIDTH, dtype=jnp.float32, **STANDARD
    )
    ours = unet.UNet(encoder, 11, DECODER, jnp.float32, dropout=0.0, hold_statistics=False)
    return ours, TorchUNet(encoder.plan())


def test_unet_logits_are_those_of_segmentation_models_pytorch():
    ours, theirs = make_unets()
    weights = randomize(theirs)
    image, tensor = random_image(64, 96)
    shapes = model_folder.variable_shapes(ours)
    variables = smp_names.from_state_dict("peer", weights, shapes, encoder=ours.encoder)
    logits = ours.apply(variables, image, train=False)
    assert largest_error(logits, theirs(tensor)) < 1e-4


def test_segmentation_models_pytorch_loads_what_is_exported():
    """Strictly, so with no key missing or left over."""
    ours, theirs = make_unets()
    variables = random_variables(ours, seed=0)
    load_strictly(theirs, variables, ours.encoder)
    image, tensor = random_image(64, 96)
    assert largest_error(ours.apply(variables, image, train=False), theirs(tensor)) < 1e-4


def test_the_card_s_code_for_pytorch_gives_the_model_s_logits(demo_folder, tmp_path):
    """With the library itself, which loads the weights strictly."""
    import_library()
    options = {"encoder": "resnet18", **smp_names.SMP_OPTIONS, "decoder_features": DECODER}
    photo = next(demo_folder.glob("**/*.jpg"))
    by_jax, by_torch = run_card(tmp_path / "x", make_model(**options), photo)
    assert largest_error(by_jax["logits"], by_torch["logits"]) < 1e-4


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_unet_on_efficientnet_lite_is_the_library_s(name):
    """There with timm's encoder, which pads as TensorFlow does; and loaded back strictly."""
    library = import_library()
    options = {"classes": 11, "encoder_weights": None, "decoder_channels": DECODER}
    theirs = library.Unet(smp_names.SMP_ENCODERS[name], **options)
    weights = randomize(theirs)
    ours = unet.make_unet(
        num_classes=11,
        encoder=name,
        decoder_features=DECODER,
        dtype="float32",
        **smp_names.SMP_OPTIONS,
        **unet.UNTRAINED,
    )
    shapes = model_folder.variable_shapes(ours)
    variables = smp_names.from_state_dict("peer", weights, shapes, encoder=ours.encoder)
    image, tensor = random_image(64, 96)
    logits = jax.jit(partial(ours.apply, train=False))(variables, image)
    assert largest_error(logits, theirs(tensor)) < 1e-4
    load_strictly(theirs, variables, ours.encoder)


def test_dilated_efficientnet_lite_is_timm_s(tmp_path):
    """At output stride 16: which blocks are dilated, and how their padding grows."""
    import_library()
    import timm

    theirs = timm.create_model(
        "tf_efficientnet_lite2", pretrained=False, features_only=True, output_stride=16
    )
    save_file(randomize(theirs), tmp_path / "weights.safetensors")
    ours = encoder_of("efficientnet_lite2", output_stride=16)
    image, tensor = random_image(64, 96)
    shapes = jax.eval_shape(partial(ours.init, train=False), jax.random.key(0), image)
    source = str(tmp_path / "weights.safetensors")
    variables = pretrained.load_encoder(source, shapes, encoder=ours, prefix="")
    features = jax.jit(partial(ours.apply, train=False))(variables, image)
    for ours_at, theirs_at in zip(features[1:], theirs(tensor), strict=True):
        assert largest_error(ours_at, theirs_at) < 1e-4


def import_library():
    try:
        return import_smp()
    except ImportError:
        pytest.skip("segmentation_models_pytorch is not installed: requirements-bench.txt has it")


def load_strictly(theirs, variables, encoder):
    weights = smp_names.to_state_dict(variables, encoder=encoder)
    theirs.load_state_dict({name: torch.tensor(weight) for name, weight in weights.items()})
    theirs.eval()


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_of_torch_save_are_read_without_it(tmp_path, zipped):
    """In both of its formats: views, types, and what a training's checkpoint holds besides."""
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "transposed": base.t(),
        "part": base[1:, 2:],
        "parameter": torch.nn.Parameter(base),
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "count": torch.tensor(3),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
    }
    content = {"state_dict": tensors, "epoch": 3, "optimizer": {"lr": 0.1}}
    path = tmp_path / "weights.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    actual = pretrained.read(str(path))
    assert actual.keys() == {f"state_dict.{name}" for name in tensors}
    for name, tensor in tensors.items():
        expected = tensor.detach().float().numpy()
        np.testing.assert_array_equal(actual[f"state_dict.{name}"].astype(np.float32), expected)


class Payload:
    """Unpickling it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_pth_files_is_not_run(tmp_path, zipped):
    content = {"conv1.weight": Payload(str(tmp_path / "ran"))}
    torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"weights\.pth: would call 'io.open'"):
        pretrained.read(str(tmp_path / "weights.pth"))
    assert not (tmp_path / "ran").exists()
