"""The search for a candidate: studies of optuna that go on where they were stopped."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from trashseg_jax import calibrate
from trashseg_jax.errors import InputError
from tuning.candidates import Candidate, Space

ROUNDS = 4  # parts of the images, after each of which a trial may be given up
FEWEST = 8  # images in each part
STARTUP = 10  # trials before one is given up, or the others are asked where to look

Score = Callable[[Candidate, Sequence[int]], Int64[np.ndarray, "n k k"]]


def import_optuna() -> Any:
    """Returns optuna; raises InputError that says how to install it."""
    try:
        import optuna
    except ImportError as error:
        raise InputError(
            f'optuna cannot be imported ({error}); "pip install -r requirements-tune.txt" installs '
            "what tuning needs"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_storage(path: Path) -> Any:
    """Returns the journal in which all studies are kept."""
    optuna = import_optuna()
    from optuna.storages.journal import JournalFileBackend

    return optuna.storages.JournalStorage(JournalFileBackend(str(path)))


def open_study(storage: Any, name: str, setup: Mapping[str, Any]) -> Any:
    """Returns a study, begun or gone on with; a trial that was cut off counts for nothing.

    Raises InputError where it was begun with another setup.
    """
    optuna = import_optuna()
    study = optuna.create_study(
        storage=storage, study_name=name, direction="maximize", load_if_exists=True
    )
    setup = json.loads(json.dumps(setup))  # which knows no tuples
    before = study.user_attrs.get("setup", setup)
    if different := [key for key in setup if before.get(key) != setup[key]]:
        raise InputError(
            f"study {name!r}: was begun with another {', '.join(different)} "
            f"({before.get(different[0])}, not {setup[different[0]]}); name another folder with "
            "--out"
        )
    study.set_user_attr("setup", setup)
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def finished(study: Any) -> list[Any]:
    """Returns the trials that were tried, on all images or until they were given up."""
    states = import_optuna().trial.TrialState
    return study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED))


def search(
    study: Any,
    space: Space,
    score: Score,
    places: Sequence[int],
    *,
    first: Sequence[Mapping[str, Any]],
    trials: int,
    seed: int,
    tell: Callable[[Any], None] = lambda study: None,
) -> None:
    """Tries candidates on the images at these places until there are so many trials.

    Those of `first` come first. A trial's draws are of the seed and its number alone, so a search
    that was killed finds what it would have found. `tell` is called after each.
    """
    rounds = split_rounds(places, seed=seed)
    while (number := len(finished(study))) < trials:
        study.sampler, study.pruner = make_sampler(seed, number), make_pruner()
        if number < len(first):
            study.enqueue_trial(dict(first[number]))
        trial = study.ask()
        space.suggest(trial)
        candidate = space.candidate(trial.params)
        try_candidate(study, trial, candidate, score, rounds, keep=number < len(first))
        tell(study)


def try_candidate(
    study: Any,
    trial: Any,
    candidate: Candidate,
    score: Score,
    rounds: Sequence[Sequence[int]],
    *,
    keep: bool,
) -> None:
    """Tells the study the candidate's mIoU, or that it was given up; one to `keep` never is."""
    counts = []
    for number, part in enumerate(rounds):
        counts.append(score(candidate, part).sum(0))
        trial.report(float(calibrate.mean_iou(np.sum(counts, 0)[None])[0]), number)
        last = number == len(rounds) - 1
        if not last and not keep and trial.should_prune():
            study.tell(trial, state=import_optuna().trial.TrialState.PRUNED)
            return
    study.tell(trial, float(calibrate.mean_iou(np.sum(counts, 0)[None])[0]))


def split_rounds(places: Sequence[int], *, seed: int) -> list[list[int]]:
    """Returns the places in random order, in parts of about the same size."""
    order = np.random.default_rng(seed).permutation(np.asarray(places))
    count = max(1, min(ROUNDS, len(order) // FEWEST))
    return [part.tolist() for part in np.array_split(order, count)]


def make_sampler(seed: int, number: int) -> Any:
    """Returns the sampler of the trial of that number, which every start draws alike."""
    optuna = import_optuna()
    own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `multivariate` counts as an experiment
        return optuna.samplers.TPESampler(
            seed=own, n_startup_trials=STARTUP, multivariate=True, group=True
        )


def make_pruner() -> Any:
    return import_optuna().pruners.MedianPruner(n_startup_trials=STARTUP)


def best_trial(study: Any, *, refined: bool = False) -> Any:
    """Returns the trial of the best mIoU, the first of several, or the best with a CRF."""
    states = import_optuna().trial.TrialState
    complete = study.get_trials(deepcopy=False, states=(states.COMPLETE,))
    chosen = [trial for trial in complete if trial.params["crf"] or not refined]
    return max(chosen, key=lambda trial: trial.value)
