import json
import sys

import pytest

import benchmark as script
from bench import interleave, machine
from bench.interleave import Timing


def test_competitors_take_turns_in_processes_of_their_own(tmp_path):
    log = tmp_path / "log"
    names = ["fixtures_bench:first", "fixtures_bench:second"]
    timings = interleave.time_in_turns([(name, log) for name in names], rounds=3)
    assert log.read_text() == "AABBAABBAABB"  # each turn: one to get warm, one that is timed
    for timing in timings:
        assert len(timing.seconds) == 3
        assert all(seconds >= 0.6 for seconds in timing.seconds)
        assert timing.images == 4
        assert timing.facts == {"flops": 2.0}


def test_a_competitor_that_fails_ends_the_run_by_its_name(tmp_path):
    with pytest.raises(SystemExit, match="fixtures_bench:failing failed"):
        interleave.time_in_turns([("fixtures_bench:failing", tmp_path)], rounds=2)


def test_ratio_is_the_median_of_the_rounds_own_ratios():
    """A machine that is twice as slow in one round for both changes nothing."""
    ours = Timing([1.0, 2.0, 1.0], images=8, facts={})
    peer = Timing([3.0, 6.0, 4.0], images=8, facts={})
    assert interleave.ratio(ours, peer) == (3.0, 3.0, 3.5)
    # Half as many images in the same time are half the speed.
    assert interleave.ratio(Timing([1.0, 1.0], 4, {}), Timing([1.0, 1.0], 8, {}))[0] == 0.5


def test_rate_is_that_of_the_median_round():
    assert Timing([1.0, 4.0, 2.0], images=8, facts={}).rate == 4.0


def test_call_answers_from_another_process():
    assert interleave.call("fixtures_bench:answer") == {"device": "abacus"}


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A results file of its own, and measurements that are what `ratios` holds."""
    monkeypatch.setattr(script, "STORED", tmp_path / "benchmarks.json")
    ratios = {"train": 2.0, "infer": 1.0}

    def measure(subject, options, rounds):
        about = {name: getattr(options, name) for name in OPTIONS}
        return {"subject": subject, **about, "ratio": ratios[subject], "machine": dict(MACHINE)}

    monkeypatch.setattr(script, "measure", measure)
    monkeypatch.setattr(interleave, "call", lambda name: MACHINE)
    return ratios


OPTIONS = ("size", "batch", "dtype", "layout", "encoder", "data_dir", "workers")
MACHINE = {"device": "cpu", "processor": "abacus"}


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments])
    script.main()


def check(monkeypatch, *arguments):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, "--check", *arguments)
    return ended.value.code


def test_stored_results_are_replaced_by_newer_ones_of_the_same_kind(stored, monkeypatch):
    run(monkeypatch, "train", "infer", "--size=128", "--store")
    stored["train"] = 3.0
    run(monkeypatch, "train", "--size=128", "--store")
    run(monkeypatch, "train", "--size=256", "--store")
    results = json.loads(script.STORED.read_text())
    found = sorted((r["subject"], r["size"], r["ratio"]) for r in results)
    assert found == [("infer", 128, 1.0), ("train", 128, 3.0), ("train", 256, 3.0)]


def test_check_fails_where_a_ratio_has_fallen_by_more_than_the_tolerance(
    stored, monkeypatch, capsys
):
    run(monkeypatch, "train", "infer", "--store")
    stored["train"] = 1.81
    assert check(monkeypatch, "--tolerance=0.1") == 0
    stored["train"] = 1.79
    assert check(monkeypatch, "--tolerance=0.1") == 1
    assert "HAS FALLEN: 1.79, stored 2.00, at least 1.80" in capsys.readouterr().out
    assert check(monkeypatch, "infer", "--tolerance=0.1") == 0


def test_check_without_a_stored_result_for_the_device_fails(stored, monkeypatch):
    assert check(monkeypatch) == 1


def test_results_of_two_processors_stand_side_by_side_and_each_is_checked_by_its_own(
    stored, monkeypatch, capsys
):
    run(monkeypatch, "train", "--store")
    monkeypatch.setitem(MACHINE, "processor", "slide rule")
    stored["train"] = 0.5
    assert check(monkeypatch) == 1
    assert "nothing of these is stored for slide rule" in capsys.readouterr().out
    run(monkeypatch, "train", "--store")
    assert len(json.loads(script.STORED.read_text())) == 2
    assert check(monkeypatch) == 0  # though the other processor's ratio was four times that


def test_a_processor_is_named_by_family_and_widest_instructions():
    flags = "fpu avx2 avx512f avx512_bf16"
    cpuinfo = {"cpu family": "26", "model": "2", "flags": flags}
    described = machine.describe_processor("AMD EPYC", cpuinfo, cores=2)
    assert described == "2 x AMD EPYC (family 26, model 2, avx512_bf16)"
    assert machine.describe_processor("abacus", {}, cores=1) == "1 x abacus"


def test_best_takes_each_sides_fastest_form(monkeypatch, capsys):
    seconds = {"float32 channels_last": 1.0, "bfloat16 channels_last": 2.0}  # ours
    seconds |= {"float32 contiguous": 4.0, "bfloat16 contiguous": 0.5}

    def time_in_turns(competitors, *, rounds):
        times = []
        for name, options in competitors:
            factor = 3.0 if "torch" in name else 1.0
            one = factor * seconds[f"{options.dtype} {options.layout}"]
            times.append(Timing([one] * rounds, images=8, facts={}))
        return times

    peaks = {"peak_flops": 1e9, "peak_bytes": 1e9}
    monkeypatch.setattr(interleave, "time_in_turns", time_in_turns)
    monkeypatch.setattr(script, "describe_machine", lambda options: {**MACHINE, **peaks})
    run(monkeypatch, "train", "--best", "--rounds=2")
    # Ours at best 1 s, in float32; the peer's 1.5 s, in bfloat16 and contiguous.
    assert "best against best: 1.50x" in capsys.readouterr().out


def test_best_is_refused_for_what_has_no_network(monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "crf", "--best")
    assert "--best: is for train, infer, eval, not for crf" in capsys.readouterr().err


def test_an_unknown_subject_is_refused(stored, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "trian")
    assert "subject 'trian': must be one of train, infer" in capsys.readouterr().err
