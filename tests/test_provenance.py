"""What it takes to make figures again."""

import shlex
import subprocess
from pathlib import Path

import pytest
import reproduce_table
from ml_collections import ConfigDict

from trashseg_jax import provenance, settings
from trashseg_jax.configs import best_cpu, demo, focal_balanced

CONFIGS = {"best_cpu": best_cpu, "demo": demo, "focal_balanced": focal_balanced}


def comparable(config):
    return {k: v for k, v in settings.flatten(config) if not k.startswith("recipes.")}


@pytest.mark.parametrize("recipe", ["modern", "reference"])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_command_makes_the_same_config(name, recipe):
    config = CONFIGS[name].get_config("demo")
    config.recipe = recipe
    config.data.dir = "/a folder/with 'quotes'"
    settings.resolve_config(config, overridden={"data.dir"})
    config.loss.alpha_values = (1.0, 2.0)
    options = provenance.differences(config)
    command = provenance.commands(config, options, workdir=Path("runs/a b"))["Train it again"]
    _, _, _, workdir, *flags = shlex.split(command.replace("\\\n", " "))
    assert workdir == "--workdir=runs/a b-again"
    place = f"--config={reproduce_table.ROOT}/configs/default.py:demo"
    flags = [place if flag == "--config=default:demo" else flag for flag in flags]
    again = comparable(reproduce_table.config_of(flags))
    if "loss.alpha_values" in again:  # a flag of any type is a text, which is read later
        assert again.pop("loss.alpha_values") in ("(1.0, 2.0)", (1.0, 2.0))
    expected = comparable(config)
    expected.pop("loss.alpha_values")
    assert again == expected


def test_what_is_the_default_is_no_difference():
    config = ConfigDict(CONFIGS["demo"].get_config("demo"))
    config.model.encoder = "resnet50"
    found = {one.key: (one.default, one.value) for one in provenance.differences(config)}
    assert found["model.encoder"] == ("resnet18", "resnet50")
    assert "optimizer.schedule" not in found
    assert not any(key.startswith("recipe") for key in found)


def test_the_commit_is_that_of_the_checkout_and_says_if_files_have_changed(tmp_path):
    assert provenance.find_commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    commit = provenance.find_commit(tmp_path)
    assert commit is not None
    assert len(commit) == 12
    (tmp_path / "a.txt").write_text("a")
    subprocess.run([*git, "add", "a.txt"], check=True)
    assert provenance.find_commit(tmp_path) == f"{commit}, with changes"
