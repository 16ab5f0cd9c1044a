"""One engine's search: by each half of the images, judged by the other, then by all of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from trashseg_jax.calibrate import HALVES, has_weights, of_half
from trashseg_jax.run.progress import write_line
from tuning import calibrations, candidates, judge, plot, search
from tuning.candidates import Candidate, Space
from tuning.scoring import Scorer
from tuning.subject import Subject

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
    trials: dict[str, list[plot.Tried]]  # by the images that they were tried on


class EngineSearch:
    """Tunes a subject's CRF with the engine of a scorer."""

    def __init__(self, name: str, subject: Subject, scorer: Scorer, storage: Any, options: Options):
        self.name, self.subject, self.scorer = name, subject, scorer
        self.storage, self.options = storage, options
        self.count = len(scorer.store.labels)
        # By the images that they are fitted on.
        self.fitted = calibrations.fit_all(subject, scorer)
        self.space = candidates.make_space(
            subject.config,
            list(self.fitted.values()),
            weights=subject.prior is not None and has_weights(subject.prior),
        )
        self.default = Candidate(crf={key: subject.config.crf[key] for key in candidates.CRF})

    def tune(self) -> Tuned:
        """Searches by each half, judges that on the other, and fits what is kept to all images."""
        studies = {half: self.study(half) for half in HALVES}
        trials = {half: search.best_trial(study) for half, study in studies.items()}
        winners = {half: self.space.candidate(trial.params) for half, trial in trials.items()}
        columns = self.columns(winners)
        answer = judge.choose(columns)
        if answer == judge.TUNED:
            studies["all"] = self.study("all", also=[trial.params for trial in trials.values()])
        kept = self.fit(answer, studies)
        asked = {half: (winners[half], trials[half].value) for half in HALVES}
        figures = {
            **judge.describe(columns, self.subject.data.classes),
            "halves": judge.describe_halves(columns, asked),
            "trials": {images: count_trials(study) for images, study in studies.items()},
            "failed": self.scorer.failed,
            "answer": judge.ANSWERS[answer],
            "kept": kept.describe(),
        }
        tried = {images: list_trials(study, self.space) for images, study in studies.items()}
        return Tuned(self.name, answer, kept, figures, tried)

    def study(self, images: str, *, also: Sequence[Mapping[str, Any]] = ()) -> Any:
        """Returns the study of these images, with as many trials as are asked for."""
        options, trials = self.options, self.options.trials
        places = places_of(images, self.count, options.images)
        first = self.space.first(self.fitted.get(images))
        # What the halves found is no part of it: with more trials it may be another.
        setup = {"space": self.space._asdict(), "first": first}
        setup |= {"seed": options.seed, "places": len(places)}
        study = search.open_study(self.storage, f"{self.name}, {images}", setup)
        search.search(
            study,
            self.space,
            self.scorer.confusion,
            places,
            first=[*first, *also],
            trials=trials,
            seed=options.seed,
            tell=partial(show_progress, trials=trials),
        )
        return study

    def columns(self, winners: Mapping[str, Candidate]) -> dict[str, judge.Column]:
        """Returns what is compared, of all images; what was fitted, on the half that it was not."""
        maps_of, count = self.scorer.maps, self.count
        maps = {judge.RAW: maps_of(candidates.RAW, range(count))}
        if self.fitted:
            alone = {half: calibrations.alone(self.fitted[half]) for half in HALVES}
            maps[judge.CALIBRATED] = judge.cross(maps_of, alone, count)
        maps[judge.DEFAULT] = maps_of(self.default, range(count))
        maps[judge.TUNED] = judge.cross(maps_of, winners, count)
        counted = partial(
            judge.count_maps,
            self.scorer.store,
            boundary_share=self.subject.config.eval.boundary,
        )
        return {name: counted(found) for name, found in maps.items()}

    def fit(self, answer: str, studies: Mapping[str, Any]) -> Candidate:
        """Returns the candidate of a column, fitted on all images where something is fitted."""
        if answer == judge.CALIBRATED:
            return calibrations.alone(self.fitted["all"])
        if answer == judge.TUNED:
            return self.space.candidate(search.best_trial(studies["all"], refined=True).params)
        return {judge.RAW: candidates.RAW, judge.DEFAULT: self.default}[answer]


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
