"""A subject to its tuned config: what is stored, searched, judged and written."""

import dataclasses
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trashseg_jax import build, calibrate, folders
from trashseg_jax.calibrate import HALVES, of_half
from trashseg_jax.data.taxonomy import IGNORE_LABEL
from trashseg_jax.errors import InputError
from trashseg_jax.model_description import holds_model
from trashseg_jax.refine import calibration, engines
from trashseg_jax.refine.calibration import IMAGES, Calibration
from trashseg_jax.report import files
from trashseg_jax.run.lock import RunLock
from trashseg_jax.run.progress import write_line
from tuning import candidates, judge, plot, search, store
from tuning.candidates import Candidate, Space
from tuning.scoring import Scorer
from tuning.store import Store
from tuning.subject import Subject

REMEDY = "name another folder with --out"
STORE, JOURNAL, REPORT = "probabilities", "trials.log", "tuning.json"
BOTH = ("pydensecrf", "device")
LINE_EVERY = 10  # trials


@dataclasses.dataclass(frozen=True)
class Options:
    """How the search is made."""

    engine: str
    trials: int
    images: int  # of each half that a candidate is tried on; 0: all
    jobs: int
    seed: int
    dtype: str


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What an engine came to: `answer` is the column of the figures that is kept."""

    engine: str
    answer: str
    candidate: Candidate
    figures: dict[str, Any]


def tune(subject: Subject, out: Path, options: Options) -> Tuned:
    """Tunes the CRF of each engine asked for, and writes what the best of them came to."""
    folders.check_writable(out, REMEDY)
    names = BOTH if options.engine == "both" else (engines.resolve(options.engine),)
    with RunLock(out, remedy=REMEDY), folders.explained(out, REMEDY):
        stored, loss = store.provide(
            out / STORE, subject.identity(), subject.log_probs, dtype=options.dtype
        )
        print(describe_loss(loss, options.dtype))
        storage = search.open_storage(out / JOURNAL)
        found = [tune_engine(name, subject, stored, storage, out, options) for name in names]
        kept = max(found, key=lambda one: one.figures["columns"][one.answer]["miou"])
        write(subject, out, options, loss, found, kept)
    return kept


def describe_loss(loss: Mapping[str, float], dtype: str) -> str:
    return (
        f"stored as {dtype}: probabilities off by at most {loss['largest_error']:.1e}, "
        f"{loss['changed_share']:.1e} of the pixels of another class, mIoU "
        f"{loss['miou_before']:.6f} before and {loss['miou_after']:.6f} after"
    )


def tune_engine(
    name: str, subject: Subject, stored: Store, storage: Any, out: Path, options: Options
) -> Tuned:
    """Searches by each half of the images, judges by the other, and decides."""
    crf = subject.config.crf.copy_and_resolve_references()
    crf.update({"engine": name, "workers": options.jobs})
    count, classes = len(stored.labels), subject.data.classes
    with build.build_crf(crf, side=subject.config.data.image_size) as engine:
        scorer = Scorer(stored, engine, subject.prior)
        fitted = fit_calibrations(subject, scorer)
        space = candidates.make_space(subject.config, subject.prior, [*fitted.values()])
        run = partial(run_study, storage, space, scorer, fitted, name, options)

        # Each half by itself, and what that does to the other.
        studies = {half: run(half, places_of(half, count, options.images)) for half in HALVES}
        winners = {half: search.best(study, space) for half, study in studies.items()}
        maps = {judge.RAW: scorer.maps(candidates.RAW, range(count))}
        if fitted:
            alone = {half: calibrated_alone(fitted[half]) for half in HALVES}
            maps[judge.CALIBRATED] = judge.cross(scorer.maps, alone, count)
        default = Candidate(crf={key: subject.config.crf[key] for key in candidates.CRF})
        maps[judge.DEFAULT] = scorer.maps(default, range(count))
        maps[judge.TUNED] = judge.cross(scorer.maps, winners, count)
        share = subject.config.eval.boundary
        columns = {
            column: judge.count_maps(stored, found, boundary_share=share)
            for column, found in maps.items()
        }

        # What is kept is fitted on all images.
        answer, kept = judge.choose(columns), candidates.RAW
        if answer == judge.CALIBRATED:
            kept = calibrated_alone(fitted["all"])
        if answer == judge.DEFAULT:
            kept = default
        if answer == judge.TUNED:
            also = [search.best_trial(study).params for study in studies.values()]
            studies["all"] = run("all", places_of("all", count, options.images), also=also)
            kept = search.best(studies["all"], space, refined=True)

    figures = judge.describe(columns, classes)
    scores = {half: search.best_trial(study).value for half, study in studies.items()}
    figures["halves"] = judge.describe_halves(
        columns, {half: (winners[half], scores[half]) for half in HALVES}
    )
    figures["trials"] = {images: count_trials(study) for images, study in studies.items()}
    figures["failed"] = scorer.failed
    figures |= {"answer": judge.ANSWERS[answer], "kept": kept.describe()}
    tried = {images: list_trials(study, space) for images, study in studies.items()}
    plot.save_trials(out / f"trials-{name}.png", tried, title=name)
    print(f"\n{name}\n{judge.format_table(figures)}\n{judge.ANSWERS[answer]}")
    return Tuned(name, answer, kept, figures)


# The search.


def run_study(
    storage: Any,
    space: Space,
    scorer: Scorer,
    fitted: Mapping[str, Calibration],
    engine: str,
    options: Options,
    images: str,
    places: list[int],
    also: list[dict[str, Any]] | None = None,
) -> Any:
    """Returns the study of an engine on these images, with as many trials as are asked for."""
    first = space.first(fitted.get(images))
    # What the halves found is no part of it: with more trials it may be another.
    setup = {"space": space._asdict(), "first": first, "seed": options.seed, "places": len(places)}
    study = search.open_study(storage, f"{engine}, {images}", setup)
    search.search(
        study,
        space,
        scorer.confusion,
        places,
        first=[*first, *(also or [])],
        trials=options.trials,
        seed=options.seed,
        tell=partial(show_progress, trials=options.trials),
    )
    return study


def show_progress(study: Any, *, trials: int) -> None:
    """Prints a line after every tenth trial."""
    count = len(search.finished(study))
    if count % LINE_EVERY == 0 or count == trials:
        found = search.best_trial(study).value
        write_line(f"{study.study_name} images: {count} of {trials} trials, best mIoU {found:.4f}")


def places_of(images: str, count: int, at_most: int) -> list[int]:
    """Returns the places of a half's images, or evenly spaced ones among them."""
    places = np.flatnonzero(of_half(images, count))
    if at_most and at_most < len(places):
        places = places[np.linspace(0, len(places) - 1, at_most).astype(int)]
    return places.tolist()


def list_trials(study: Any, space: Space) -> list[plot.Tried]:
    """Returns the trials with the values that their parameters stand for."""
    tried = []
    for number, trial in enumerate(search.finished(study)):
        one = space.candidate(trial.params)
        values = dict(one.crf or {})
        if one.calibrated:
            values |= {"strength": one.strength, "temperature": one.temperature}
        score = trial.value if trial.state.name == "COMPLETE" else last_report(trial)
        tried.append(plot.Tried(number, score, trial.state.name == "PRUNED", values))
    return tried


def last_report(trial: Any) -> float:
    return trial.intermediate_values[max(trial.intermediate_values)]


def count_trials(study: Any) -> dict[str, int]:
    states = [trial.state.name for trial in study.get_trials(deepcopy=False)]
    named = {"COMPLETE": "tried", "PRUNED": "given_up", "FAIL": "cut_off"}
    return {name: states.count(state) for state, name in named.items()}


# Calibration by itself.


def fit_calibrations(subject: Subject, scorer: Scorer) -> dict[str, Calibration]:
    """Returns what --mode=calibrate would fit to the even, the odd and all images; {} for none."""
    prior, config = subject.prior, subject.config
    if prior is None:
        return {}
    strengths = calibrate.STRENGTHS if any(prior.log_weight) else (0.0,)
    every = range(len(scorer.store.labels))
    curve = [scorer.confusion(Candidate(True, strength), every) for strength in strengths]
    pixels = draw_pixels(scorer.store, per_half=config.calibration.pixels, seed=config.seed)
    by_strength = [dataclasses.replace(prior, strength=strength) for strength in strengths]
    return {
        images: calibrate.fit_all(prior, by_strength, pixels, np.stack(curve), images=images)[
            "prior"
        ]
        for images in IMAGES
    }


def draw_pixels(stored: Store, *, per_half: int, seed: int) -> calibrate.Pixels:
    """Returns about `per_half` pixels of each half, drawn at random from those with a label."""
    rng, drawn = np.random.default_rng(seed), []
    share = min(2 * per_half / stored.labels.size, 1.0)
    for place, labels in enumerate(stored.labels):
        taken = (labels != IGNORE_LABEL) & (rng.random(labels.shape) < share)
        logits = np.asarray(stored.log_probs[place][taken], np.float32)
        drawn.append((logits, labels[taken], np.full(len(logits), place)))
    return calibrate.Pixels(*map(np.concatenate, zip(*drawn, strict=True)))


def calibrated_alone(fitted: Calibration) -> Candidate:
    return Candidate(True, fitted.strength, fitted.temperature)


# What is written.


def write(
    subject: Subject,
    out: Path,
    options: Options,
    loss: Mapping[str, float],
    found: list[Tuned],
    kept: Tuned,
) -> None:
    """Writes the figures, the config that evaluate and predict take, and a calibration if any."""
    report = {
        "model": subject.folder.resolve().name,
        **subject.identity(),
        "options": dataclasses.asdict(options),
        "stored": dict(loss),
        "engines": {one.engine: one.figures for one in found},
        "engine": kept.engine,
        "answer": judge.ANSWERS[kept.answer],
    }
    files.write_json(out / REPORT, report)
    files.write_json(out / "config.json", tuned_config(subject, kept).to_dict())
    path, fitted = out / calibration.FILE, found_calibration(subject, kept)
    if fitted is None:
        path.unlink(missing_ok=True)
    else:
        files.write_json(path, {"calibration": fitted.to_json()})
    print(f"{out}: {', '.join(sorted(path.name for path in out.glob('*.*')))}")
    if fitted is not None:
        print(f"the run needs the calibration: cp {path} {subject.folder / calibration.FILE}")


def tuned_config(subject: Subject, kept: Tuned) -> Any:
    """Returns the subject's config with the CRF that is kept, or without any."""
    config = subject.config.copy_and_resolve_references()
    refined = kept.candidate.crf is not None
    config.crf.update({"enabled": refined, **(kept.candidate.crf or {})})
    if refined:
        config.crf.engine = kept.engine
    if kept.answer == judge.TUNED:
        config.crf.tuned_on = f"{config.data.name}/{subject.split}"
    if subject.prior is not None:
        config.eval.calibration = kept.candidate.calibrated
    return config


def found_calibration(subject: Subject, kept: Tuned) -> Calibration | None:
    if subject.prior is None:
        return None
    count = subject.identity()["num_images"]
    return kept.candidate.calibration(subject.prior, images="all", count=count)


def write_calibration(out: Path, folder: Path) -> None:
    """Puts the calibration that was found into the run; raises InputError where there is none."""
    path = out / calibration.FILE
    if holds_model(folder) or not path.exists():
        raise InputError(
            f"--write_calibration: {path} does not exist, as nothing is to be calibrated otherwise "
            f"than {folder} is; leave it out"
        )
    with folders.explained(folder, "copy the run to a folder that can be written"):
        files.write_json(folder / calibration.FILE, json.loads(path.read_text()))
