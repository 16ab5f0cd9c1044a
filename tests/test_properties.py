"""Laws of the metrics, the config's flags and files, and the losses, for contents of any kind.

Shapes are fixed: JAX compiles once a shape.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from trashseg_jax import losses, metrics
from trashseg_jax.configs import default, run
from trashseg_jax.report import files
from trashseg_jax.settings import flatten, resolve_config

every = settings(deadline=None, derandomize=True, max_examples=40)
K = 4
SHAPE = (2, 3, 4)
classes = st.integers(0, K - 1)
predictions = arrays(np.uint8, SHAPE, elements=classes)
labels = arrays(np.uint8, SHAPE, elements=st.one_of(classes, st.just(255)))
permutations = st.permutations(range(K)).map(np.array)


def count(truth, predicted):
    return metrics.count_confusion(truth, predicted, num_classes=K)


def renamed(labels, permutation):
    """Class c becomes permutation[c]; 255 stays."""
    return np.append(permutation, np.full(256 - K, 255)).astype(np.uint8)[labels]


# Metrics.


@every
@given(labels, predictions)
def test_rows_sum_to_the_truths_pixels_and_columns_to_the_predictions(truth, predicted):
    confusion, valid = count(truth, predicted), truth != 255
    for k in range(K):
        np.testing.assert_array_equal(confusion[:, k].sum(-1), (truth == k).sum((1, 2)))
        hit = ((predicted == k) & valid).sum((1, 2))
        np.testing.assert_array_equal(confusion[:, :, k].sum(-1), hit)


@every
@given(labels, predictions)
def test_images_counted_apart_add_up_to_one_image_of_all_pixels(truth, predicted):
    glued = count(truth.reshape(1, -1, SHAPE[2]), predicted.reshape(1, -1, SHAPE[2]))
    np.testing.assert_array_equal(count(truth, predicted).sum(0), glued[0])


@every
@given(labels, predictions, predictions)
def test_predictions_at_ignored_pixels_change_nothing(truth, predicted, other):
    changed = np.where(truth == 255, other, predicted)
    np.testing.assert_array_equal(count(truth, changed), count(truth, predicted))


@every
@given(labels, predictions)
def test_device_counts_as_the_host_does(truth, predicted):
    device = metrics.confusion_matrix(
        jnp.asarray(truth), jnp.asarray(predicted), num_classes=K, by_pixel=True
    )
    np.testing.assert_array_equal(device, count(truth, predicted))


@every
@given(labels, predictions, permutations)
def test_renamed_classes_permute_the_matrix_and_keep_the_mean(truth, predicted, permutation):
    confusion = count(truth, predicted)
    other = count(renamed(truth, permutation), renamed(predicted, permutation))
    np.testing.assert_array_equal(other[:, permutation[:, None], permutation], confusion)
    scores, others = metrics.iou(confusion.sum(0)), metrics.iou(other.sum(0))
    np.testing.assert_array_equal(others[permutation], scores)
    if (truth != 255).any():
        np.testing.assert_allclose(np.nanmean(others), np.nanmean(scores), rtol=1e-12)


@every
@given(labels, predictions)
def test_perfect_prediction_scores_one_for_each_class_that_is_there(truth, filler):
    predicted = np.where(truth == 255, filler, truth)
    expected = [1.0 if (truth == k).any() else np.nan for k in range(K)]
    confusion = count(truth, predicted).sum(0)
    np.testing.assert_array_equal(metrics.iou(confusion), expected)
    np.testing.assert_array_equal(metrics.dice(confusion), expected)


@every
@given(labels, predictions)
def test_iou_is_at_most_dice_and_both_are_shares(truth, predicted):
    confusion = count(truth, predicted)
    iou, dice = metrics.iou(confusion), metrics.dice(confusion)
    np.testing.assert_array_equal(np.isnan(iou), np.isnan(dice))
    iou, dice = np.nan_to_num(iou), np.nan_to_num(dice)
    assert np.all((iou >= 0) & (iou <= dice) & (dice <= 1))
    np.testing.assert_allclose(dice, 2 * iou / (1 + iou), rtol=1e-12)


# The config.


def values_like(value):
    """Returns the strategy of what a key with the default `value` may be set to."""
    kinds = {
        bool: st.booleans(),
        int: st.integers(-(2**40), 2**40),
        float: st.floats(allow_nan=False, allow_infinity=False),
        str: st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
    }
    if isinstance(value, tuple):
        return st.lists(kinds[type(value[0])], min_size=1, max_size=5).map(tuple)
    return kinds[type(value)]


DEFAULTS = dict(flatten(default.get_config("aistage")))
# A name that is no recipe is refused before a run has a config.json.
LIKE_DEFAULTS = {key: values_like(value) for key, value in DEFAULTS.items() if key != "recipe"} | {
    "data.name": st.sampled_from(default.DATASETS),
    "loss.alpha_values": st.sampled_from(["", "Battery=20", "Plastic bag=2,Metal=0", (1.0, 2.0)]),
}
changes = st.fixed_dictionaries({}, optional=LIKE_DEFAULTS)


def leaves(config):
    """Keys and values, of which 1, 1.0 and True are three."""
    return {key: repr(value) for key, value in flatten(config)}


@every
@given(changes)
def test_flags_set_the_values_that_they_state(changes):
    stated = [f"--config.{key}={value}" for key, value in changes.items()]
    argv, values = ["main", f"--config={default.__file__}:aistage", *stated], flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    values(argv)
    expected = {key: repr(value) for key, value in (DEFAULTS | changes).items()}
    assert leaves(holder.value) == expected


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@every
@given(changes=changes, recipe=st.sampled_from(["modern", "reference"]))
def test_config_that_a_run_wrote_is_read_back_equal(workdir, changes, recipe):
    """All but the recipes, which are applied by then."""
    config = default.get_config("aistage")
    config.update_from_flattened_dict({**changes, "recipe": recipe})
    resolve_config(config, overridden=changes)
    files.write_json(workdir / "config.json", {**config.to_dict(), "derived": {"alpha": [1.0]}})
    config.recipes = ConfigDict({recipe: {}})
    assert leaves(run.get_config(str(workdir))) == leaves(config)


# Losses.

GAMMAS = (0.0, 0.5, 2.0, 5.0)


def logits_up_to(limit):
    number = st.floats(-limit, limit, width=32)
    return arrays(np.float32, (*SHAPE, K), elements=number).map(jnp.asarray)


alphas = arrays(np.float32, K, elements=st.floats(0, 128, width=32)).map(jnp.asarray)
pixel_losses = pytest.mark.parametrize("gamma", [None, *GAMMAS])
ONES = jnp.ones(K)


def loss(logits, labels, alpha, gamma):
    """Focal, or cross-entropy where gamma is None; one value an image."""
    options = {"label_smoothing": 0.1, "hard_share": 1.0, "reduction": "mean", "ignore_label": 255}
    if gamma is None:
        return losses.cross_entropy(logits, labels, alpha=alpha, bootstrap=0.0, **options)
    return losses.focal_loss(logits, labels, alpha=alpha, gamma=gamma, **options)


def total(logits, labels, alpha, gamma):
    values = loss(logits, labels, alpha, gamma)
    return values.sum(), values


value_and_grad = jax.jit(jax.value_and_grad(total, has_aux=True), static_argnums=3)


def value(*arguments):
    (_, values), _ = value_and_grad(*arguments)
    return values


@pixel_losses
@every
@given(logits_up_to(1e4), labels, alphas)
def test_loss_is_finite_and_not_negative_and_its_gradient_finite(gamma, logits, truth, alpha):
    (_, values), gradient = value_and_grad(logits, truth, alpha, gamma)
    assert np.all(np.isfinite(values) & (values >= 0))
    assert np.all(np.isfinite(gradient))


@pixel_losses
@every
@given(logits_up_to(50), labels, alphas, permutations)
def test_renamed_classes_cost_the_same(gamma, logits, truth, alpha, permutation):
    """Class c becomes permutation[c], in the logits, the labels and alpha."""
    back = np.argsort(permutation)
    other = value(logits[..., back], renamed(truth, permutation), alpha[back], gamma)
    expected = value(logits, truth, alpha, gamma)
    np.testing.assert_allclose(other, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gamma", GAMMAS)
@every
@given(logits_up_to(1e4), labels)
def test_focal_is_at_most_cross_entropy(gamma, logits, truth):
    focal, plain = (value(logits, truth, ONES, g) for g in (gamma, None))
    assert np.all(focal <= plain * (1 + 1e-6))


@pixel_losses
@every
@given(logits_up_to(1e4), labels, alphas)
def test_ignored_image_costs_nothing_and_pulls_nowhere(gamma, logits, truth, alpha):
    truth = truth.copy()
    truth[0] = 255
    (_, values), gradient = value_and_grad(logits, truth, alpha, gamma)
    assert values[0] == 0
    assert not np.any(gradient[0])
