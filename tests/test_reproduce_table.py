import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import reproduce_table as script

from trashseg_jax.configs import ranges
from trashseg_jax.report.files import write_json

# design.md's bottom rows, which the reference published beside its classes.
PUBLISHED = {
    "reference U-Net": (0.4495, 0.4945),
    "focal": (0.4538, 0.4992),
    "focal, balanced alpha": (0.4754, 0.4565),
    "dilated": (0.4267, 0.4694),
    "dilated, focal": (0.3917, 0.3904),
    "CRF, focal, balanced alpha": (0.3865, 0.4019),
}


def figures(shift=0.0, **iou):
    scores = {"Background": 0.9 + shift, "Paper": 0.5 + shift, "Battery": None, **iou}
    defined = [v for v in scores.values() if v is not None]
    return {
        "iou": scores,
        "num_images": 20,
        "miou": statistics.mean(defined),
        "miou_interval": [0.2 + shift, 0.4 + shift],
        "pixel_share": {"Background": 0.7, "Paper": 0.29, "Battery": 0.01},
    }


@pytest.mark.parametrize("experiment", script.EXPERIMENTS, ids=lambda e: e.title)
def test_reference_columns_have_the_published_means(experiment):
    column = script.reference_column(experiment, "Battery")
    miou, common = PUBLISHED[experiment.title]
    assert column["mIoU"] == pytest.approx(miou, abs=6e-5)
    assert column["mIoU without Battery"] == pytest.approx(common, abs=6e-5)


@pytest.mark.parametrize("suite", script.SUITES)
def test_experiments_of_a_suite_are_sound_and_have_folders_of_their_own(suite):
    """But for the CRF's, which is an evaluation of another one's run."""
    options = argparse.Namespace(dataset="aistage", data_dir="data", steps=None)
    trained = [e for e in script.SUITES[suite] if not e.refined]
    for experiment in trained:
        ranges.check(script.config_of(script.run_flags(options, experiment, 0)))
    assert len({e.folder or e.config for e in trained}) == len(trained)


def test_each_ablation_changes_what_it_leaves_out_and_nothing_else():
    options = argparse.Namespace(dataset="aistage", data_dir="data", steps=None)
    best, *others = (
        script.comparable(script.config_of(script.run_flags(options, experiment, 0)))
        for experiment in script.SUITES["ablation"]
    )
    for experiment, changed in zip(script.SUITES["ablation"][1:], others, strict=True):
        named = {flag.removeprefix("--config.").partition("=")[0] for flag in experiment.flags}
        assert {key for key in best if best[key] != changed[key]} == named


def test_column_is_mean_and_deviation_over_the_seeds_that_define_a_class():
    column = script.measured_column(
        [figures(), figures(0.02), figures(0.04, Battery=0.3)], "Battery"
    )
    assert column["Paper"] == pytest.approx((0.52, 0.02, 3))
    assert column["Battery"] == (0.3, 0.0, 1)
    assert column["mIoU without Battery"].mean == pytest.approx(0.72)
    assert script.measured_column([figures()], "Battery")["Battery"] is None


def test_moves_count_beyond_twice_their_standard_error():
    before, after = script.Score(0.5, 0.03, 9), script.Score(0.53, 0.04, 9)
    # Standard error hypot(0.01, 0.0133) = 0.0167.
    assert script.move(after, before) == (pytest.approx(0.03), False)
    assert script.move(after._replace(mean=0.54), before) == (pytest.approx(0.04), True)
    assert script.move(None, before) is None
    assert script.move(script.Score(0.9, 0.0, 1), script.Score(0.1, 0.0, 1))[1] is False


def test_files_hold_every_row_and_the_findings(tmp_path):
    results = {
        e: [figures(0.1 * i), figures(0.1 * i + 0.001)] for i, e in enumerate(script.EXPERIMENTS)
    }
    script.write_tables(tmp_path, results, dataset="demo")
    text = (tmp_path / "table.md").read_text()
    assert "| Paper | 0.5005 ± 0.0007 | 0.6834 | 0.6005 ± 0.0007 | 0.6823 |" in text
    assert "resamples of the 20 images, mean of the seeds: reference U-Net 0.201 to 0.401;" in text
    assert "focal: beyond the spread over seeds Background +0.100, Paper +0.100" in text
    assert json.loads((tmp_path / "table.json").read_text())["focal"]["measured"]["Battery"] is None
    assert "<td>Paper" in (tmp_path / "table.html").read_text()


class Runs:
    """Stands in for the runs: notes their commands, and leaves what they would."""

    def __init__(self, stop_at=None, evaluations="."):
        self.commands, self.stop_at, self.evaluations = [], stop_at, evaluations

    def __call__(self, command):
        self.commands.append(command)
        workdir = Path(next(c for c in command if c.startswith("--workdir=")).partition("=")[2])
        workdir.mkdir(parents=True, exist_ok=True)
        config = script.config_of([c for c in command if c.startswith("--config")])
        result = figures() | {"step": config.train.steps, "split": config.eval.split}
        if "--mode=evaluate" in command:
            result["crf"] = figures()
            workdir = workdir / self.evaluations
            workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "config.json", {**config.to_dict(), "derived": {}})
        write_json(workdir / "metrics.json", result)
        if len(self.commands) == self.stop_at:
            raise KeyboardInterrupt


def run_script(monkeypatch, out, runs, *arguments):
    monkeypatch.setattr(script, "run_to_the_end", runs)
    monkeypatch.setattr(sys, "argv", ["table", f"--out={out}", *arguments])
    script.main()


@pytest.mark.parametrize("evaluations", [".", "evaluations/val-1000"])
def test_interrupted_table_goes_on_where_it_was(tmp_path, monkeypatch, evaluations):
    """Runs that have their metrics are not run again; the CRF row scores the third one's run."""
    runs = Runs(stop_at=4, evaluations=evaluations)
    with pytest.raises(KeyboardInterrupt):
        run_script(monkeypatch, tmp_path, runs, "--seeds=1", "--", "--x=1")
    # What no figure depends on may differ.
    more = ("--x=1", "--config.train.log_every=7")
    run_script(monkeypatch, tmp_path, runs, "--seeds=1", "--", *more)
    assert len(runs.commands) == 6  # five trainings and one evaluation
    assert all("--x=1" in command for command in runs.commands)
    assert ["--mode=evaluate" in command for command in runs.commands] == [False] * 5 + [True]
    assert (tmp_path / "table.md").exists()


def test_the_config_that_is_compared_is_that_of_the_flags():
    flags = [f"--config={script.ROOT}/configs/focal.py:taco", "--config.train.batch_size=5"]
    config = script.config_of([*flags, "--config.train.steps=70", "--nocompilation_cache"])
    assert (config.loss.name, config.data.name, config.train.batch_size) == ("focal", "taco", 5)
    assert (config.train.steps, config.train.epochs) == (70, 0.0)  # as trashseg_jax.main resolves


def files_in(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


OTHERS = [
    (["--steps=200"], "train.steps", 1000, 200),
    (["--", "--config.optimizer.weight_decay=0.1"], "optimizer.weight_decay", 0.01, 0.1),
    (["--", "--config.recipe=reference"], "loss.reduction", "mean", "reference"),
    (["--", "--config.eval.split=train"], "eval.split", "val", "train"),
    (["--", "--config.data.demo.seed=3"], "data.demo.seed", 0, 3),
]


@pytest.mark.parametrize(("flags", "key", "was", "now"), OTHERS, ids=lambda v: str(v)[:40])
def test_runs_of_other_settings_are_refused_or_replaced_never_averaged(
    tmp_path, monkeypatch, flags, key, was, now
):
    """One seed is there, with the defaults; two are asked for with a flag."""
    runs = Runs()
    run_script(monkeypatch, tmp_path, runs, "--seeds=1")
    before = files_in(tmp_path)
    monkeypatch.setattr(script, "SHOWN", 99)
    with pytest.raises(SystemExit) as refusal:
        run_script(monkeypatch, tmp_path, runs, "--seeds=2", *flags)
    line = str(refusal.value)
    assert f"{key} was {was!r}, is {now!r}" in line
    assert "(and 4 other runs)" in line
    assert "--out" in line
    assert "--retrain" in line
    assert "\n" not in line
    assert files_in(tmp_path) == before
    assert len(runs.commands) == 6

    run_script(monkeypatch, tmp_path, runs, "--seeds=2", "--retrain", *flags)
    assert len(runs.commands) == 6 + 12
    configs = [script.stored_run.get_config(str(r)) for r in tmp_path.glob("[!r]*-seed?")]
    configs += [script.stored_run.get_config(str(r)) for r in tmp_path.glob("reference-seed?")]
    assert [script.comparable(config)[key] for config in configs] == [now] * 10
    assert files_in(tmp_path / "replaced-focal-seed0").keys()


def test_figures_of_a_shorter_run_or_another_split_are_not_taken_over(tmp_path, monkeypatch):
    """As where a longer training in the same folder was killed: its config is there, no end."""
    runs = Runs()
    run_script(monkeypatch, tmp_path, runs, "--seeds=1")
    for name, change in (("reference", {"step": 200}), ("focal", {"split": "train"})):
        path = tmp_path / f"{name}-seed0" / "metrics.json"
        write_json(path, json.loads(path.read_text()) | change)
    run_script(monkeypatch, tmp_path, runs, "--seeds=1")
    again = [Path(c[3].partition("=")[2]).name for c in runs.commands[6:]]
    assert again == ["reference-seed0", "focal-seed0"]


@pytest.mark.parametrize("flag", ["--config.train.stepz=3", "--config.train.steps=many"])
def test_wrong_flag_is_one_line_before_anything_is_run(tmp_path, monkeypatch, flag):
    runs = Runs()
    with pytest.raises(SystemExit, match=r"^error: ") as refusal:
        run_script(monkeypatch, tmp_path, runs, "--seeds=1", "--", flag)
    assert flag.partition("=")[0].rpartition(".")[2] in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not runs.commands


def test_crf_figures_of_other_settings_are_not_taken_over(tmp_path, monkeypatch):
    """As where somebody has scored the run with another CRF by hand."""
    runs = Runs(evaluations="evaluations/val-1000")
    run_script(monkeypatch, tmp_path, runs, "--seeds=1")
    path = tmp_path / "focal_balanced-seed0" / runs.evaluations / "config.json"
    config = json.loads(path.read_text())
    config["crf"]["iterations"] += 1
    write_json(path, config)
    run_script(monkeypatch, tmp_path, runs, "--seeds=1")
    assert ["--mode=evaluate" in command for command in runs.commands[6:]] == [True]


def test_run_without_a_config_is_refused(tmp_path, monkeypatch):
    (tmp_path / "focal-seed0").mkdir()
    write_json(tmp_path / "focal-seed0" / "metrics.json", figures())
    with pytest.raises(SystemExit, match=r"focal-seed0: .*it has no config\.json"):
        run_script(monkeypatch, tmp_path, Runs(), "--seeds=1")


def test_interrupt_lets_the_run_save_and_then_ends_the_script_by_the_signal():
    """Python's subprocess.run would kill the run a quarter of a second after Ctrl-C."""
    run = (
        "import signal, sys, time; signal.signal(signal.SIGINT, lambda *_: None);"
        "print('step', flush=True); time.sleep(0.3); time.sleep(1); print('saved', flush=True);"
        "signal.signal(signal.SIGINT, signal.SIG_DFL); signal.raise_signal(signal.SIGINT)"
    )
    code = f"import reproduce_table as t, sys; t.run_to_the_end([sys.executable, '-c', {run!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(script.__file__).parent,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "step\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.stdout.read() == "saved\n"
    assert process.wait() == -signal.SIGINT


@pytest.mark.parametrize("arguments", [["--seeds=0"], ["--dataset=taco"], ["--dataset=moon"]])
def test_wrong_options_are_refused(arguments):
    with pytest.raises(SystemExit):
        script.parse_arguments(arguments)
