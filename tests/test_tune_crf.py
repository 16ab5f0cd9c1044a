"""scripts/tune_crf.py: what is stored, searched, judged and written."""

import json
import shutil
import sys
from types import SimpleNamespace

import fixtures_commands
import numpy as np
import pytest
from PIL import Image
from scipy.special import log_softmax
from tuning import by_engine, candidates, job, judge, search, store, subject
from tuning.candidates import RAW, Candidate, Space
from tuning.scoring import Scorer
from tuning.store import Store

from trashseg_jax import metrics
from trashseg_jax.configs import default
from trashseg_jax.errors import InputError
from trashseg_jax.refine import engines
from trashseg_jax.report.files import write_json

pytest.importorskip("optuna", reason="optuna is not installed (requirements-tune.txt)")

CRF = {
    **{"iterations": 5, "gaussian_sxy": 1.0, "gaussian_compat": 3.0},
    **{"bilateral_sxy": 6.0, "bilateral_srgb": 13.0, "bilateral_compat": 5.0},
}
SPACE = Space(CRF, calibrations=False, weights=False, temperatures=(0.25, 4.0))
IDENTITY = {"model": "a", "split": "val", "num_images": 5}


def random_batches(seed=0, sizes=((8, 8), (8, 6), (3, 8), (8, 8), (5, 8)), side=8):
    """Five images in two batches, as `Subject.log_probs` yields them."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(len(sizes), side, side, 4))
    labels = rng.integers(0, 4, (len(sizes), side, side)).astype(np.uint8)
    images = rng.integers(0, 256, (len(sizes), side, side, 3)).astype(np.uint8)
    inside = store.is_inside(np.array(sizes, np.int32), side)
    whole = {
        "log_probs": log_softmax(logits, -1).astype(np.float32),
        "image": images,
        "label": np.where(inside, labels, 255).astype(np.uint8),
        "size": np.array(sizes, np.int32),
    }
    for part in (slice(0, 3), slice(3, 5)):
        yield {key: values[part] for key, values in whole.items()}


# What is stored.


def test_the_loss_of_precision_is_what_numpy_says(tmp_path):
    found, loss = store.provide(tmp_path / "s", IDENTITY, random_batches, dtype="float16")
    batches = list(random_batches())
    exact = np.concatenate([b["log_probs"] for b in batches])
    sizes = np.concatenate([b["size"] for b in batches]).tolist()
    half = exact.astype(np.float16)
    np.testing.assert_array_equal(found.log_probs, half)
    again = np.exp(half.astype(float))
    again /= again.sum(-1, keepdims=True)
    apart, changed, total = 0.0, 0, 0
    for row, (height, width) in enumerate(sizes):
        here = np.s_[row, :height, :width]
        apart = max(apart, np.abs(np.exp(exact[here].astype(float)) - again[here]).max())
        changed += (exact[here].argmax(-1) != half[here].argmax(-1)).sum()
        total += height * width
    assert loss["largest_error"] == pytest.approx(apart, rel=1e-3)
    assert loss["changed_share"] == pytest.approx(changed / total)
    counts = metrics.count_confusion(
        np.concatenate([b["label"] for b in batches]),
        exact.argmax(-1).astype(np.uint8),
        num_classes=4,
    )
    assert loss["miou_before"] == pytest.approx(metrics.iou(counts.sum(0)).mean())


def test_float32_loses_nothing(tmp_path):
    found, loss = store.provide(tmp_path / "s", IDENTITY, random_batches, dtype="float32")
    assert (loss["largest_error"], loss["changed_share"]) == (0, 0)
    assert found.log_probs.dtype == np.float32


def test_what_is_stored_is_used_again_and_only_for_the_same_identity(tmp_path):
    def never():
        raise AssertionError("the network is run a second time")

    first, _ = store.provide(tmp_path / "s", IDENTITY, random_batches, dtype="float16")
    again, _ = store.provide(tmp_path / "s", IDENTITY, never, dtype="float16")
    for before, after in zip(first, again, strict=True):
        np.testing.assert_array_equal(before, after)
    with pytest.raises(InputError, match=r"model was a, is b.*--out") as refusal:
        store.provide(tmp_path / "s", {**IDENTITY, "model": "b"}, never, dtype="float16")
    assert "\n" not in str(refusal.value)
    with pytest.raises(InputError, match="dtype was float16, is float32"):
        store.provide(tmp_path / "s", IDENTITY, never, dtype="float32")


def test_too_great_a_loss_is_refused_and_leaves_nothing(tmp_path):
    """Float16 cannot tell these apart: of two classes the first one wins each tie."""

    def batches():
        for batch in random_batches():
            batch["log_probs"][..., 0] = -1.0
            batch["log_probs"][..., 1] = -1.0 + 1e-6
            batch["label"][batch["label"] < 255] = 1
            yield batch

    with pytest.raises(InputError, match="--dtype=float32"):
        store.provide(tmp_path / "s", IDENTITY, batches, dtype="float16")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_store_leaves_nothing(tmp_path):
    def batches():
        yield next(random_batches())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.provide(tmp_path / "s", IDENTITY, batches, dtype="float16")
    assert not list(tmp_path.iterdir())


# What is searched.


def open_study(tmp_path, name="one", setup=None):
    storage = search.open_storage(tmp_path / "trials.log")
    return search.open_study(storage, name, setup or {"seed": 0})


def fake_score(candidate, places):
    """Right in a share of 1,000 pixels that is largest at one place of the space."""
    right = 500
    if candidate.crf:
        away = abs(np.log(candidate.crf["bilateral_compat"] / 2.0))
        right = int(900 - 80 * away - 10 * abs(candidate.crf["iterations"] - 3))
    count = np.array([[right, 1000 - right], [1000 - right, right]])
    return np.repeat(count[None], len(places), 0)


def run_search(study, trials, score=fake_score):
    places = list(range(12))
    first = SPACE.first(None)
    search.search(study, SPACE, score, places, first=first, trials=trials, seed=3)


def params_of(study):
    return [trial.params for trial in search.finished(study)]


def test_raw_comes_first_then_the_config_s_crf(tmp_path):
    study = open_study(tmp_path)
    run_search(study, 2)
    raw, own = (SPACE.candidate(params) for params in params_of(study))
    assert raw == RAW
    assert own == Candidate(crf=CRF)


def test_a_search_finds_the_best_place(tmp_path):
    study = open_study(tmp_path)
    run_search(study, 60)
    found = SPACE.candidate(search.best_trial(study).params)
    assert found.crf["bilateral_compat"] == pytest.approx(2.0, rel=0.5)
    assert abs(found.crf["iterations"] - 3) <= 1


@pytest.mark.parametrize("stop_at", [0, 1, 5, 17])
def test_a_search_that_was_killed_ends_as_if_it_had_never_stopped(tmp_path, stop_at):
    """In the middle of a trial, of one of the first or of a drawn one."""
    whole = open_study(tmp_path, "whole")
    run_search(whole, 22)

    study, calls = open_study(tmp_path, "killed"), []

    def score(candidate, places):
        calls.append(candidate)
        if len(search.finished(study)) == stop_at:
            raise KeyboardInterrupt
        return fake_score(candidate, places)

    with pytest.raises(KeyboardInterrupt):
        run_search(study, 22, score)
    assert len(search.finished(study)) == stop_at
    again = open_study(tmp_path, "killed")
    run_search(again, 22)
    assert params_of(again) == params_of(whole)
    assert by_engine.count_trials(again)["cut_off"] == 1


def test_a_study_of_another_setup_is_refused(tmp_path):
    open_study(tmp_path, setup={"seed": 0, "places": 5})
    with pytest.raises(InputError, match=r"begun with another places .5, not 6.*--out"):
        open_study(tmp_path, setup={"seed": 0, "places": 6})


def test_a_hopeless_candidate_is_given_up_after_a_part_of_the_images(tmp_path):
    study, seen = open_study(tmp_path), []

    def score(candidate, places):
        seen.append(len(places))
        late = len(search.finished(study)) >= 15
        return fake_score(RAW if late else candidate, places) - (200 if late else 0) * np.eye(
            2, dtype=int
        )

    places = list(range(32))
    search.search(study, SPACE, score, places, first=SPACE.first(None), trials=20, seed=0)
    assert by_engine.count_trials(study)["given_up"] == 5
    assert seen[-5:] == [8] * 5


def test_the_space_is_that_of_the_terms_that_the_config_has():
    space = SPACE._replace(crf={**CRF, "gaussian_compat": 0.0})
    own = space.first(None)[1]
    assert not any(key.startswith("gaussian") for key in own)
    assert space.candidate(own) == Candidate(crf={**CRF, "gaussian_compat": 0.0})


def test_values_stay_in_the_ranges_of_the_config():
    space = SPACE._replace(crf={**CRF, "gaussian_sxy": 0.2})
    own = {**space.first(None)[1], "gaussian_reach": -candidates.REACH_STEPS}
    assert space.candidate(own).crf["gaussian_sxy"] == 0.1


def test_a_missing_optuna_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install -r requirements-tune\.txt") as refusal:
        search.import_optuna()
    assert "\n" not in str(refusal.value)


# What is judged.


def test_each_image_is_judged_by_the_half_that_it_is_not_of():
    even, odd = Candidate(strength=1.0), Candidate(strength=2.0)

    def maps(candidate, places):
        return np.array([[[place, candidate.strength]] for place in places], np.uint8)

    found = judge.cross(maps, {"even": even, "odd": odd}, 5)
    assert found[:, 0].tolist() == [[0, 2], [1, 1], [2, 2], [3, 1], [4, 2]]


def confusions(rights, seed=0, spread=0):
    """Images of two classes of which so many of 100 pixels each are right."""
    rng = np.random.default_rng(seed)
    rights = np.array(rights) + (rng.integers(-spread, spread + 1, len(rights)) if spread else 0)
    return judge.Column(np.array([[[r, 100 - r], [100 - r, r]] for r in rights]))


SAME, WORSE, BETTER, BEST = (confusions([n] * 20, spread=5, seed=n) for n in (60, 50, 70, 80))


@pytest.mark.parametrize(
    ("calibrated", "default_crf", "tuned", "answer"),
    [
        (SAME, SAME, SAME, judge.RAW),
        (WORSE, WORSE, confusions([55] * 20), judge.RAW),  # better than the others is not enough
        (BETTER, SAME, BETTER, judge.CALIBRATED),
        (WORSE, BETTER, BETTER, judge.DEFAULT),
        (SAME, BETTER, BEST, judge.TUNED),
        (BETTER, SAME, BEST, judge.TUNED),
    ],
)
def test_what_is_kept_beats_what_is_simpler_by_more_than_noise(
    calibrated, default_crf, tuned, answer
):
    columns = {judge.RAW: confusions([60] * 20), judge.CALIBRATED: calibrated}
    columns |= {judge.DEFAULT: default_crf, judge.TUNED: tuned}
    kept = judge.choose(columns)
    assert kept == answer
    assert judge.gain(columns[judge.RAW], columns[kept])["interval"][0] >= 0


def scenes(count, noise, side=16):
    """Images of two colours whose classes are these; probabilities are right but for noise."""
    rng = np.random.default_rng(0)
    labels = np.zeros((count, side, side), np.uint8)
    for image in labels:
        edge = rng.integers(4, side - 4)
        image[:, edge:] = 1
    images = (np.where(labels == 1, 200, 40)[..., None] + rng.integers(0, 9, 3)).astype(np.uint8)
    truth = np.where(np.arange(2) == labels[..., None], 2.0, -2.0)
    logits = truth + noise * rng.normal(size=truth.shape)
    log_probs = log_softmax(logits, -1).astype(np.float16)
    sizes = np.full((count, 2), side, np.int32)
    return Store(log_probs, images, labels, sizes)


def tune_scenes(stored, tmp_path, *, crf=CRF, **options):
    config = default.get_config("aistage")
    config.crf.update(crf)
    config.data.image_size = stored.labels.shape[1]
    data = SimpleNamespace(classes=("a", "b"))
    one = subject.Subject(tmp_path, config, None, data, "val", None)
    given = {"engine": "auto", "trials": 12, "images": 0, "jobs": 0, "seed": 0, "dtype": "float16"}
    tmp_path.mkdir(exist_ok=True)
    storage = search.open_storage(tmp_path / "trials.log")
    name = engines.resolve("auto")
    options = by_engine.Options(**{**given, **options})
    return one, job.tune_engine(name, one, stored, storage, tmp_path, options)


def test_noise_that_a_crf_smooths_is_worth_one_on_held_out_images(tmp_path):
    weak = {**CRF, "gaussian_compat": 0.5, "bilateral_compat": 0.5}  # what the config has
    one, tuned = tune_scenes(scenes(10, noise=3.0), tmp_path, crf=weak)
    figures = tuned.figures
    assert tuned.answer == judge.TUNED
    assert figures["gains"]["tuned CRF - default CRF"]["interval"][0] > 0
    for half in figures["halves"].values():
        assert half["held_out"]["tuned CRF"] > half["held_out"]["raw"]
    config = job.tuned_config(one, tuned)
    assert config.crf.enabled
    assert config.crf.tuned_on == "aistage/val"
    assert {key: config.crf[key] for key in CRF} == tuned.candidate.crf
    picture = Image.open(tmp_path / f"trials-{tuned.engine}.png")
    assert np.asarray(picture).std() > 5
    assert "the tuned CRF" in figures["answer"]


def test_what_is_perfect_already_gets_no_crf(tmp_path):
    one, tuned = tune_scenes(scenes(10, noise=0.0), tmp_path)
    assert tuned.answer == judge.RAW
    assert tuned.figures["answer"].startswith("no CRF")
    assert tuned.figures["gains"]["tuned CRF - raw"] == {"miou": 0.0, "interval": [0.0, 0.0]}
    config = job.tuned_config(one, tuned)
    assert (config.crf.enabled, config.crf.tuned_on) == (False, "")
    assert set(tuned.figures["trials"]) == {"even", "odd"}  # none of all images


def test_images_a_candidate_is_tried_on_are_of_its_half_and_as_many_as_asked_for():
    assert by_engine.places_of("odd", 10, 0) == [1, 3, 5, 7, 9]
    assert by_engine.places_of("even", 10, 3) == [0, 4, 8]
    assert by_engine.places_of("all", 3, 7) == [0, 1, 2]


# A run, from the command line.


@pytest.fixture(scope="module")
def trained(tiny_config, tmp_path_factory):
    return fixtures_commands.train_two_steps(
        tiny_config(), tmp_path_factory.mktemp("runs") / "small"
    )


@pytest.fixture(scope="module")
def tuned(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "small"
    with pytest.MonkeyPatch.context() as patch:
        flags = ["--trials=5", "--jobs=0", f"--config=run:{trained}", "--config.crf.iterations=2"]
        fixtures_commands.tune_crf(patch, f"--model={trained}", f"--out={out}", *flags)
    return out


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_figures_before_are_those_of_an_evaluation_with_the_config_s_crf(
    tuned, trained, tmp_path, monkeypatch
):
    """But for pixels that float16 decides otherwise, of 5,120."""
    report = json.loads((tuned / "tuning.json").read_text())
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    fixtures_commands.evaluate(
        monkeypatch,
        *[f"--workdir={folder}", f"--config=run:{folder}", "--config.eval.resolution=scaled"],
        *["--config.crf.enabled=True", "--config.crf.iterations=2", "--config.crf.workers=0"],
    )
    figures = metrics_of(folder / "evaluations/val-2")
    columns = report["engines"][report["engine"]]["columns"]
    for name, expected in {"raw": figures, "default CRF": figures["crf"]}.items():
        for key in ("miou_interval", "pixel_accuracy"):
            assert columns[name][key] == pytest.approx(expected[key], abs=0.01)
    assert report["stored"]["changed_share"] < 0.01
    assert report["num_images"] == 5


def test_the_calibration_that_is_searched_is_the_run_s(tuned, trained):
    report = json.loads((tuned / "tuning.json").read_text())
    columns = report["engines"][report["engine"]]["columns"]
    assert list(columns) == ["raw", "calibrated", "default CRF", "tuned CRF"]
    config = json.loads((trained / "config.json").read_text())
    assert config["loss"]["name"] == "focal"


def test_a_second_start_computes_nothing_again(tuned, trained, tmp_path, monkeypatch, capsys):
    out = tmp_path / "tuned"
    shutil.copytree(tuned, out)
    monkeypatch.setattr(subject.Subject, "log_probs", None)
    monkeypatch.setattr(search, "try_candidate", None)
    flags = ["--trials=5", "--jobs=0", f"--config=run:{trained}", "--config.crf.iterations=2"]
    fixtures_commands.tune_crf(monkeypatch, f"--model={trained}", f"--out={out}", *flags)
    for name in ("tuning.json", "config.json"):
        assert (out / name).read_text() == (tuned / name).read_text()
    with pytest.raises(InputError, match="split was val, is train"):
        fixtures_commands.tune_crf(
            monkeypatch, f"--model={trained}", f"--out={out}", "--split=train"
        )


@pytest.fixture
def chosen(trained, tmp_path):
    """What is written where a CRF, with a calibration, is kept."""
    one = subject.read_subject(trained, None, overridden=(), split="val", search_calibration=True)
    crf = {**CRF, "iterations": 3}
    candidate = Candidate(True, 0.5, 2.0, crf)
    kept = by_engine.Tuned(engines.resolve("auto"), judge.TUNED, candidate, {}, {})
    options = by_engine.Options("auto", 4, 0, 0, 0, "float16")
    out = tmp_path / "tuned"
    out.mkdir()
    job.write(one, out, options, {}, [kept], kept)
    return out


def test_evaluate_takes_what_is_written_and_says_what_it_was_tuned_on(
    chosen, trained, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    job.hand_on_calibration(chosen, folder, write=True)
    flags = [f"--workdir={folder}", f"--config=run:{chosen}", "--config.crf.workers=0"]
    fixtures_commands.evaluate(monkeypatch, *flags)
    figures = metrics_of(folder / "evaluations/val-2")
    used = json.loads((folder / "evaluations/val-2/config.json").read_text())["crf"]
    assert {key: used[key] for key in CRF} == {**CRF, "iterations": 3}
    assert figures["crf"]["engine"] == engines.resolve("auto")
    assert (figures["calibration"]["strength"], figures["calibration"]["temperature"]) == (0.5, 2.0)
    (warned,) = (line for line in figures["warnings"] if "tuned on these images" in line)
    assert f"warning: {warned}\n" in capsys.readouterr().out
    fixtures_commands.evaluate(monkeypatch, *flags, "--config.eval.split=train")
    others = metrics_of(folder / "evaluations/train-2")["warnings"]
    assert not any("tuned on these images" in line for line in others)


def test_predict_takes_what_is_written(chosen, trained, tmp_path, monkeypatch):
    """The mask is what the engine makes of the run's calibrated probabilities."""
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    job.hand_on_calibration(chosen, folder, write=True)
    image = np.random.default_rng(0).integers(0, 256, (32, 24, 3), np.uint8)
    photo = tmp_path / "photo.png"
    Image.fromarray(image).save(photo)
    flags = [f"--model={folder}", f"--config=run:{chosen}", f"--input={photo}"]
    fixtures_commands.predict_files(monkeypatch, *flags, f"--output={tmp_path / 'out'}")
    found = np.asarray(Image.open(tmp_path / "out/masks/photo.png"))

    import trashseg_jax

    probs = trashseg_jax.Predictor(folder)(image).probs.astype(np.float32)
    with engines.make_engine("auto", side=32, workers=0, timeout=60.0, **CRF) as engine:
        expected = engine.submit(probs, image, iterations=3).result()
    assert (found != expected).mean() < 0.01  # float16
    assert (found != probs.argmax(-1)).any()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--tta=flip"], "leave out --scale=tile, --tta and --probs"),
        (["--probs"], "leave out --scale=tile, --tta and --probs"),
        (["--config.eval.tta=flip"], "--config.eval.tta: predict reads config.crf"),
    ],
)
def test_predict_refuses_what_a_crf_would_pass_over(
    chosen, trained, tmp_path, monkeypatch, flags, line
):
    photo = tmp_path / "photo.png"
    Image.fromarray(np.zeros((32, 24, 3), np.uint8)).save(photo)
    given = [f"--model={trained}", f"--config=run:{chosen}", f"--input={photo}", *flags]
    with pytest.raises(InputError, match=line):
        fixtures_commands.predict_files(monkeypatch, *given, f"--output={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


def test_a_calibration_is_put_into_the_run_only_where_asked_for(chosen, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    job.hand_on_calibration(chosen, run, write=False)
    assert f"cp {chosen / 'calibration.json'} {run / 'calibration.json'}" in capsys.readouterr().out
    assert not list(run.iterdir())
    job.hand_on_calibration(chosen, run, write=True)
    assert (run / "calibration.json").read_text() == (chosen / "calibration.json").read_text()
    job.hand_on_calibration(run.parent, run, write=True)  # where none was found
    assert (run / "calibration.json").read_text() == (chosen / "calibration.json").read_text()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], "--model is missing"),
        (["--model=nowhere"], "--out is missing"),
        (["--model=nowhere", "--out=out"], "nowhere: holds no config.json"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(flags, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=line):
        fixtures_commands.tune_crf(monkeypatch, *flags)
    assert not list(tmp_path.iterdir())


def test_scores_are_those_of_the_engine_without_padding():
    whole = [
        np.concatenate(column)
        for column in zip(*(b.values() for b in random_batches()), strict=True)
    ]
    stored = Store(*whole)
    with engines.make_engine("auto", side=8, workers=0, timeout=60.0, **CRF) as engine:
        scorer = Scorer(stored, engine, None)
        found = scorer.confusion(Candidate(crf={**CRF, "iterations": 2}), [2, 0])
        for row, place in enumerate([2, 0]):
            height, width = stored.sizes[place]
            inner = np.s_[place, :height, :width]
            probs = np.exp(stored.log_probs[inner])
            classes = engine.submit(probs, stored.images[inner], iterations=2).result()
            label = stored.labels[inner]
            expected = metrics.count_confusion(label[None], classes[None], num_classes=4)[0]
            np.testing.assert_array_equal(found[row], expected)


def test_the_report_is_json_that_is_read_again(tmp_path):
    columns = {name: confusions([60, 70, 80]) for name in (judge.RAW, judge.DEFAULT, judge.TUNED)}
    figures = judge.describe(columns, ("a", "b"))
    write_json(tmp_path / "x.json", figures)
    assert json.loads((tmp_path / "x.json").read_text()) == figures
    assert "tuned CRF - raw: mIoU +0.0000" in judge.format_table(figures)
