"""Runs of several processes, as a person starts them, against one of a single process."""

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from trashseg_jax import build, evaluate, train
from trashseg_jax.devices import processes as processes_module
from trashseg_jax.devices import sharding
from trashseg_jax.devices.processes import HEARTBEAT_SECONDS
from trashseg_jax.errors import InputError
from trashseg_jax.report.files import write_json
from trashseg_jax.report.table import format_table

ROOT = Path(__file__).parent.parent
HAS_CRF = importlib.util.find_spec("pydensecrf") is not None
START = [sys.executable, str(ROOT / "tests/tiny_encoder.py")]  # in place of python -m
STEPS = 6


def first_devices(count):
    return Mesh(np.array(jax.devices()[:count]), ("data",), axis_types=(AxisType.Auto,))


def train_on(config, workdir, *, devices):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "make_mesh", lambda: first_devices(devices))
        return train.train(config, workdir)


def final_state(config, workdir):
    model = build.build_model(config, num_classes=11)
    tx, _ = build.build_optimizer(config, steps=STEPS)
    return jax.device_get(evaluate.restore(config, workdir, model, tx, first_devices(1)))


def read_log(workdir):
    entries = [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in entry.items() if k != "images_per_second"} for entry in entries]


def free_port():
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def start(folder, *arguments, devices=1, flags=((), ()), cwds=(ROOT, ROOT)):
    """Starts as many processes as there are `flags`; their output goes to files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    xla = os.environ["XLA_FLAGS"].replace("device_count=4", f"device_count={devices}")
    environment = {**os.environ, "XLA_FLAGS": xla, "PYTHONPATH": str(ROOT)}
    port, count = free_port(), len(flags)
    processes = []
    for i, (own, cwd) in enumerate(zip(flags, cwds, strict=False)):
        command = [*START, "trashseg_jax.main", *map(str, arguments), *own]
        if count > 1:
            place = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}"]
            command += [*place, f"--process_id={i}"]
        with (folder / f"{i}.out").open("w") as out, (folder / f"{i}.err").open("w") as err:
            processes.append(
                subprocess.Popen(command, cwd=cwd, env=environment, stdout=out, stderr=err)
            )
    return processes


def wait(processes, *, seconds=400):
    """Returns the exit codes; kills what has not ended in time."""
    try:
        deadline = time.monotonic() + seconds
        return [p.wait(max(deadline - time.monotonic(), 0.1)) for p in processes]
    finally:
        for process in processes:
            process.kill()


def wait_for(path, processes):
    deadline = time.monotonic() + 400
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)


def wait_until_locked(path, pid):
    deadline = time.monotonic() + 400
    while f'"pid": {pid},' not in path.read_text():
        assert time.monotonic() < deadline, f"{path} was never taken"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def config(tiny_config):
    config = tiny_config()
    config.train.update(
        {"steps": STEPS, "eval_every": 3, "checkpoint_every": 2, "keep_checkpoints": 9}
    )
    config.crf.update({"enabled": HAS_CRF, "iterations": 2, "workers": 0})
    return config


def go_on(config, source, target, *, after, devices):
    """Copies the run in `source` as it was after a step, and ends it in this process."""
    shutil.copytree(source, target)
    for checkpoint in (target / "checkpoints").iterdir():
        if not checkpoint.name.isdigit() or int(checkpoint.name) > after:
            shutil.rmtree(checkpoint)
    config = config.copy_and_resolve_references()
    config.crf.enabled = False
    train_on(config, target, devices=devices)
    return target


@pytest.fixture(scope="module")
def given(config, tmp_path_factory):
    """`config` as a flag, by way of a run's config.json."""
    folder = tmp_path_factory.mktemp("given")
    write_json(folder / "config.json", config.to_dict())
    return f"--config=run:{folder}"


@pytest.fixture(scope="module")
def single(given, tmp_path_factory):
    """The workdir of a run of one process on two devices."""
    folder = tmp_path_factory.mktemp("single")
    arguments = [given, f"--workdir={folder / 'run'}"]
    assert wait(start(folder, *arguments, devices=2, flags=((),))) == [0]
    return folder / "run"


@pytest.fixture(scope="module")
def double(given, tmp_path_factory):
    """The same by two processes: one is killed after the first checkpoint, later one signalled."""
    folder = tmp_path_factory.mktemp("double")
    arguments = [
        given,
        f"--config.data.cache_dir={folder / 'cache'}",  # both find the data unprepared
        f"--workdir={folder / 'run'}",
    ]
    processes = start(folder / "killed", *arguments)
    wait_for(folder / "run/checkpoints/2", processes)
    processes[1].kill()
    killed = time.monotonic()
    codes = wait(processes)
    survived = time.monotonic() - killed
    signalled = start(folder / "signalled", *arguments)
    wait_until_locked(folder / "run/run.lock", signalled[0].pid)
    signalled[1].terminate()
    assert wait(signalled) == [75, 75], (folder / "signalled/0.err").read_text()[-3000:]
    finished = start(folder / "finished", *arguments)
    assert wait(finished) == [0, 0], (folder / "finished/0.err").read_text()[-3000:]
    return folder, codes, survived


def test_survivor_ends_by_itself(double):
    _, codes, seconds = double
    assert codes[1] == -9
    assert codes[0] not in (0, -9)
    assert seconds < HEARTBEAT_SECONDS + 30


def test_signal_to_one_process_makes_all_save_the_same_step(double):
    folder, _, _ = double
    said = [(folder / f"signalled/{i}.err").read_text().splitlines()[-1] for i in range(2)]
    assert said[0] == said[1]
    saved = re.fullmatch(rf"SIGTERM: saved after step (\d) of {STEPS}; .*", said[0])
    assert saved
    assert f"from step {saved[1]} to {STEPS}" in (folder / "finished/0.out").read_text()


def test_killed_and_restarted_processes_end_where_one_does(single, double, config):
    """Parameters, optimizer and averages bit for bit: two numbers have one sum."""
    folder, _, _ = double
    first = (folder / "finished/0.out").read_text()
    assert f"training images, from step 0 to {STEPS}" not in first
    assert f"to {STEPS}" in first
    expected, actual = final_state(config, single), final_state(config, folder / "run")
    assert int(actual.step) == STEPS
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    assert read_log(folder / "run") == read_log(single)


def test_every_image_counts_once_over_two_processes(single, double):
    """Five images in batches of four over two processes; the CRF's figures too, where it runs."""
    figures = json.loads((double[0] / "run/metrics.json").read_text())
    assert figures == json.loads((single / "metrics.json").read_text())
    assert figures["num_images"] == 5
    assert ("crf" in figures) == HAS_CRF


def test_only_process_zero_prints(double):
    folder, _, _ = double
    table = format_table(json.loads((folder / "run/metrics.json").read_text()))
    printed = [(folder / f"finished/{i}.out").read_text() for i in range(2)]
    assert table in printed[0]
    lines = [line for line in printed[1].splitlines() if not line.startswith("[Gloo]")]
    assert lines == []
    errors = [(folder / f"finished/{i}.err").read_text() for i in range(2)]
    assert f"step {STEPS} of {STEPS}: loss" in printed[0]
    assert "%|" not in errors[0] + errors[1]


def test_two_processes_prepare_the_data_once(double):
    assert len([p for p in (double[0] / "cache/prepared").iterdir() if p.is_dir()]) == 1


def test_run_goes_on_on_other_devices(double, config, tmp_path):
    """Two processes to one with four devices, then to two and to one: but for the order of sums."""
    expected = read_log(double[0] / "run")
    four = go_on(config, double[0] / "run", tmp_path / "4", after=2, devices=4)
    assert_like(read_log(four), expected)
    for devices in (2, 1):
        fewer = go_on(config, four, tmp_path / str(devices), after=4, devices=devices)
        assert_like(read_log(fewer), expected)


def assert_like(log, expected):
    log = [entry for entry in log if "changes" not in entry]  # those that `go_on` makes
    assert [e["step"] for e in log] == [e["step"] for e in expected]
    losses = [[e["loss"] for e in entries if "loss" in e] for entries in (log, expected)]
    assert len(losses[0]) == STEPS
    # Measured: after six steps the order of sums makes 1e-4; the gradient of half a batch makes
    # 2e-3 at the second step and 2e-2 at the sixth.
    np.testing.assert_allclose(*losses, rtol=3e-4)


def test_processes_with_other_flags_end_with_one_line(given, tmp_path):
    arguments = [given, f"--workdir={tmp_path / 'run'}"]
    processes = start(tmp_path, *arguments, flags=((), ("--config.seed=1",)))
    assert wait(processes) == [2, 2]
    line = "error: --config: differs between process 0 and process 1; start all with the same flags"
    for i in range(2):
        assert (tmp_path / f"{i}.err").read_text().strip() == line
    assert not (tmp_path / "run").exists()


def test_error_in_one_process_ends_the_other(given, config, tmp_path):
    """The folder of the data lies beside process 0 alone."""
    beside, elsewhere = tmp_path / "beside", tmp_path / "elsewhere"
    beside.mkdir()
    elsewhere.mkdir()
    (beside / "scenes").symlink_to(config.data.dir)
    arguments = [given, "--config.data.dir=scenes", f"--workdir={tmp_path / 'run'}"]
    processes = start(tmp_path, *arguments, cwds=(beside, elsewhere))
    assert processes[1].wait(400) == 2
    failed = time.monotonic()
    assert wait(processes[:1])[0] != 0
    assert time.monotonic() - failed < HEARTBEAT_SECONDS + 30
    assert (tmp_path / "1.err").read_text().startswith("error: scenes/train.json: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"process_id": 0}, "--process_id without --coordinator: pass all of"),
        ({"coordinator": "a:1", "num_processes": 2}, "--coordinator without --process_id"),
        ({"coordinator": "a:1", "detect": True}, "--distributed and --coordinator"),
        ({"coordinator": "a", "num_processes": 2, "process_id": 0}, "--coordinator=a: must be"),
        ({"coordinator": ":1", "num_processes": 2, "process_id": 0}, "must be HOST:PORT"),
        ({"coordinator": "a:0", "num_processes": 2, "process_id": 0}, "1 to 65535"),
        ({"coordinator": "a:1", "num_processes": 0, "process_id": 0}, "must be 1 or more"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "must be from 0 to 1"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": -1}, "must be from 0 to 1"),
    ],
)
def test_flags_that_describe_no_process_are_refused(flags, line):
    absent = {"coordinator": None, "num_processes": None, "process_id": None, "detect": False}
    with pytest.raises(InputError, match=line) as error:
        processes_module.check_flags(**absent | flags)
    assert "\n" not in str(error.value)


def test_port_in_use_is_refused_before_jax_sees_it():
    with socket.create_server(("", 0)) as server:
        coordinator = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match=r"cannot listen there .* name another port"):
            processes_module.join(
                coordinator=coordinator, num_processes=2, process_id=0, detect=False
            )


def test_processes_need_as_many_devices_as_each_other(monkeypatch):
    devices = [SimpleNamespace(process_index=i, id=j) for j, i in enumerate((0, 0, 1))]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    with pytest.raises(InputError, match="the processes have 2, 1 devices"):
        sharding.make_mesh()
