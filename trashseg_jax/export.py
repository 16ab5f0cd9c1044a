"""The command line: `python -m trashseg_jax.export --workdir=runs/x --output=models/x`.

Makes a model's folder of a run, of the mean weights of several, or of a state_dict that was trained
with segmentation_models_pytorch.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections.config_flags import config_flags

from trashseg_jax import settings
from trashseg_jax.devices.large_pages import restart_with_large_pages
from trashseg_jax.errors import InputError
from trashseg_jax.main import CONFIG, WORKDIR, check_devices, parse_flags, run

if TYPE_CHECKING:
    from trashseg_jax.model_folder import Model

# Other command lines have a flag of that name; one process may import several (the tests do).
OUTPUT = flags.DEFINE_string("output", None, "The folder to write.", allow_override=True)
OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a model's folder that is there.")
ONNX = flags.DEFINE_bool("onnx", False, "Write model.onnx too.")
FROM_SMP = flags.DEFINE_string(
    "from_smp", None, "In place of --workdir: the state_dict of an smp.Unet, of any file format."
)
SOUP = flags.DEFINE_multi_string(
    "soup",
    [],
    "In place of --workdir, repeated: folders of runs or models whose weights are averaged.",
)
ENCODER = flags.DEFINE_string("encoder", None, "With --from_smp: its encoder, resnet34 say.")
CLASSES = flags.DEFINE_list(
    "classes", None, "With --from_smp: the classes' names in order, or the name of a class map."
)
NORMALIZE = flags.DEFINE_string(
    "normalize", "imagenet", "With --from_smp: what its pixels were normalised by."
)
IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 512, "With --from_smp: to what it scales a photograph's longer side."
)
for name in ("workdir", "config"):
    flags.declare_key_flag(name)

OVERRIDABLE = ("eval.checkpoint", "eval.calibration")


def main(argv: list[str]) -> None:
    del argv
    check_source()
    output = choose_output()
    check_devices()
    # Imported late: --help and a wrong flag answer at once.
    from trashseg_jax import model_sources

    onnx = import_onnx() if ONNX.value else None
    if SOUP.value:
        model = cook_soup([Path(settings.expand_home(name)) for name in SOUP.value])
    elif FROM_SMP.value is None:
        model = model_sources.model_of_run(
            CONFIG.value, Path(settings.expand_home(WORKDIR.value or ""))
        )
    else:
        model = model_sources.model_of_smp(
            Path(settings.expand_home(FROM_SMP.value)),
            encoder=ENCODER.value or "",
            class_names=tuple(CLASSES.value or ()),
            normalize=NORMALIZE.value,
            image_size=IMAGE_SIZE.value,
        )
    write_folder(output, model, onnx)
    print(f"{output}: {', '.join(sorted(path.name for path in output.iterdir()))}")


def cook_soup(folders: list[Path]) -> "Model":
    """Returns the model of the mean weights of several folders' models."""
    from trashseg_jax import model_sources, scored_models

    scored_models.check_named_once("soup", folders)
    config: Any = CONFIG.value
    checkpoint = "latest" if config is None else str(config.eval.checkpoint)
    return model_sources.average_weights(
        {
            folder: model_sources.load(folder, checkpoint=checkpoint, calibration=False)
            for folder in folders
        }
    )


def parse(argv: list[str]) -> list[str]:
    """Parses the command line as `main` does; the config is always the run's own."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("workdir", "soup"):
        parser.add_argument(f"--{name}", action="append", default=[])
    parser.add_argument("--config")
    given, _ = parser.parse_known_args(argv[1:])
    if given.config is not None:
        raise InputError("--config: an export reads the run's own config; leave it out")
    if len(given.workdir) > 1:
        raise InputError(
            "--workdir: appears twice; to average the weights of several runs pass "
            f"--soup={given.workdir[0]} --soup={given.workdir[1]}"
        )
    if runs := given.workdir or [name for name in given.soup if not is_model(name)]:
        argv = [argv[0], f"--config=run:{runs[0]}", *argv[1:]]
    return parse_flags(argv)


def is_model(name: str) -> bool:
    from trashseg_jax.model_description import holds_model  # imports jax

    return holds_model(Path(settings.expand_home(name)))


def check_source() -> None:
    """Raises InputError unless the flags name one source, and only what belongs to it."""
    sources = [WORKDIR.value is not None, FROM_SMP.value is not None, bool(SOUP.value)]
    if sum(sources) != 1:
        raise InputError(
            "pass --workdir=RUN or --from_smp=FILE, or --soup=FOLDER twice or more; one of these"
        )
    if len(SOUP.value) == 1:
        raise InputError(f"--soup={SOUP.value[0]}: is one model; name two or more to average")
    if FROM_SMP.value is not None and (ENCODER.value is None or CLASSES.value is None):
        raise InputError(
            "--from_smp needs --encoder=resnet34, say, and --classes=Background,Paper,... in the "
            "order of its outputs, or --classes=recycle_trash"
        )
    others = ("mode", "model", "coordinator", "distributed")
    foreign = [name for name in others if _is_present(name)]
    if FROM_SMP.value is None:
        foreign += [n for n in ("encoder", "classes", "normalize", "image_size") if _is_present(n)]
        overrides = config_flags.get_override_values(flags.FLAGS["config"]) if CONFIG.value else {}
        foreign += [f"config.{key}" for key in overrides if key not in OVERRIDABLE]
    if foreign:
        raise InputError(
            f"--{foreign[0]}: does not belong to this export; a run is exported as it is, but for "
            "--config.eval.checkpoint and --config.eval.calibration, and --encoder, --classes, "
            "--normalize and --image_size belong to --from_smp"
        )


def _is_present(name: str) -> bool:
    return bool(flags.FLAGS[name].present)


def choose_output() -> Path:
    """Returns --output; raises InputError for a folder that is there, unless it may be replaced."""
    from trashseg_jax.model_description import FILES, is_model_folder

    if OUTPUT.value is None:
        raise InputError("--output is missing; pass the folder to write, models/NAME say")
    output = Path(settings.expand_home(OUTPUT.value))
    if not output.exists():
        return output
    if not output.is_dir():
        raise InputError(f"--output={output}: is a file; pass a folder's name")
    names = {path.name for path in output.iterdir()}
    if names and not is_model_folder(output):
        raise InputError(f"--output={output}: is not empty and not a model; pass another folder")
    if names and not OVERWRITE.value:
        raise InputError(f"--output={output}: holds a model; pass --overwrite, or another folder")
    if foreign := sorted(names.difference(FILES)):
        raise InputError(
            f"--output={output}: holds {foreign[0]}, which no export wrote and --overwrite would "
            "remove; move it, or pass another folder"
        )
    return output


def import_onnx() -> Any:
    """Returns the module that writes ONNX; raises InputError where the onnx package is absent."""
    try:
        from trashseg_jax import onnx_export
    except ImportError as error:
        raise InputError(
            f"--onnx: needs the onnx package ({error}); pip install trashseg_jax[onnx]"
        ) from error
    return onnx_export


def write_folder(output: Path, model: "Model", onnx: Any) -> None:
    """Writes the folder, whole or not at all; `onnx` is the module that writes model.onnx, if any.

    Raises InputError where the file system refuses.
    """
    from trashseg_jax import model_folder
    from trashseg_jax.report import card, files

    try:
        with files.replaced_folder(output) as folder:
            model_folder.write(folder, model)
            text = card.format_card(model, name=output.resolve().name, onnx=onnx is not None)
            (folder / "README.md").write_text(text, encoding="utf-8")
            if onnx is not None:
                (folder / "model.onnx").write_bytes(onnx.make_onnx(model).SerializeToString())
    except OSError as error:
        raise InputError(
            f"--output={output}: cannot be written ({error.strerror}); make room, or pass another "
            "folder"
        ) from error


if __name__ == "__main__":
    restart_with_large_pages()
    run(main, parse)
