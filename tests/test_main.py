"""The command line, as a person meets it: subprocesses and what they print."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
REFERENCE = "--config=configs/reference.py"
# With AVX-512 TensorFlow does this by itself, and says so before it has read its log level.
LOUD = {"TF_ENABLE_ONEDNN_OPTS": "1"}


def call(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "trashseg_jax.main", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | LOUD | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def flags_of(config):
    """The tiny config as flags: what differs from configs/reference.py:aistage."""
    return [
        f"{REFERENCE}:aistage",
        f"--config.data.dir={config.data.dir}",
        f"--config.data.cache_dir={config.data.cache_dir}",
        "--config.data.image_size=32",
        "--config.model.encoder=resnet18",
        "--config.model.width=4",
        "--config.model.decoder_features=(8,8,8,8,8)",
        "--config.model.dtype=float32",
        "--config.train.steps=2",
        "--config.train.batch_size=4",
        "--config.eval.batch_size=4",
    ]


def test_training_and_evaluating_from_the_command_line(tiny_config, tmp_path):
    workdir = tmp_path / "run"
    trained = call(*flags_of(tiny_config()), f"--workdir={workdir}")
    assert trained.returncode == 0, trained.stderr
    figures = json.loads((workdir / "metrics.json").read_text())
    means = rf"{figures['miou']:.4f} +{figures['boundary_miou']:.4f}"
    assert re.search(rf"^mIoU +{means}$", trained.stdout, re.MULTILINE)
    assert "aistage/val: 5 images, step 2" in trained.stdout
    config = json.loads((workdir / "config.json").read_text())
    assert (config["train"]["steps"], config["train"]["epochs"]) == (2, 0.0)
    assert set(config["derived"]["alpha"].values()) == {1.0}
    # Of how many devices of which kind, with the processor's name in brackets.
    assert re.fullmatch(r"4 x CPU \(.+, \d+ cores\)", config["derived"]["device"])
    assert f"from step 0 to 2, on {config['derived']['device']}" in trained.stdout
    # No terminal, so no bar: plain lines.
    assert re.search(r"^step 2 of 2: loss \d\.\d+, .* images/s, 0 s left$", trained.stdout, re.M)
    assert "\r" not in trained.stdout + trained.stderr

    names = "metrics.json, samples.png, report.html"
    assert trained.stdout.splitlines()[-1] == f"{workdir}: {names}, log.jsonl"

    # It starts without what only a training needs, and so without the PyTorch that comes with it.
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent/tensorboardX.py").write_text("raise ImportError")
    absent = {"PYTHONPATH": str(tmp_path / "absent")}
    evaluated = call("--mode=evaluate", f"--workdir={workdir}", **absent)
    assert evaluated.returncode == 0, evaluated.stderr
    folder = workdir / "evaluations" / "val-2"
    assert evaluated.stdout.splitlines()[-1] == f"{folder}: {names}"
    assert json.loads((folder / "metrics.json").read_text()) == figures

    flags = [f"--config=run:{workdir}", "--config.eval.split=train"]
    flags += ["--config.eval.checkpoint=2", "--config.eval.tag=seen"]
    changed = call("--mode=evaluate", f"--workdir={workdir}", *flags)
    assert "aistage/train: 12 images, step 2" in changed.stdout, changed.stderr
    assert f"{workdir / 'evaluations/train-2-seen'}: {names}" in changed.stdout
    assert json.loads((workdir / "metrics.json").read_text()) == figures


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "error: --config is missing"),
        ([REFERENCE, "--config.train.stepz=3"], "nearest is --config.train.steps"),
        ([REFERENCE, "--config.optimiser.name=adam"], "nearest is --config.optimizer.name"),
        ([REFERENCE, "--noconfig.data.skip_badd"], "nearest is --config.data.skip_bad"),
        ([REFERENCE, "--config.train.steps=many"], "flag --config.train.steps=many: invalid"),
        ([REFERENCE, "--config.data.skip_bad=perhaps"], "flag --config.data.skip_bad=perhaps"),
        ([REFERENCE, "--workdr=x"], "Did you mean: workdir"),
        ([REFERENCE, "x"], "argument 'x'"),
        ([REFERENCE, "--mode=sing"], "<train|evaluate|calibrate>"),
        ([f"{REFERENCE}:moon"], "data set 'moon': must be one of demo, aistage, taco, coco"),
        (
            ["--config=configs/none.py"],
            "there is no file configs/none.py; those",
        ),
        (["--config=focl"], "go by their names alone: focal, "),
        (["--config"], "--config names nothing"),
        (["--config", "--workdir=x"], "--config names nothing"),
        (["-config=focl"], "go by their names alone: focal, "),
        (["--config=run"], "names no run; pass --config=run:FOLDER"),
        (["--config", "dilated:moon"], "data set 'moon': must be one of"),
        (["--config=reference:coco"], "config.data.dir is empty"),
        (["--config=~/none.py"], f"there is no file {Path.home()}/none.py"),
        ([REFERENCE, "--config.train.epochs=inf"], "config.train.epochs=inf: must be a number"),
        ([REFERENCE, "--config.optimizer.clip_norm=-1"], "clip_norm=-1.0: must be 0 (no clipping)"),
        ([REFERENCE, "--config.recipe=secret"], "must be one of modern, reference"),
        (["--mode=evaluate"], "error: --config is missing"),
        (["--mode=evaluate", "--workdir=/nowhere/run"], "/nowhere/run/config.json: does not exist"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_two(arguments, line):
    result = call(*arguments)
    assert result.returncode == 2
    assert line in result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ["focal", "own.py"])
def test_a_file_that_exists_wins_over_a_name_that_is_shipped(tmp_path, name):
    """The file has a data set of its own, which the refusal names; `focal` is shipped as well."""
    text = (ROOT / "configs/focal.py").read_text().replace('"demo"', '"taco"')
    (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "trashseg_jax.main", f"--config={name}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert "data set 'taco' needs the folder" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--helpshort"],
        ["--workdr=x"],
        ["--config=configs/none.py"],
        [REFERENCE, "--config.foo=1"],
        [REFERENCE, "--config.train.steps=many"],
        [REFERENCE, "--config.train.keep_checkpoints=0"],
        ["--mode=evaluate", "--workdir=/nowhere/run"],
    ],
)
def test_help_and_wrong_options_import_no_large_library(arguments):
    """What takes seconds; the libraries that a process has imported are told when it ends."""
    code = (
        "import atexit, runpy, sys\n"
        "large = {'jax', 'flax', 'numpy', 'tensorflow', 'tensorflow_datasets', 'orbax'}\n"
        "atexit.register(lambda: print('imported:', sorted(large & sys.modules.keys())))\n"
        "runpy.run_module('trashseg_jax.main', run_name='__main__', alter_sys=True)\n"
    )
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.stdout.splitlines()[-1] == "imported: []"


@pytest.mark.parametrize("platform", ["cuda", "imaginary"])
def test_a_platform_that_jax_lacks_is_one_line(tmp_path, platform):
    result = call(REFERENCE, f"--workdir={tmp_path / 'run'}", JAX_PLATFORMS=platform)
    assert result.returncode == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(f"error: JAX_PLATFORMS={platform}: JAX cannot use that platform")
    assert not (tmp_path / "run").exists()


def test_bad_data_is_one_line_and_leaves_nothing(tmp_path):
    workdir = tmp_path / "run"
    result = call(
        f"{REFERENCE}:aistage",
        f"--config.data.dir={tmp_path / 'absent'}",
        f"--config.data.cache_dir={tmp_path / 'cache'}",
        f"--workdir={workdir}",
    )
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith(f"error: {tmp_path / 'absent'}")
    assert "Traceback" not in result.stderr
    assert not workdir.exists()
    assert not (tmp_path / "cache").exists()
