"""Several data sets as one training stream: shares, order, labels, refusals, records."""

import collections
import dataclasses
import json
import re
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from fixtures_coco import box, data_folder, write_coco_folder
from PIL import Image

from trashseg_jax import build, evaluate, model_sources, predict, train
from trashseg_jax.configs import default
from trashseg_jax.data import audit, builder, mix, sampling, taxonomy
from trashseg_jax.data.demo import scenes
from trashseg_jax.data.formats import masks
from trashseg_jax.data.label_codec import decode_label
from trashseg_jax.data.taxonomy import CLASSES, ClassMap
from trashseg_jax.data.training_sets import Concatenation, TrainingSet, TrainingSets
from trashseg_jax.devices import sharding
from trashseg_jax.errors import InputError, RunError
from trashseg_jax.report import card
from trashseg_jax.run.divergence import FiniteWatch
from trashseg_jax.run.resume import find_changes

# The text.


def test_entries_of_a_mix_are_preset_folder_class_map_and_share():
    first, second = mix.parse("taco:/data/taco:my_map.json=.3, coco:pseudo=0.25")
    assert first == ("taco", "/data/taco", "my_map.json", 0.3)
    assert second == ("coco", "pseudo", "", 0.25)
    assert mix.parse("") == ()


@pytest.mark.parametrize(
    ("named", "folder", "json_file"),
    [
        ("a/b", "a/b", None),
        ("a/train/_annotations.coco.json", "a/train", "_annotations.coco.json"),
        ("a/annotations/instances.json", "a", "annotations/instances.json"),
    ],
)
def test_a_json_stands_for_the_folder_that_it_describes(named, folder, json_file):
    (entry,) = mix.parse(f"coco:{named}=0.1")
    assert str(entry.path) == folder
    assert entry.json_file == (entry.path / json_file if json_file else None)


def test_text_that_is_no_mix_is_refused():
    with pytest.raises(InputError, match=r"^config\.data\.mix='taco:/a': must be PRESET:FOLDER="):
        mix.parse("taco:/a")


def test_a_model_that_is_handed_on_has_no_folders_of_the_machine(tiny_config):
    config = tiny_config()
    config.data.mix = "taco:/home/me/taco:/home/me/map.json=0.3,coco:b/pseudo=0.2"
    data = model_sources.options_to_hand_on(config)["data"]
    assert data["mix"] == "taco:taco:map.json=0.3,coco:pseudo=0.2"


# Whose turn it is.

SHARES = [(0.5, 0.5), (0.7, 0.3), (0.999, 0.001), (0.1, 0.2, 0.7), (0.31, 0.29, 0.25, 0.15)]


@pytest.mark.parametrize("shares", SHARES)
def test_every_beginning_of_the_stream_has_the_shares_to_within_the_number_of_sets(shares):
    """And a set's turns are numbered as they come."""
    given = [0] * len(shares)
    for position in range(3000):
        number, turn = sampling.take_turns(position, shares=shares)
        assert turn == given[number]
        given[number] += 1
        expected = (position + 1) * np.array(shares)
        assert np.abs(given - expected).max() < len(shares)


@pytest.mark.parametrize("shares", SHARES)
def test_turns_far_along_are_numbered_as_they_come(shares):
    """Past 2^53, where floating-point numbers would skip some."""
    last = {}
    for position in range(2**60, 2**60 + 500):
        number, turn = sampling.take_turns(position, shares=shares)
        assert turn == last.get(number, turn - 1) + 1
        last[number] = turn


def fake(pixels):
    """Stands in for a builder.Prepared with these counts."""
    counts = {"train": (pixels, (pixels > 0).astype(int))}
    return SimpleNamespace(classes=("Background", "Can"), counts=counts.__getitem__)


RARE = np.array([[9, 1], [9, 0], [9, 0], [9, 0]])
COMMON = np.array([[9, 1], [9, 1], [9, 0]])
FAKES = TrainingSets((TrainingSet("a", 0.75, fake(RARE)), TrainingSet("b", 0.25, fake(COMMON))))


def config_of(sampler):
    config = default.get_config("aistage")
    config.data.sampling.update({"name": sampler, "power": 1.0})
    return config


def stream(config, sets, start, stop):
    index_of = build.mix_index(config, build.mix_image_weights(config, sets), sets)
    return [index_of(position) for position in range(start, stop)]


def test_weights_of_a_set_are_its_own_samplers_and_sum_to_its_share():
    """By hand: Can is in 1/4 and in 2/3 of the images: weights 4, 1, 1, 1 and 3/2, 3/2, 1."""
    weights = build.mix_image_weights(config_of("class_balanced"), FAKES)
    expected = [*(0.75 * np.array([4, 1, 1, 1]) / 7), *(0.25 * np.array([1.5, 1.5, 1]) / 4)]
    np.testing.assert_allclose(weights, expected)


@pytest.mark.parametrize("sampler", ["uniform", "class_balanced"])
def test_images_are_drawn_with_their_weights(sampler):
    """Chi-square over seven images, 5 degrees of freedom as the sets' shares are exact."""
    config = config_of(sampler)
    weights, count = build.mix_image_weights(config, FAKES), 8000
    drawn = np.bincount(stream(config, FAKES, 0, count), minlength=7)
    assert drawn[:4].sum() == 0.75 * count
    assert ((drawn - weights * count) ** 2 / (weights * count)).sum() < 20.52  # 99.9 % quantile


def test_uniform_sampling_goes_through_each_sets_epochs():
    drawn = stream(config_of("uniform"), FAKES, 0, 48)
    for first, size in ((0, 4), (4, 3)):
        own = [record - first for record in drawn if first <= record < first + size]
        epochs = np.array(own).reshape(-1, size)
        assert len(epochs) == {0: 9, 4: 4}[first]
        np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(size), (len(epochs), 1)))


@pytest.mark.parametrize("sampler", ["uniform", "class_balanced"])
def test_the_main_sets_images_come_in_the_order_that_they_have_alone(sampler):
    config = config_of(sampler)
    drawn = [record for record in stream(config, FAKES, 0, 400) if record < 4]
    alone = TrainingSets(FAKES.sets[:1])
    assert drawn == stream(config, alone, 0, len(drawn))


def test_sets_of_one_size_have_streams_of_their_own():
    sets = TrainingSets((FAKES.sets[0], dataclasses.replace(FAKES.sets[0], share=0.25)))
    drawn = stream(config_of("class_balanced"), sets, 0, 400)
    first, second = ([r % 4 for r in drawn if r // 4 == number] for number in (0, 1))
    assert first[: len(second)] != second


@pytest.mark.parametrize("sampler", ["uniform", "class_balanced"])
def test_the_mixed_stream_is_a_function_of_seed_and_position_alone(sampler):
    config = config_of(sampler)
    whole = stream(config, FAKES, 0, 100)
    assert stream(config, FAKES, 61, 100) == whole[61:]
    config.seed = 1
    assert stream(config, FAKES, 0, 100) != whole


def test_records_of_several_sources_are_numbered_through():
    sources = [[{"id": 7, "x": c} for c in text] for text in ("ab", "c", "def")]
    joined = Concatenation(sources)
    assert len(joined) == 6
    found = [joined[place] for place in range(6)]
    assert found == [{"id": place, "x": c} for place, c in enumerate("abcdef")]


# Labels.


def test_labels_are_the_runs_classes_by_name():
    own = ClassMap(("background", "Glass", "Tin"), {"bottle": 1, "can": 2, "?": 255}, {5: 2})
    made = taxonomy.relabel(own, ("Background", "tin", "Cell", "Glass"))
    assert made.classes == ("Background", "tin", "Cell", "Glass")
    assert made.categories == {"bottle": 3, "can": 1, "?": 255}
    assert made.values == {5: 1}


@pytest.mark.parametrize(
    ("classes", "line"),
    [
        (("Background", "Glass"), "it maps to 'Tin', and the run's classes are only Background, G"),
        (("Floor", "Glass", "Tin"), "its background is 'Background', and that of the run 'Floor'"),
    ],
)
def test_a_class_map_of_other_classes_is_refused(classes, line):
    own = ClassMap(("Background", "Glass", "Tin", "Unused"), {"bottle": 1, "can": 2})
    with pytest.raises(InputError, match=line):
        taxonomy.relabel(own, classes)


def entry_of(text):
    (entry,) = mix.parse(text)
    return entry


def test_class_map_is_the_named_one_or_the_folders_or_the_presets(tmp_path):
    content = {"classes": ["Background", "Glass"], "categories": {"jar": "Glass"}}
    (tmp_path / "other.json").write_text(json.dumps(content))
    classes = CLASSES

    def categories(text):
        return build.mixed_class_map(entry_of(text), classes).categories

    assert "Cigarette" in categories(f"taco:{tmp_path}=0.1")
    assert categories(f"taco:{tmp_path}:{tmp_path}/other.json=0.1") == {"jar": 5}
    content["categories"] = {"flask": "Glass"}
    (tmp_path / "class_map.json").write_text(json.dumps(content))
    assert categories(f"taco:{tmp_path}=0.1") == {"flask": 5}
    assert categories(f"taco:{tmp_path}:{tmp_path}/other.json=0.1") == {"jar": 5}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("coco:{0}/gone=0.1", "is not a folder; correct it"),
        ("masks:{0}=0.1", "has no class_map.json; .* stated as PRESET:FOLDER:CLASS_MAP=SHARE"),
        ("taco:{0}:no.json=0.1", "class map 'no.json' is neither"),
    ],
)
def test_a_wrong_mix_is_refused_before_the_data_are_read(tmp_path, text, line):
    config = default.get_config("aistage")
    config.data.mix = text.format(tmp_path)
    with pytest.raises(InputError, match=rf"^config\.data\.mix, {text[:4]}.*{line}"):
        build.check_options(config)


# What is read of a folder.

OBJECT = [box(1, 1, 4, 4)]


def pixels(seed):
    return np.random.default_rng(seed).integers(0, 256, (8, 9, 3), np.uint8)


def write_split(folder, split, seeds, *, category="Paper"):
    """Images `seed.png`, each with an object, in SPLIT.json."""
    images = {f"{seed}.png": pixels(seed) for seed in seeds}
    objects = [{"file_name": n, "category": category, "segmentation": OBJECT} for n in images]
    write_coco_folder(folder, images=images, annotations=objects, json_name=f"{split}.json")


def mixed_config(tmp_path, text, *, dataset="coco", **options):
    config = default.get_config(dataset)
    config.data.update({"dir": str(tmp_path / "main"), "cache_dir": str(tmp_path / "cache")})
    config.data.mix = text.format(tmp_path)
    config.update_from_flattened_dict(options)
    return config


def prepare(config):
    return build.build_training_sets(config, build.build_data(config))


@pytest.fixture
def main_folder(tmp_path):
    write_split(tmp_path / "main", "train", [1, 2, 3])
    write_split(tmp_path / "main", "val", [4, 5])
    return tmp_path / "main"


@pytest.mark.parametrize(
    ("text", "files", "expected"),
    [
        ("coco:{}/more=0.3", {"train": [6, 7], "val": [8]}, 2),
        ("coco:{}/more=0.3", {"train": [6, 7]}, 2),
        ("coco:{}/more/x.json=0.3", {"x": [6, 7, 8]}, 3),
        ("taco:{}/more:recycle_trash=0.3", {"annotations": [6, 7, 8, 9, 10]}, 5),
    ],
)
def test_of_a_coco_folder_train_is_used_or_the_only_json_whole(
    tmp_path, main_folder, text, files, expected
):
    for split, seeds in files.items():
        write_split(tmp_path / "more", split, seeds)
    sets = prepare(mixed_config(tmp_path, text))
    assert sets.sizes == [3, expected]
    assert len(sets.source()) == len(sets.counts("train")[0]) == 3 + expected
    assert len(sets.counts("val")[0]) == 2


def write_masks(folder, names):
    for name in names:
        for kind, image in (("images", pixels(1)), ("labels", np.full((8, 9), 2, np.uint8))):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / kind / name)


@pytest.mark.parametrize(
    ("folders", "expected"), [({"": "abcde"}, "abcde"), ({"train": "ab", "val": "cde"}, "ab")]
)
def test_of_label_images_train_is_used_or_all(tmp_path, folders, expected):
    for split, names in folders.items():
        write_masks(tmp_path / split, [f"{name}.png" for name in names])
    splits = masks.read_splits(data_folder(tmp_path, val_file=""))
    assert list(splits.records) == ["train"]
    assert [one.file_name for one in splits.records["train"]] == [f"{c}.png" for c in expected]


def test_an_absent_json_is_one_line_that_says_how_a_mix_names_another(tmp_path, main_folder):
    write_split(tmp_path / "more", "labels", [6])
    with pytest.raises(InputError) as caught:
        prepare(mixed_config(tmp_path, "coco:{}/more=0.3"))
    line = str(caught.value)
    assert line.startswith(f"config.data.mix, coco:{tmp_path}/more: {tmp_path}/more/train.json: ")
    assert "labels.json" in line
    assert "PRESET:FOLDER/JSON=SHARE" in line
    assert "\n" not in line


def test_bad_images_of_a_mixed_in_set_are_left_out_and_reported(tmp_path, main_folder):
    write_split(tmp_path / "more", "train", [6, 7])
    (tmp_path / "more/7.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"^config\.data\.mix, coco:.*7\.png.*skip_bad=True"):
        prepare(mixed_config(tmp_path, "coco:{}/more=0.3"))
    sets = prepare(mixed_config(tmp_path, "coco:{}/more=0.3", **{"data.skip_bad": True}))
    assert sets.sizes == [3, 1]
    (line,) = sets.problems
    assert "7.png" in line


def test_a_main_set_alone_is_read_drawn_and_recorded_as_if_nothing_could_be_mixed(
    tmp_path, main_folder
):
    config = mixed_config(tmp_path, "")
    data = build.build_data(config)
    sets = build.build_training_sets(config, data)
    assert isinstance(sets.source(), builder.Records)
    assert [record["id"] for record in sets.source()] == [0, 1, 2]
    weights = build.mix_image_weights(config, sets)
    np.testing.assert_array_equal(weights, build.build_image_weights(config, data))
    index_of = build.mix_index(config, weights, sets)
    assert (index_of.func, index_of.keywords) == (
        sampling.uniform_index,
        {"seed": config.seed, "size": 3},
    )
    assert sets.describe() == {}
    assert sets.name_images(np.array([2, 0])) == [2, 0]


# What would spoil the figures.


def audited(sets, *, allow_overlap=False):
    audit.check_mixed(sets, allow_overlap=allow_overlap)
    return audit.find_mixed_warnings(sets)


def test_validation_images_that_are_mixed_in_are_counted_and_named(tmp_path, main_folder):
    write_split(tmp_path / "more", "train", [5, 6])
    (line,) = audited(prepare(mixed_config(tmp_path, "coco:{}/more=0.3")))
    assert line.startswith("1 of 2 validation images are training images of coco:")
    assert line.endswith("more, which is mixed in: 5.png")


@pytest.mark.parametrize(
    ("seeds", "line"),
    [
        ([4, 5, 6], "with it, all validation images are trained on"),
        ([4], "all its images are validation images"),
    ],
)
def test_a_mixed_in_set_of_the_validation_images_is_refused_unless_allowed(
    tmp_path, main_folder, seeds, line
):
    write_split(tmp_path / "more", "train", seeds)
    sets = prepare(mixed_config(tmp_path, "coco:{}/more=0.3"))
    with pytest.raises(InputError, match=rf"{line} .*4\.png.*allow_overlap=True"):
        audited(sets)
    assert len(audited(sets, allow_overlap=True)) == 1


def test_sets_that_hold_the_validation_images_together_are_refused(tmp_path, main_folder):
    write_split(tmp_path / "a", "train", [4, 6])
    write_split(tmp_path / "b", "train", [5, 7])
    sets = prepare(mixed_config(tmp_path, "coco:{0}/a=0.3,coco:{0}/b=0.3"))
    with pytest.raises(InputError, match=r"^config\.data\.mix, coco:.*/b: with it, all validation"):
        audited(sets)


def test_the_main_set_mixed_in_once_more_is_refused_though_a_share_of_it_is_held_out(tmp_path):
    write_split(tmp_path / "main", "annotations", range(10))
    options = {"data.class_map": "recycle_trash"}
    text = "taco:{}/main:recycle_trash=0.3"
    config = mixed_config(tmp_path, text, dataset="taco", **options)
    with pytest.raises(InputError, match="with it, all validation images are trained on"):
        audited(prepare(config))


def test_a_mixed_in_set_without_a_label_is_refused_and_one_of_background_is_named(
    tmp_path, main_folder
):
    write_coco_folder(tmp_path / "more", images={"6.png": pixels(6)})
    (line,) = audited(prepare(mixed_config(tmp_path, "coco:{}/more=0.3")))
    assert "which is mixed in, has no pixel of another class than Background" in line
    whole = {"file_name": "6.png", "category": "UNKNOWN", "segmentation": [box(0, 0, 9, 8)]}
    write_coco_folder(
        tmp_path / "more",
        images={"6.png": pixels(6)},
        annotations=[whole],
        categories=["UNKNOWN"],
    )
    with pytest.raises(InputError, match=r"/more: has no labelled pixel, all are ignored"):
        audited(prepare(mixed_config(tmp_path, "coco:{}/more=0.3")))


# A run: self-training, from the teacher's predictions to the student.


@pytest.fixture(scope="module")
def loop(tiny_config, tmp_path_factory):
    """A teacher, its predictions on the demo's photographs of another seed, and a student."""
    folder = tmp_path_factory.mktemp("loop")
    photos, pseudo = folder / "photos", folder / "pseudo"
    scenes.render_demo(photos, seed=7, num_train=6, num_val=3, size=64)
    train.train(short(tiny_config()), folder / "teacher")
    arguments = {
        "model": folder / "teacher",
        "input": photos,
        "output": folder / "out",
        "dataset": pseudo,
        "min_confidence": 0.0,
        "val_fraction": 0,
    }
    for name in arguments:
        flags.FLAGS[name].unparse()
    flags.FLAGS(["predict", "--nocompilation_cache", *(f"--{k}={v}" for k, v in arguments.items())])
    assert predict.main(["predict"]) == 0
    config = short(tiny_config())
    config.data.mix = f"coco:{pseudo}=0.5"
    return SimpleNamespace(
        config=config,
        pseudo=pseudo,
        workdir=folder / "student",
        figures=train.train(config, folder / "student"),
    )


def short(config):
    config.train.update({"steps": 3, "eval_every": 3, "checkpoint_every": 1, "ema_decay": 0.0})
    config.eval.resolution = "scaled"
    return config


def read_derived(workdir):
    return json.loads((workdir / "config.json").read_text())["derived"]


def test_a_student_trains_on_the_teachers_predictions(loop, prepared):
    """Nine photographs, half of what is drawn; it is scored on the main set alone."""
    derived = read_derived(loop.workdir)
    main, pseudo = derived["mix"]
    assert (main["images"], main["share"]) == (12, 0.5)
    assert pseudo == {"name": f"coco:{loop.pseudo}", "images": 9, "share": 0.5}
    assert loop.figures["num_images"] == 5
    sets = build.build_training_sets(loop.config, prepared)
    before = (sets.counts("train")[0] > 0).mean(0)
    assert list(derived["image_shares"]["before"].values()) == pytest.approx(before)


def test_a_mixed_batch_has_each_sets_share_of_images_with_their_own_labels(loop, prepared):
    """Of a batch of four, two; both whole, at half their size, every second pixel."""
    config = loop.config.copy_and_resolve_references()
    config.data.augment.crop_area = (1.0, 1.0)
    sets = build.build_training_sets(config, prepared)
    weights = build.mix_image_weights(config, sets)
    batch = next(train.train_batches(config, sets, weights, None, start_step=3))
    assert collections.Counter(batch["id"] >= 12) == {True: 2, False: 2}
    names = sets.name_images(batch["id"])
    for place, name, label in zip(batch["id"].tolist(), names, batch["label"], strict=True):
        source, own = (sets.main, place) if place < 12 else (sets.mixed_in[0].data, place - 12)
        file_name, _ = source.images("train")[own]
        assert name.endswith(f"/{file_name}")
        stored = source.source("train")[own]
        np.testing.assert_array_equal(label, decode_label(stored["label"])[1::2, 1::2])


def test_an_interrupted_mixed_run_ends_as_the_whole_one(loop, tmp_path, monkeypatch):
    """Stopped before step 3; bit for bit."""
    workdir, shard_batch, calls = tmp_path / "run", sharding.shard_batch, []

    def stop(batch, mesh):
        calls.append(batch)
        if len(calls) == 3:
            raise KeyError("for the test")
        return shard_batch(batch, mesh)

    with monkeypatch.context() as patch:
        patch.setattr(sharding, "shard_batch", stop)
        with pytest.raises(KeyError):
            train.train(loop.config, workdir)
    assert train.train(loop.config, workdir) == loop.figures
    assert read_derived(workdir) == read_derived(loop.workdir)


def test_another_mix_on_resume_is_said(loop):
    config = loop.config.copy_and_resolve_references()
    config.data.mix = f"coco:{loop.pseudo}=0.25"
    changes = find_changes(config, loop.workdir, {"mix": [{"share": 0.75}, {"share": 0.25}]})
    assert changes["data.mix"] == [loop.config.data.mix, config.data.mix]
    assert [one["share"] for one in changes["derived.mix"][1]] == [0.75, 0.25]


def test_an_evaluation_has_the_same_loss_and_warnings(loop):
    figures = evaluate.evaluate(loop.config, loop.workdir)
    assert figures["loss"] == loop.figures["loss"]  # its class weights are of all sets
    assert figures["warnings"] == loop.figures["warnings"]


def test_a_batch_that_is_not_finite_names_the_files_of_its_sets(loop, prepared, tmp_path):
    """Place 12 is the first after the main set's twelve."""
    sets = build.build_training_sets(loop.config, prepared)
    first = [one.data.images("train")[0][0] for one in sets.sets]
    names = re.escape(
        str([f"{one.name}/{name}" for one, name in zip(sets.sets, first, strict=True)])
    )
    watch = FiniteWatch(tmp_path, sets.name_images, stops=True, total=9)
    numbers = {"finite": False, "loss": np.nan, "grad_norm": 1.0}
    scalars = {name: jnp.asarray(number) for name, number in numbers.items()}
    watch.add(1, {"id": np.array([0, 12])}, scalars)
    with pytest.raises(RunError, match=rf"^step 1: .* images {names} is in"):
        watch.flush()


def test_a_model_card_says_what_was_mixed_in(loop):
    model = model_sources.model_of_run(loop.config, loop.workdir)
    row = "| mixed in, with a share each | coco:pseudo=0.5 |"
    assert row in card.format_card(model, name="student", onnx=False).splitlines()
