"""Finds the CRF's parameters, and whether there should be a CRF at all.

    python scripts/tune_crf.py --model=runs/demo --split=val --out=tuned/demo
    trashseg evaluate --workdir=runs/demo --config=run:tuned/demo --config.eval.split=train
    trashseg predict --model=runs/demo --config=run:tuned/demo --input=photos/ --output=out/

--model is a run, whose calibration is searched too, or a model's folder, which is tuned as it is
and needs --config=NAME:DATASET --config.data.dir=FOLDER besides. The split's probabilities are
stored in --out once. Each half of the images is tuned by itself and judged by what the other half
asked for; where the CRF's gain is not beyond noise, it is switched off. Started again, the search
goes on where it was stopped. See docs/crf.md.
"""

from pathlib import Path

from absl import flags

from trashseg_jax import settings
from trashseg_jax.errors import InputError
from trashseg_jax.main import (
    COMPILATION_CACHE,
    CONFIG,
    MODEL,
    check_devices,
    overrides,
    parse_flags,
    run,
)

SPLIT = flags.DEFINE_enum("split", "val", ["val", "train"], "The images that it is tuned on.")
OUT = flags.DEFINE_string("out", None, "The folder to write into; a search that is there goes on.")
ENGINE = flags.DEFINE_enum(
    "engine", "auto", ["auto", "pydensecrf", "device", "both"], "What computes the CRF."
)
TRIALS = flags.DEFINE_integer("trials", 60, "Candidates that each half tries.", 4)
IMAGES = flags.DEFINE_integer(
    "images", 0, "Images of each half that a candidate is tried on; 0: all.", 0
)
JOBS = flags.DEFINE_integer("jobs", -1, "pydensecrf's processes; -1: one a core, 0: none.", -1)
SEED = flags.DEFINE_integer("seed", 0, "Of the search.", 0)
DTYPE = flags.DEFINE_enum(
    "dtype", "float16", ["float16", "float32"], "As which probabilities are stored."
)
SEARCH_CALIBRATION = flags.DEFINE_bool(
    "search_calibration", True, "Of a run: search its calibration too; else it is tuned as it is."
)
WRITE_CALIBRATION = flags.DEFINE_bool(
    "write_calibration", False, "Put the calibration that is found into the run."
)
for name in ("model", "config", "compilation_cache"):
    flags.declare_key_flag(name)


def main(argv: list[str]) -> None:
    del argv
    if len(MODEL.value) != 1:
        raise InputError("--model is missing, or appears twice; name the run or the model to tune")
    if not OUT.value:
        raise InputError("--out is missing; name the folder to write into")
    folder, out = (Path(settings.expand_home(name)) for name in (MODEL.value[0], OUT.value))
    check_devices()

    # Imported late: --help and a wrong flag answer at once, and the CRF's processes, which import
    # this file, need none of it.
    from tuning import by_engine, job, search, subject

    from trashseg_jax.devices import program_cache

    search.import_optuna()
    if COMPILATION_CACHE.value:
        program_cache.keep_programs()
    job.tune(
        subject.read_subject(
            folder,
            CONFIG.value,
            overridden=overrides() if CONFIG.value else (),
            split=SPLIT.value,
            search_calibration=SEARCH_CALIBRATION.value,
        ),
        out,
        by_engine.Options(
            engine=ENGINE.value,
            trials=TRIALS.value,
            images=IMAGES.value,
            jobs=JOBS.value,
            seed=SEED.value,
            dtype=DTYPE.value,
        ),
    )
    job.hand_on_calibration(out, folder, write=WRITE_CALIBRATION.value)


if __name__ == "__main__":
    run(main, parse_flags)
