"""Every key has a range: laws of the table, of its rules, and of keys at odds with each other."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from trashseg_jax.configs import (
    best,
    best_cpu,
    crf_focal_balanced,
    default,
    demo,
    dilated,
    dilated_focal,
    focal,
    focal_balanced,
    ranges,
    reference,
)
from trashseg_jax.data import mix
from trashseg_jax.data.demo import scenes
from trashseg_jax.errors import InputError
from trashseg_jax.rules import AnyOf, Number, Numbers, OneOf, Text, WordOrNumber, YesOrNo
from trashseg_jax.settings import flatten, image_sizes, resolve_config

EXPERIMENTS = (reference, focal, focal_balanced, dilated, dilated_focal, crf_focal_balanced)
KEYS = sorted(ranges.RANGES)
every = settings(deadline=None, derandomize=True, max_examples=12)


def config_of(dataset="aistage", make=default, **changes):
    config = make.get_config(dataset)
    if dataset != "demo":
        config.data.dir = "folder"
    config.update_from_flattened_dict(changes)
    return config


def forced(key, value):
    """A config with a value of a type that ml_collections would not let in."""
    tree = config_of().to_dict()
    *path, last = key.split(".")
    branch = tree
    for name in path:
        branch = branch[name]
    branch[last] = value
    return ConfigDict(tree)


# The table.


@pytest.mark.parametrize("dataset", default.DATASETS)
def test_every_key_has_a_range_and_every_range_a_key(dataset):
    keys = {key for key, _ in flatten(config_of(dataset)) if not key.startswith("recipes.")}
    assert keys == ranges.RANGES.keys()


@pytest.mark.parametrize("dataset", default.DATASETS)
@pytest.mark.parametrize("make", EXPERIMENTS, ids=lambda module: module.__name__)
@pytest.mark.parametrize("recipe", ["modern", "reference"])
def test_experiments_and_recipes_keep_to_the_ranges(dataset, make, recipe):
    config = config_of(dataset, make, recipe=recipe)
    ranges.check(config)
    resolve_config(config, overridden=[])
    ranges.check(config)


@pytest.mark.parametrize("make", [best, best_cpu, demo], ids=["best", "best_cpu", "demo"])
@pytest.mark.parametrize("dataset", default.DATASETS)
def test_recipes_from_published_weights_keep_to_the_ranges(dataset, make):
    config = config_of(dataset, make)
    resolve_config(config, overridden=[])
    ranges.check(config)


def test_key_that_an_experiment_misspells_is_refused_with_the_nearest():
    config = config_of()
    config.loss.gama = 3.0
    with pytest.raises(InputError, match=r"config\.loss\.gama: there is no .* config\.loss\.gamma"):
        ranges.check(config)


def test_key_that_an_experiment_deletes_is_missing():
    config = config_of()
    del config.loss.gamma
    with pytest.raises(InputError, match=r"config\.loss\.gamma is missing"):
        ranges.check(config)


def test_values_of_a_recipe_are_held_to_the_ranges_of_their_keys():
    config = config_of(**{"recipes.reference.optimizer.clip_norm": -1.0})
    line = r"^config\.recipes\.reference\.optimizer\.clip_norm=-1\.0: must be 0 \(no clipping\) or"
    with pytest.raises(InputError, match=line):
        ranges.check(config)


# The rules: values within and without, drawn from what a rule says of itself.


def numbers_within(rule):
    if rule.whole:
        return st.integers(rule.at_least, rule.at_most)
    return st.floats(
        rule.at_least if rule.above is None else rule.above,
        rule.at_most if rule.below is None else rule.below,
        exclude_min=rule.above is not None,
        exclude_max=rule.below is not None,
        allow_infinity=False,
    )


def numbers_without(rule):
    low = rule.at_least if rule.above is None else rule.above
    high = rule.at_most if rule.below is None else rule.below
    beyond = [st.floats(max_value=low, exclude_max=rule.above is None), st.just(10**400)]
    if high is not None:
        beyond.append(st.floats(min_value=high, exclude_min=rule.below is None))
    if rule.whole:
        beyond += [st.integers(max_value=low - 1), st.integers(min_value=high + 1), st.just(1.5)]
    return st.one_of(*beyond, st.sampled_from([math.nan, math.inf, -math.inf, True, "1", (1,)]))


def tuples_within(rule):
    size = rule.length or 3
    drawn = st.lists(numbers_within(rule.each), min_size=size, max_size=size)
    return drawn.map(lambda values: tuple(sorted(values) if rule.ascending else values))


def tuples_without(rule):
    good = tuples_within(rule)
    bad = numbers_without(rule.each).filter(lambda value: not isinstance(value, tuple))
    wrong = [
        st.just(()),
        good.map(list),
        st.tuples(good, bad).map(lambda pair: (*pair[0][:-1], pair[1])),
        bad,
    ]
    if rule.length:
        wrong += [good.map(lambda values: (*values, values[-1])), good.map(lambda v: v[:-1])]
    if rule.ascending:
        wrong.append(good.filter(lambda v: v[0] < v[-1]).map(lambda v: v[::-1]))
    return st.one_of(*wrong)


WORDS = {
    "latest, best or a step's number": (["latest", "best", "500"], ["", "newest", "-5", "1.5"]),
    "a name": (["adam"], [""]),
    "a file's path": (["a.json", "~/a.json"], ["", "a\0b"]),
    'a plain name, the end of a folder\'s, or ""': (
        ["", "seen", "a-2.b_"],
        ["../x", "a/b", ".hidden", "a b", "x" * 101, "a\n"],
    ),
    'flip, scales, both with a comma between, or ""': (
        ["", "flip", "scales", "flip,scales"],
        ["mirror", "flip,", "flip scales"],
    ),
    mix.FORM: (
        ["", "taco:/data/taco=0.3", "taco:a/b:map.json=.5, coco:~/c=0.2"],
        [
            "taco",
            "taco:a",
            "a=0.3",
            "taco:=0.3",
            "taco:a=",
            "taco:a=-1",
            "coco:a=0.1,",
            "coco:a=b=1",
        ],
    ),
    'text like "Battery=20,Metal=2", or ""': (["", "Battery=20"], ["Battery"]),
}
ANYTHING = (["", "a folder/b"], ["a\0b"])
NOT_TEXT = [None, 3, 0.5, True, (), ("a",), ["a"], {"a": 1}]


def within(rule):
    match rule:
        case Number():
            return numbers_within(rule)
        case Numbers():
            return tuples_within(rule)
        case OneOf():
            return st.sampled_from(rule.names)
        case Text():
            good = WORDS.get(rule.says, ANYTHING)[0]
            return st.sampled_from([text for text in good if text or rule.holds("")])
        case WordOrNumber():
            return st.one_of(st.just(rule.word), numbers_within(rule.number).map(str))
        case YesOrNo():
            return st.booleans()
        case AnyOf():
            return st.one_of(*map(within, rule.rules))


def without(rule):
    match rule:
        case Number():
            return st.one_of(numbers_without(rule), st.sampled_from([None, "", [1], {"a": 1}]))
        case Numbers():
            return tuples_without(rule)
        case OneOf():
            names = st.text().filter(lambda name: name not in rule.names)
            return st.one_of(names, st.sampled_from(NOT_TEXT))
        case Text():
            return st.sampled_from([*WORDS.get(rule.says, ANYTHING)[1], *NOT_TEXT])
        case WordOrNumber():
            texts = numbers_without(rule.number).filter(lambda value: value != "1").map(str)
            return st.one_of(texts, st.sampled_from(["", "worst", "nan", "1,0", *NOT_TEXT]))
        case YesOrNo():
            return st.sampled_from([None, 0, 1, 1.0, "True", "yes", ()])
        case AnyOf():
            return st.sampled_from([None, 3, 0.5, True, [1.0], (-1.0,), (), ("a",), "Battery"])


@pytest.mark.parametrize("key", KEYS)
def test_values_within_a_range_are_accepted(key):
    rule = ranges.RANGES[key]

    @every
    @given(within(rule))
    def accepts(value):
        assert rule.holds(value)

    accepts()


@pytest.mark.parametrize("key", KEYS)
def test_values_outside_a_range_are_refused_in_one_line_with_key_value_and_rule(key):
    @every
    @given(without(ranges.RANGES[key]))
    def refuses(value):
        with pytest.raises(InputError) as caught:
            ranges.check(forced(key, value))
        line = str(caught.value)
        assert re.match(rf"config\.{re.escape(key)}[=.:]", line)
        assert len(line.splitlines()) == 1
        assert len(line) < 400

    refuses()


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("optimizer.clip_norm", -1.0, "0 (no clipping) or more"),
        ("optimizer.learning_rate", -0.1, "a number above 0 and at most 10"),
        ("train.keep_checkpoints", 0, "a whole number from 1 to 1000000"),
        ("train.ema_decay", 1.0, "a number from 0 (no average) to 0.999999"),
        ("loss.label_smoothing", 1.0, "a number from 0 to less than 1"),
        ("loss.alpha_power", 1e9, "a number from 0 to 4"),
        ("loss.bootstrap", 1.0, "a number from 0 to less than 1"),
        ("loss.hard_share", 0.0, "a number above 0 and at most 1"),
        ("data.augment.brightness", 1.5, "a number from 0 to 1"),
        ("data.augment.crop_area", (0.9, 0.1), "(LOW, HIGH), LOW not above HIGH, each a number "),
        ("data.augment.crop_area", (0.0, 1.0), "(LOW, HIGH), LOW not above HIGH, each a number "),
        ("data.name", "moon", "one of demo, aistage, taco, coco"),
        ("model.decoder_features", (8, 8, 0, 8, 8), "(N, N, N, N, N), each a whole number from 1"),
        ("model.decoder_features", (8, 8), "(N, N, N, N, N), each a whole number from 1 to 2048"),
        ("crf.workers", -2, "a whole number from -1 (one a core) to 1024"),
        ("crf.timeout", math.inf, "a number above 0 and at most 1000000"),
        ("crf.tuned_on", "demo", 'a data set and its split, DATASET/SPLIT, or ""'),
        ("train.remat", 1, "True or False"),
        ("eval.split", "test", "one of train, val"),
    ],
)
def test_a_refusal_says_the_rule(key, value, rule):
    shown = re.escape(f"config.{key}={value!r}: must be {rule}")
    with pytest.raises(InputError, match=shown):
        ranges.check(forced(key, value))


def test_demo_range_begins_where_a_split_holds_every_class():
    least = ranges.RANGES["data.demo.num_train"].at_least
    scenes.split_labels(np.random.default_rng(0), least)
    with pytest.raises(InputError, match=f"ask for {least} or more"):
        scenes.split_labels(np.random.default_rng(0), least - 1)


# Keys at odds.


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"train.steps": 0, "train.epochs": 0.0},
            "train.steps=0 and config.train.epochs=0.0: exact",
        ),
        ({"train.steps": 5}, "config.train.steps=5 and config.train.epochs=40.0: exactly one"),
        (
            {"train.steps": 200, "train.epochs": 0.0},
            "config.optimizer.warmup_steps=200: must be less than the run's 200 steps",
        ),
        ({"data.dir": ""}, "config.data.dir is empty: data set 'aistage' needs"),
        (
            {"data.val_file": "train.json", "data.val_fraction": 0.0},
            "config.data.val_fraction=0.0: must be above 0",
        ),
        (
            {"data.image_size": 500},
            "config.data.image_size=500: must be a multiple.*use 480 or 512",
        ),
        (
            {"model.init": "models/x", "model.pretrained": "timm/resnet34.a1_in1k"},
            "config.model.init=models/x and config.model.pretrained=timm/.*not with both",
        ),
        (
            {"train.hold_statistics": True},
            "config.train.hold_statistics=True: random weights have no statistics to hold",
        ),
        (
            {
                "train.hold_statistics": True,
                "model.pretrained": "timm/resnet34.a1_in1k",
                "model.layer4": "reference_dilated",
            },
            "config.train.hold_statistics=True with .*layer4='reference_dilated': .* fit nothing",
        ),
        (
            {"train.steps": 300, "train.epochs": 0.0, "optimizer.hold_encoder_steps": 300},
            "config.optimizer.hold_encoder_steps=300: must be less than the run's 300 steps",
        ),
        (
            {"train.image_scales": (0.5, 0.75)},
            r"config.train.image_scales=\(0.5, 0.75\): must end with 1.0.*; use \(0.5, 0.75, 1.0\)",
        ),
        (
            {"train.image_scales": (0.75, 0.5, 1.0)},
            "the sizes must rise, and they are 384, 256, 512 as multiples of .*=32",
        ),
        (
            {"train.image_scales": (0.99, 1.0)},
            "the sizes must rise, and they are 512, 512 as multiples",
        ),
        ({"data.image_size": 20}, "config.data.image_size=20: must be a multiple of .*; use 32$"),
        (
            {"loss.alpha": "effective_number", "loss.alpha_counts": "pixels"},
            "config.loss.alpha_counts='pixels': effective_number would weigh all classes alike",
        ),
        (
            {"loss.alpha": "enet", "loss.alpha_values": "Battery=20"},
            "config.loss.alpha='enet' and config.loss.alpha_values both weigh",
        ),
        (
            {"loss.logit_adjustment": 1.0, "loss.alpha": "enet"},
            "config.loss.logit_adjustment=1.0 and config.loss.alpha=.*enet.* both weigh",
        ),
        (
            {"loss.logit_adjustment": 1.0, "loss.alpha_values": "Battery=20"},
            "config.loss.logit_adjustment=1.0 and config.loss.alpha_values=.*Battery=20.* both",
        ),
        (
            {"loss.logit_adjustment": 1.0, "loss.hard_share": 0.5},
            "config.loss.logit_adjustment=1.0 and config.loss.hard_share=0.5: the shares of",
        ),
        (
            {"loss.bootstrap": 0.2, "loss.name": "focal"},
            "config.loss.bootstrap=0.2: only loss.name='cross_entropy' reads it.*'focal'",
        ),
        (
            {"loss.hard_share": 0.5, "loss.reduction": "reference"},
            "config.loss.hard_share=0.5 and config.loss.reduction='reference': .*reduction=mean",
        ),
        (
            {"loss.region": "tversky", "loss.tversky_alpha": 0.0, "loss.tversky_beta": 0.0},
            "tversky_alpha and tversky_beta are both 0",
        ),
        (
            {"eval.resolution": "scaled", "eval.scale": "tile"},
            "config.eval.resolution='scaled' and config.eval.scale='tile': scaled images are",
        ),
        (
            {"eval.resolution": "scaled", "eval.tta": "flip"},
            "config.eval.resolution='scaled' and config.eval.tta='flip': scaled images are",
        ),
        ({"data.mix": "moon:a=0.3"}, "data.mix, moon:a: 'moon' must be one of aistage, taco, coco"),
        ({"data.mix": "demo:a=0.3"}, "'demo' must be one of .*; the folder of a demo is read as"),
        ({"data.mix": "masks:a.json=0.3"}, "data.mix, masks:a.json: must be a folder, not a json"),
        ({"data.mix": "coco:a=0"}, "config.data.mix, coco:a: the share 0 must be above 0"),
        ({"data.mix": "coco:a=0.5,coco:b=0.5"}, "the shares are 1 in all; they must be at most"),
        ({"data.mix": "coco:a=0.2,taco:a=0.2"}, "config.data.mix names taco:a twice; give it one"),
        (
            {"eval.tile_scale": 0.5},
            "config.eval.tile_scale=0.5: only eval.scale='tile' reads it, and this is 'fit'",
        ),
        (
            {"calibration.strength": "0.4", "calibration.method": "bias"},
            "config.calibration.strength=0.4: only calibration.method='prior' .* this is 'bias'",
        ),
        (
            {"data.train_labels": "labels"},
            "config.data.train_labels='labels': only data.format='masks' reads it",
        ),
        (
            {"data.format": "masks", "data.crowd": "ignore"},
            "config.data.crowd='ignore': only data.format='coco' reads it, and this is 'masks'",
        ),
        (
            {"data.augment.object_crops": 0.5, "data.augment.crop_area": (1.0, 1.0)},
            "config.data.augment.object_crops=0.5: moves crops, and .*crop_area=",
        ),
        (
            {"data.paste.objects": 5},
            "config.data.paste.objects=5: changes nothing where .*paste.probability is 0; .* at 3$",
        ),
    ],
)
def test_keys_at_odds_are_refused_with_both(changes, line):
    ranges.check(config_of())
    with pytest.raises(InputError, match=line):
        ranges.check(config_of(**changes))


def test_what_coco_files_alone_know_holds_for_those_that_are_mixed_in():
    changes = {"data.format": "masks", "data.crowd": "ignore"}
    ranges.check(config_of(**changes, **{"data.mix": "taco:a=0.3"}))
    with pytest.raises(InputError, match=r"config\.data\.crowd='ignore'"):
        ranges.check(config_of(**changes, **{"data.mix": "masks:a=0.3"}))


def test_statistics_that_come_with_a_whole_network_can_be_held():
    changes = {"model.init": "models/x", "model.layer4": "reference_dilated"}
    ranges.check(config_of(**changes, **{"train.hold_statistics": True}))


@pytest.mark.parametrize(
    ("size", "scales", "sizes"),
    [(512, (1.0,), (512,)), (96, (0.67, 1.0), (64, 96)), (512, (0.01, 0.7, 1.0), (32, 352, 512))],
)
def test_image_sizes_are_the_nearest_multiples_of_the_output_stride(size, scales, sizes):
    config = config_of(**{"data.image_size": size, "train.image_scales": scales})
    ranges.check(config)
    assert image_sizes(config) == sizes


def test_nothing_need_be_held_out_of_two_files():
    ranges.check(config_of(**{"data.val_fraction": 0.0}))


# Paths.


def test_home_folder_is_expanded_in_every_path_and_nowhere_else(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    texts = [key for key, value in flatten(config_of()) if isinstance(value, str)]
    texts = [key for key in texts if key in ranges.RANGES]
    config = config_of(**dict.fromkeys(texts, "~/x"))
    ranges.expand_paths(config)
    expanded = {key for key, value in flatten(config) if value == "/home/someone/x"}
    assert expanded == {
        "data.dir",
        "data.train_file",
        "data.val_file",
        "data.class_map",
        "data.cache_dir",
        *(f"data.{s}_{w}" for s in ("train", "val") for w in ("images", "labels", "list")),
        "model.pretrained",
        "model.init",
    }
