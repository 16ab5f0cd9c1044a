import json
import statistics
import sys
from pathlib import Path

import pytest
import reproduce_table as script

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


def test_interrupted_table_goes_on_where_it_was(tmp_path, monkeypatch):
    """Runs that have their metrics are not run again; the CRF row scores the third one's run."""
    commands = []

    def pretend(command, **options):
        del options
        commands.append(command)
        workdir = Path(next(c for c in command if c.startswith("--workdir=")).partition("=")[2])
        workdir.mkdir(parents=True, exist_ok=True)
        result = figures() | ({"crf": figures()} if "--mode=evaluate" in command else {})
        (workdir / "metrics.json").write_text(json.dumps(result))
        if len(commands) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(script.subprocess, "run", pretend)
    monkeypatch.setattr(sys, "argv", ["table", f"--out={tmp_path}", "--seeds=1", "--", "--x=1"])
    with pytest.raises(KeyboardInterrupt):
        script.main()
    script.main()
    assert len(commands) == 6  # five trainings and one evaluation
    assert all("--x=1" in command for command in commands)
    assert ["--mode=evaluate" in command for command in commands] == [False] * 5 + [True]
    assert (tmp_path / "table.md").exists()


@pytest.mark.parametrize("arguments", [["--seeds=0"], ["--dataset=taco"], ["--dataset=moon"]])
def test_wrong_options_are_refused(arguments):
    with pytest.raises(SystemExit):
        script.parse_arguments(arguments)
