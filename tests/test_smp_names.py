"""Names and layouts of segmentation_models_pytorch; the weights themselves in test_torch_parity."""

import numpy as np
import pytest
from fixtures_models import assert_same, make_model

from trashseg_jax import model_folder
from trashseg_jax.errors import InputError
from trashseg_jax.models import smp_names
from trashseg_jax.models.encoders import ENCODERS

STRIDES = [("max", 32), ("max", 8), ("atrous", 16), ("none", 8)]
REAL = [name for name in ENCODERS if name != "tiny"]  # tests' own


# A pooling to leave out is the ResNets' alone.
POSSIBLE = [(name, *how) for name in REAL for how in STRIDES if "resnet" in name or how[0] == "max"]


@pytest.mark.parametrize(("encoder", "stem_pool", "output_stride"), POSSIBLE)
def test_every_weight_has_one_name_and_comes_back(encoder, stem_pool, output_stride):
    options = {"encoder": encoder, "multi_grid": (1, 1, 1)}
    model = make_model(stem_pool=stem_pool, output_stride=output_stride, **options)
    network = model.network
    weights = smp_names.to_state_dict(model.variables, encoder=network.encoder)
    shapes = model_folder.variable_shapes(network)
    back = smp_names.from_state_dict("weights", weights, shapes, encoder=network.encoder)
    assert_same(back, model.variables)
    counters = {name for name in weights if name.endswith("num_batches_tracked")}
    averages = {name for name in weights if name.endswith("running_var")}
    assert len(counters) == len(averages) > 0
    assert weights["decoder.blocks.4.conv2.1.num_batches_tracked"].dtype == np.int64


STANDARD = {"encoder": "resnet34", **smp_names.SMP_OPTIONS}


def test_the_expression_names_what_differs_from_the_library_s_defaults():
    standard = {**STANDARD, "decoder_features": (256, 128, 64, 32, 16)}
    expected = 'smp.Unet("resnet34", classes=11, encoder_weights=None)'
    assert smp_names.smp_call(standard, num_classes=11) == expected
    smaller = {**standard, "decoder_features": (8, 8, 8, 8, 8)}
    expected = (
        'smp.Unet("resnet34", decoder_channels=(8, 8, 8, 8, 8), classes=3, encoder_weights=None)'
    )
    assert smp_names.smp_call(smaller, num_classes=3) == expected


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("width", 32, "model.width=32"),
        ("output_stride", 16, "model.output_stride=16"),
        ("stem_pool", "atrous", "model.stem_pool='atrous'"),
        ("layer4", "reference_dilated", "model.layer4='reference_dilated'"),
        ("multi_grid", (1, 2, 4), r"model.multi_grid=(1, 2, 4)"),
        ("encoder", "tiny", "model.encoder='tiny'"),
    ],
)
def test_networks_that_the_library_lacks_are_told_by_their_options(key, value, said):
    assert smp_names.smp_lacks(STANDARD) == []
    assert smp_names.smp_lacks({**STANDARD, key: value}) == [said]


@pytest.mark.parametrize("prefix", ["", "state_dict.model.", "module."])
def test_the_weights_are_found_behind_what_a_training_puts_before_them(prefix):
    model = make_model()
    weights = smp_names.to_state_dict(model.variables, encoder=model.network.encoder)
    saved = {prefix + name: weight for name, weight in weights.items()}
    saved["step" if prefix else "other"] = np.zeros(1)
    found = smp_names.own_weights("file", saved)
    assert found.keys() - {"other"} == weights.keys()


def test_no_head_or_two_are_refused():
    head = {"a.segmentation_head.0.weight": np.zeros(1)}
    with pytest.raises(InputError, match="holds none among 0 keys"):
        smp_names.own_weights("file", {})
    with pytest.raises(InputError, match="holds 2 of them"):
        smp_names.own_weights("file", {**head, "b.segmentation_head.0.weight": np.zeros(1)})


def test_the_decoder_s_widths_are_read_from_the_weights():
    model = make_model(decoder_features=(16, 8, 4, 8, 2))
    weights = smp_names.to_state_dict(model.variables, encoder=model.network.encoder)
    read = smp_names.read_architecture(weights, encoder="resnet18")
    assert read["decoder_features"] == (16, 8, 4, 8, 2)
    assert read["encoder"] == "resnet18"
