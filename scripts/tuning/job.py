"""A subject to its tuned config: what is stored, and what is written."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trashseg_jax import build, folders
from trashseg_jax.refine import calibration, engines
from trashseg_jax.refine.calibration import Calibration
from trashseg_jax.report import files
from trashseg_jax.run.lock import RunLock
from tuning import judge, plot, search, store
from tuning.by_engine import EngineSearch, Options, Tuned
from tuning.scoring import Scorer
from tuning.store import Store
from tuning.subject import Subject

REMEDY = "name another folder with --out"
STORE, JOURNAL, REPORT = "probabilities", "trials.log", "tuning.json"
BOTH = ("pydensecrf", "device")


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
    """Tunes the CRF of one engine, draws its trials, and prints what it came to."""
    crf = subject.config.crf.copy_and_resolve_references()
    crf.update({"engine": name, "workers": options.jobs})
    with build.build_crf(crf, side=subject.config.data.image_size) as engine:
        scorer = Scorer(stored, engine, subject.prior)
        tuned = EngineSearch(name, subject, scorer, storage, options).tune()
    plot.save_trials(out / f"trials-{name}.png", tuned.trials, title=name)
    print(f"\n{name}\n{judge.format_table(tuned.figures)}\n{judge.ANSWERS[tuned.answer]}")
    return tuned


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


def hand_on_calibration(out: Path, run: Path, *, write: bool) -> None:
    """Puts the calibration that was found, if any, into the run, or says how to."""
    found, target = out / calibration.FILE, run / calibration.FILE
    if not found.exists():
        return
    if not write:
        print(f"{out}: goes with its calibration.json; to use both, cp {found} {target}")
        return
    with folders.explained(run, "copy the run to a folder that can be written"):
        files.write_json(target, json.loads(found.read_text()))
    print(f"{target}: written")
