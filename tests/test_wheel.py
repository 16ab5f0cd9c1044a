"""The package as `pip install .` leaves it: without a checkout, from any directory."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "trashseg_jax", "configs")
IMPORT_ALL = """
import importlib, pkgutil, trashseg_jax
for module in pkgutil.walk_packages(trashseg_jax.__path__, "trashseg_jax."):
    importlib.import_module(module.name)
    print(module.name)
"""


# Where Python would look besides: with these, a checkout could answer in the wheel's place.
ELSEWHERE = ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "PYTHONUSERBASE")


def call(*command, cwd):
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={key: value for key, value in os.environ.items() if key not in ELSEWHERE},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of the sources: building leaves files in them."""
    folder = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder)
    options = ["--no-deps", "--no-index", "--no-build-isolation", "-q", "-w", folder / "dist"]
    done = call(sys.executable, "-m", "pip", "wheel", *options, ".", cwd=folder)
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The `bin` of a new environment that holds the wheel; what it needs is borrowed from ours."""
    folder = tmp_path_factory.mktemp("environment")
    done = call(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    assert done.returncode == 0, done.stderr
    python = folder / "bin" / "python"
    options = ["--no-deps", "--no-index", "-q"]
    done = call(
        sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    # A path in a .pth file: the editable install's own .pth files there are not read.
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    found = call(python, "-c", "import trashseg_jax; print(trashseg_jax.__file__)", cwd=folder)
    assert Path(found.stdout.strip()).is_relative_to(folder), found.stdout + found.stderr
    return folder / "bin"


def test_the_wheel_holds_configs_and_class_maps_below_the_package_and_nothing_beside_it(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for path in [*ROOT.glob("configs/*.py"), *ROOT.glob("trashseg_jax/data/class_maps/*.json")]:
        place = path.relative_to(ROOT).as_posix()
        assert f"trashseg_jax/{place.removeprefix('trashseg_jax/')}" in names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"trashseg_jax"}


def test_every_module_can_be_imported_from_another_directory(environment, tmp_path):
    done = call(environment / "python", "-c", IMPORT_ALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    modules = done.stdout.splitlines()
    for path in ROOT.glob("trashseg_jax/**/*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        assert ".".join(parts).removesuffix(".__init__") in ["trashseg_jax", *modules]


def test_the_command_finds_the_shipped_configs(environment, tmp_path):
    for arguments in ([], ["--help"]):
        helped = call(environment / "trashseg", *arguments, cwd=tmp_path)
        assert (helped.returncode, helped.stderr) == (0, "")
        assert helped.stdout.startswith("usage: trashseg COMMAND")
    wrong = call(
        environment / "trashseg", "train", "--config=focal", "--config.train.stepz=3", cwd=tmp_path
    )
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: --config.train.stepz: there is no such key")
    unknown = call(environment / "trashseg", "sing", cwd=tmp_path)
    assert unknown.returncode == 2
    assert (
        unknown.stderr
        == "error: trashseg sing: must be one of train, evaluate, calibrate, predict, export\n"
    )


def test_a_run_from_another_directory_uses_a_config_by_its_name(environment, tmp_path):
    """Up to what it lacks, a folder with data: the config was found and read."""
    done = call(environment / "trashseg", "train", "--config=focal_balanced:coco", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: config.data.dir is empty")
    assert not list(tmp_path.iterdir())
