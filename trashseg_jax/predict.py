"""The command line: `python -m trashseg_jax.predict --model=runs/x --input=photos/ --output=out/`.

Photographs to masks, overlays and figures; see docs/predict.md.
"""

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from trashseg_jax.devices.large_pages import restart_with_large_pages
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

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trashseg_jax.inference import Segmenter
    from trashseg_jax.model_folder import Model
    from trashseg_jax.prediction.finish import Wanted
    from trashseg_jax.prediction.inputs import Photo
    from trashseg_jax.prediction.job import Segments
    from trashseg_jax.prediction.outputs import Options, Outputs

INPUT = flags.DEFINE_multi_string(
    "input", [], "Photographs: a folder, a file, a glob in quotes or a COCO json; may be repeated."
)
# Overridden: export.py has a flag of this name, and a test imports both.
OUTPUT = flags.DEFINE_string("output", None, "The folder to write into.", allow_override=True)
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "Of a run: latest, best, or a step.")
SCALE = flags.DEFINE_string("scale", "fit", "fit: the longer side to the training size; or tile.")
TILE_SCALE = flags.DEFINE_float(
    "tile_scale", 1.0, "Of tile: the factor by which photographs are scaled before."
)
TTA = flags.DEFINE_list("tta", [], "Average the probabilities over these: flip, scales.")
PREDICT_BATCH = flags.DEFINE_integer(
    "batch_size", 0, "Images that the device takes at once; 0: 8, and 4 on CPUs.", 0
)
THREADS = flags.DEFINE_integer(
    "threads", 0, "Threads that read, and as many that write; 0: one a core, at most 8.", 0
)
CALIBRATION = flags.DEFINE_bool(
    "calibration", True, "Apply the calibrations that come with the models (docs/calibration.md)."
)
PROBS = flags.DEFINE_bool("probs", False, "Write all probabilities: float16, h x w x classes.")
SUBMISSION = flags.DEFINE_string("submission", None, "Sample csv of a submission.csv to write.")
DATASET = flags.DEFINE_string("dataset", None, "A folder for a COCO data set of the predictions.")
MIN_CONFIDENCE = flags.DEFINE_float(
    "min_confidence", 0.5, "Pixels below it count nowhere in --dataset.", 0.0, 1.0
)
VAL_FRACTION = flags.DEFINE_float(
    "val_fraction", 0.1, "The share of the photographs in val.json of --dataset.", 0.0, 0.9
)
SHARD = flags.DEFINE_string("shard", "", "This process's part, 3/16 for example; or slurm.")
MERGE = flags.DEFINE_bool("merge", False, "Write the summaries of --output when all shards ended.")
for name in ("model", "config", "compilation_cache"):
    flags.declare_key_flag(name)


def main(argv: list[str]) -> int:
    """Returns the exit code: 1 where photographs were bad."""
    del argv
    if not OUTPUT.value:
        raise InputError("--output is missing; name the folder to write into")
    output = Path(OUTPUT.value).expanduser()
    bad = merge(output) if MERGE.value else predict(output)
    if bad:
        print(f"{len(bad)} photographs were left out:", *bad, sep="\n  ")
    return 1 if bad else 0


def merge(output: Path) -> list[str]:
    """Writes the summaries of all shards; returns why photographs are not in them."""
    from trashseg_jax import folders
    from trashseg_jax.prediction import manifest
    from trashseg_jax.prediction.finish import finish
    from trashseg_jax.prediction.outputs import Outputs

    job = manifest.read(output)
    wanted = read_wanted()
    wanted.check(job.photos)
    with folders.explained(output, "make room, or pass another --output"):
        bad = finish(Outputs(output, job.options), job, wanted)
    print(f"{output}: index.html, summary.csv, predictions.json")
    return bad


def predict(output: Path) -> list[str]:
    """Predicts what is not predicted yet; returns why photographs could not be."""
    from trashseg_jax.prediction.inputs import list_photos
    from trashseg_jax.prediction.shards import parse_shard

    # What can be said before anything is loaded.
    if not MODEL.value or not INPUT.value:
        raise InputError("--model and --input are needed: what predicts, and the photographs")
    shard = parse_shard(SHARD.value, os.environ)
    wanted = read_wanted()
    if shard.count > 1 and (wanted.sample or wanted.dataset):
        raise InputError("--submission and --dataset need all photographs: pass them with --merge")
    photos = list_photos(INPUT.value, output=output)
    wanted.check(photos)
    config = read_config()
    check_devices()

    # Imported late: --help and a wrong flag answer at once.
    from trashseg_jax import folders
    from trashseg_jax.devices import program_cache
    from trashseg_jax.devices.compiling import on_cpu
    from trashseg_jax.prediction import models
    from trashseg_jax.prediction.finish import finish
    from trashseg_jax.prediction.manifest import Manifest
    from trashseg_jax.prediction.manifest import write as write_manifest
    from trashseg_jax.prediction.outputs import Outputs
    from trashseg_jax.refine import calibration

    remedy = "make room, or pass another --output"
    folders.check_writable(output, remedy)
    if COMPILATION_CACHE.value:
        program_cache.keep_programs()
    folders_of_models = [Path(name).expanduser() for name in MODEL.value]
    model, *others = models.load_all(
        folders_of_models,
        checkpoint=CHECKPOINT.value,
        calibration=CALIBRATION.value and (config is None or config.eval.calibration),
    )
    for folder, one in zip(folders_of_models, (model, *others), strict=True):
        if one.calibration:
            print(calibration.announce(one.calibration, of=str(folder)))
    # On CPUs more of them are no faster, and memory is the machine's.
    batch_size = PREDICT_BATCH.value or (4 if on_cpu() else 8)
    segmenter = models.make_segmenter(
        model,
        *others,
        scale=SCALE.value,
        tile_scale=TILE_SCALE.value,
        tta=tuple(TTA.value),
        batch_size=batch_size,
        keep_probs=PROBS.value,
    )
    crf = config.crf if config is not None and config.crf.enabled else None
    job = Manifest(read_options(model, *others, crf=crf), photos)
    segments, refining = build_refinement(segmenter, crf)
    del model, others  # the devices have a copy of their weights
    outputs = Outputs(output, job.options)
    with folders.explained(output, remedy):
        output.mkdir(parents=True, exist_ok=True)
        write_manifest(output, job, shard)
        with refining:
            predict_missing(segments, outputs, shard.part(photos))
        if shard.count > 1:
            print(
                f"{output}: when all shards have ended: trashseg predict --merge --output={output}"
            )
            return list_faults(outputs, shard.part(photos))
        bad = finish(outputs, job, wanted)
    print(f"{output}: index.html, summary.csv, predictions.json, masks, overlays")
    return bad


def read_config() -> Any:
    """Returns --config, None without it; raises InputError for what is none of predict's."""
    from trashseg_jax.configs import ranges

    config: Any = CONFIG.value
    if config is None:
        return None
    for key in overrides():
        if not key.startswith("crf.") and key != "eval.calibration":
            raise InputError(
                f"--config.{key}: predict reads config.crf and config.eval.calibration alone; "
                "leave it out"
            )
    ranges.check(config)
    if config.crf.enabled and (SCALE.value != "fit" or TTA.value or PROBS.value):
        raise InputError(
            "config.crf.enabled: the CRF refines the classes of the scaled photograph; leave out "
            "--scale=tile, --tta and --probs, or pass --config.crf.enabled=False"
        )
    return config


def build_refinement(
    segmenter: "Segmenter", crf: Any
) -> "tuple[Segments, contextlib.AbstractContextManager[Any]]":
    """Returns what segments photographs, and the CRF's engine, to be started before."""
    if crf is None:
        return segmenter, contextlib.nullcontext()
    from trashseg_jax import build
    from trashseg_jax.prediction.refined import RefinedSegmenter

    engine = build.build_crf(crf, side=segmenter.image_size)
    return RefinedSegmenter(segmenter, engine), engine


def predict_missing(segmenter: "Segments", outputs: "Outputs", photos: "Sequence[Photo]") -> None:
    """Predicts the photographs that these outputs lack, and says how many were there."""
    from trashseg_jax.prediction.job import predict_photos

    todo, others = [], 0
    for photo in photos:
        record = outputs.read_record(photo)
        if not outputs.is_done(photo, record):
            todo.append(photo)
            others += record is not None and not outputs.is_current(record)
    if others:
        print(f"{outputs.folder}: {others} photographs have files of another model or option")
    if len(todo) < len(photos):
        print(f"{outputs.folder}: {len(photos) - len(todo)} of {len(photos)} are there already")
    threads = THREADS.value or min(os.cpu_count() or 1, 8)
    predict_photos(todo, segmenter, outputs, threads=threads)


def list_faults(outputs: "Outputs", photos: "Sequence[Photo]") -> list[str]:
    """Returns why there is nothing of some photographs."""
    records = filter(None, map(outputs.read_record, photos))
    return [record["fault"] for record in records if "fault" in record]


def read_options(model: "Model", *others: "Model", crf: Any) -> "Options":
    from trashseg_jax.prediction.outputs import Options

    return Options(
        model="+".join(one.digest() for one in (model, *others)),
        classes=model.classes,
        palette=tuple(map(tuple, model.palette.tolist())),
        scale=SCALE.value,
        tile_scale=TILE_SCALE.value,
        tta=tuple(TTA.value),
        probs=PROBS.value,
        min_confidence=MIN_CONFIDENCE.value,
        crf=describe_crf(crf) if crf else (),
    )


def describe_crf(crf: Any) -> tuple[tuple[str, Any], ...]:
    """Returns what refined classes depend on: the engine that computes them and its parameters."""
    from trashseg_jax.refine import engines

    beside = ("enabled", "workers", "timeout", "tuned_on")
    named = {**crf.to_dict(), "engine": engines.resolve(crf.engine)}
    return tuple(sorted((key, value) for key, value in named.items() if key not in beside))


def read_wanted() -> "Wanted":
    from trashseg_jax.prediction.finish import Wanted

    sample, dataset = SUBMISSION.value, DATASET.value
    return Wanted(
        sample=Path(sample).expanduser() if sample else None,
        dataset=Path(dataset).expanduser() if dataset else None,
        val_fraction=VAL_FRACTION.value,
    )


if __name__ == "__main__":
    restart_with_large_pages()
    run(main, parse_flags)
