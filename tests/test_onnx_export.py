"""The ONNX graph, run by onnxruntime, gives the model's classes and probabilities."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from fixtures_models import make_model, run_card
from PIL import Image
from test_smp_names import REAL

from trashseg_jax.data.augment import make_normalize
from trashseg_jax.errors import InputError

reason = "onnx and onnxruntime are not installed: pip install -r requirements-onnx.txt"
onnxruntime = pytest.importorskip("onnxruntime", reason=reason)
pytest.importorskip("onnx", reason=reason)
from trashseg_jax import onnx_export  # noqa: E402

OPTIONS = [
    {},
    {"output_stride": 16, "multi_grid": (1, 2, 4)},
    {"output_stride": 8},
    {"layer4": "reference_dilated"},
    {"stem_pool": "none", "output_stride": 16},
    {"stem_pool": "atrous", "output_stride": 16},
    {"stem_pool": "atrous", "output_stride": 8, "multi_grid": (1, 2, 1)},
]


def predict(proto, image):
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"image": image})


def expected_logits(model, image):
    """Of the image padded with black to a multiple of 32, without the padding."""
    height, width = image.shape[1:3]
    padded = np.pad(image, ((0, 0), (0, -height % 32), (0, -width % 32), (0, 0)))
    apply = jax.jit(model.network.apply, static_argnames="train")
    logits = apply(model.variables, make_normalize(model.normalize)(padded), train=False)
    return np.asarray(logits)[:, :height, :width]


@pytest.fixture(scope="module")
def photographs(demo_folder):
    paths = sorted(demo_folder.glob("**/*.jpg"))[:2]
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])


def check(model, image):
    classes, probabilities = predict(onnx_export.make_onnx(model), image)
    logits = expected_logits(model, image)
    assert (classes.dtype, classes.shape) == (np.uint8, image.shape[:3])
    assert (classes == logits.argmax(-1)).mean() >= 0.9999
    np.testing.assert_allclose(probabilities, jax.nn.softmax(logits), atol=1e-4)


@pytest.mark.parametrize("encoder", REAL)
def test_every_encoder_gives_the_model_s_classes(encoder, photographs):
    check(make_model(encoder=encoder, multi_grid=(1, 1, 1)), photographs)


@pytest.mark.parametrize("output_stride", [32, 16])
def test_an_efficientnet_lite_gives_the_model_s_classes(output_stride, photographs):
    options = {"multi_grid": (1, 1, 1), "width": 8, "output_stride": output_stride}
    check(make_model(encoder="efficientnet_lite0", **options), photographs)


@pytest.mark.parametrize("options", OPTIONS)
def test_every_option_gives_the_model_s_classes(options, photographs):
    check(make_model(**options), photographs)


@pytest.mark.parametrize("size", [(64, 64), (50, 64), (33, 61), (1, 1)])
def test_any_number_and_size_of_photographs_is_taken(photographs, size):
    height, width = size
    check(make_model(), photographs[:1, :height, :width])


def test_normalisation_is_inside(photographs):
    model = make_model()
    unit = dataclasses.replace(model, normalize="unit")
    check(unit, photographs)
    imagenet, other = (predict(onnx_export.make_onnx(m), photographs)[1] for m in (model, unit))
    assert np.abs(imagenet - other).max() > 0.01


def test_the_card_s_code_for_onnx_runs_as_it_stands(demo_folder, tmp_path):
    photo = next(demo_folder.glob("**/*.jpg"))
    by_jax, by_onnx = run_card(tmp_path / "x", make_model(), photo, onnx=onnx_export)
    assert by_onnx["classes"].shape == (50, 64)
    assert (by_onnx["classes"] == by_jax["classes"]).mean() >= 0.9999


def test_what_the_outputs_mean_is_in_the_file():
    model = make_model()
    found = {p.key: json.loads(p.value) for p in onnx_export.make_onnx(model).metadata_props}
    assert found["classes"] == list(model.classes)
    assert found["palette"] == model.palette.tolist()
    assert found["image_size"] == model.image_size


def test_an_encoder_that_the_export_lacks_is_one_line(monkeypatch):
    model = make_model()
    monkeypatch.setattr(onnx_export, "FEATURES", {})
    with pytest.raises(InputError, match=r"model\.encoder='tiny': the ONNX export lacks this"):
        onnx_export.make_onnx(model)
