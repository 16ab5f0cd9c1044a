"""The pool of processes, and its place in evaluation.

A whole evaluation with the CRF is in test_train.py. What workers do wrong is in fixtures_crf.py.
"""

import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import time
import zlib
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import fixtures_crf
import fixtures_pages
import numpy as np
import pytest
from fixtures_crf import Deed
from fixtures_dense import OPTIONS, needs_pydensecrf, scene

from trashseg_jax import build, evaluate, train
from trashseg_jax.errors import InputError
from trashseg_jax.refine import dense
from trashseg_jax.refine import pool as pool_module
from trashseg_jax.refine.pool import CrfError, CrfPool, num_cores
from trashseg_jax.scoring.refined import refine_batches


@needs_pydensecrf
@pytest.mark.parametrize("workers", [0, 2])
def test_pool_gives_each_image_its_own_result(workers):
    """More images than may be pending, of different sizes."""
    scenes = [scene(seed, 6 + seed, 9) for seed in range(7)]
    with CrfPool(workers, partial(dense.refine, **OPTIONS), timeout=60.0) as pool:
        futures = [pool.submit(*pair) for pair in scenes]
        results = [future.result() for future in futures]
    for pair, result in zip(scenes, results, strict=True):
        np.testing.assert_array_equal(result, dense.refine(*pair, **OPTIONS))


@needs_pydensecrf
@pytest.mark.parametrize("workers", [0, 1])
def test_options_of_an_image_take_the_place_of_the_pool_s_own(workers):
    probs, image = scene(0)
    others = {"iterations": 7, "bilateral_srgb": 40.0}
    with CrfPool(workers, partial(dense.refine, **OPTIONS), timeout=60.0) as pool:
        found = pool.submit(probs, image, **others).result()
        again = pool.submit(probs, image).result()
    np.testing.assert_array_equal(found, dense.refine(probs, image, **OPTIONS | others))
    np.testing.assert_array_equal(again, dense.refine(probs, image, **OPTIONS))
    assert (found != again).any()


TIMEOUT = 3.0  # many times what an image takes here on a busy machine


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Two workers that do what an image says, for as many tests as they survive or not."""
    behave = partial(fixtures_crf.behave, folder=str(tmp_path_factory.mktemp("deeds")))
    with CrfPool(2, behave, timeout=TIMEOUT) as pool:
        yield pool


def task(deed, seed=0, size=4):
    """Random predictions, and an image that tells the worker what to do with them."""
    probs = np.random.default_rng(seed).random((size, size, 3), np.float32)
    return probs, np.full((size, size, 3), deed, np.uint8)


def check_answer(future, task):
    np.testing.assert_array_equal(future.result(60), fixtures_crf.best(task[0]))


def next_worker(pool):
    """The process that gets the next image while all are idle."""
    pool.submit(*task(Deed.ANSWER)).result()
    return pool._idle[-1]._process.pid


def test_workers_load_neither_jax_nor_tensorflow(pool):
    assert pool.submit(*task(Deed.LOOK)).result() == 0


def test_image_whose_worker_is_killed_is_redone(pool):
    deeds = [Deed.ANSWER, Deed.DIE_ONCE, Deed.ANSWER, Deed.ANSWER]
    tasks = [task(deed, seed) for seed, deed in enumerate(deeds)]
    for future, one in zip([pool.submit(*one) for one in tasks], tasks, strict=True):
        check_answer(future, one)


def test_image_whose_worker_is_killed_twice_is_reported_and_the_others_are_done(pool):
    tasks = [task(deed, seed) for seed, deed in enumerate([Deed.DIE, Deed.ANSWER, Deed.ANSWER])]
    futures = [pool.submit(*one) for one in tasks]
    reason = r"^worker died \(signal 9\), then worker died \(signal 9\)$"
    with pytest.raises(CrfError, match=reason):
        futures[0].result()
    for future, one in zip(futures[1:], tasks[1:], strict=True):
        check_answer(future, one)


def test_hanging_worker_is_replaced_and_its_image_redone(pool):
    """A second image hangs at the same time, and its next worker ends."""
    tasks = [task(Deed.STOP_ONCE), task(Deed.STOP_THEN_DIE)]
    redone, lost = [pool.submit(*one) for one in tasks]
    check_answer(redone, tasks[0])
    reason = r"^no answer within 3 s, then worker died \(exit code 7\)$"
    with pytest.raises(CrfError, match=reason):
        lost.result()


def test_worker_that_does_not_even_read_is_replaced(pool):
    """A megabyte fits into no pipe: the sender waits."""
    one = task(Deed.ANSWER, size=512)
    os.kill(next_worker(pool), signal.SIGSTOP)
    check_answer(pool.submit(*one), one)


def test_workers_that_died_idle_cost_an_image_no_try(pool):
    for future in [pool.submit(*task(Deed.ANSWER)) for _ in range(4)]:
        future.result()
    processes = [worker._process for worker in pool._idle]
    assert len(processes) == 2
    for process in processes:
        process.kill()
        multiprocessing.connection.wait([process.sentinel])
    check_answer(pool.submit(*task(Deed.ANSWER)), task(Deed.ANSWER))


def test_exceptions_reach_the_caller_with_their_place_and_spare_the_worker(pool):
    worker = next_worker(pool)
    with pytest.raises(MemoryError, match="too large") as caught:
        pool.submit(*task(Deed.RAISE)).result()
    assert "fixtures_crf.py" in caught.value.__notes__[0]
    assert next_worker(pool) == worker


def test_pool_that_is_left_ends_its_workers_at_once_and_can_be_entered_again(tmp_path, capfd):
    """Left by Ctrl-C while its worker is busy for minutes and two images wait."""
    behave = partial(fixtures_crf.behave, folder=str(tmp_path))
    pool, others = CrfPool(1, behave, timeout=600.0), set(multiprocessing.active_children())
    futures = []

    def enter_and_interrupt():
        with pool:
            futures.append(pool.submit(*task(Deed.BUSY)))
            futures.append(pool.submit(*task(Deed.ANSWER)))
            while "busy" not in capfd.readouterr().out:
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enter_and_interrupt()
    assert set(multiprocessing.active_children()) <= others
    with pytest.raises(RuntimeError, match="the pool was left"):
        futures[0].result(0)
    assert futures[1].done()
    with pool:
        check_answer(pool.submit(*task(Deed.ANSWER)), task(Deed.ANSWER))


@pytest.mark.parametrize(
    ("function", "argument", "seconds", "reason"),
    [(os._exit, 3, 60.0, "exit code 3"), (time.sleep, 600, 1.0, "no answer within 1 s")],
)
def test_workers_that_cannot_start_are_an_error_and_not_tried_for_ever(
    monkeypatch, function, argument, seconds, reason
):
    """Two processes are tried, not two an image."""
    monkeypatch.setattr(pool_module, "START_TIMEOUT", seconds)
    worker, started = pool_module._Worker, []
    monkeypatch.setattr(pool_module, "_Worker", lambda refine: started.append(1) or worker(refine))
    unloadable = partial(fixtures_crf.best, fixtures_crf.Unloadable(function, argument))
    with CrfPool(1, unloadable, timeout=60.0) as pool:
        futures = [pool.submit(*task(Deed.ANSWER)) for _ in range(4)]
        for future in futures:
            with pytest.raises(RuntimeError, match=f"{reason}.*config.crf.workers=0"):
                future.result()
    assert len(started) == 2


def test_workers_end_when_the_parent_is_killed():
    """Their standard output is the parent's: it ends when the last of them has."""
    code = (
        "import numpy as np, fixtures_crf, functools\n"
        "from trashseg_jax.refine.pool import CrfPool\n"
        "behave = functools.partial(fixtures_crf.behave, folder='')\n"
        "with CrfPool(1, behave, timeout=600.0) as pool:\n"
        f"    image = np.full((4, 4, 3), {int(Deed.BUSY)}, np.uint8)\n"
        "    pool.submit(np.zeros((4, 4, 3), np.float32), image).result()\n"
    )
    root = Path(__file__).parent
    path = os.pathsep.join([str(root), str(root.parent), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout.readline() == "busy\n"
    parent.kill()
    parent.communicate(timeout=60)  # raises if they live on


def test_all_cores_are_the_default():
    pool = CrfPool(-1, dense.refine, timeout=60.0)
    assert pool._num_workers == num_cores() >= 1


def test_module_that_workers_import_is_light():
    """What a spawned process imports for its task."""
    code = (
        "import sys, trashseg_jax.refine.dense, trashseg_jax.refine.pool;"
        "print(*{'jax', 'tensorflow', 'flax'} & set(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert loaded.stdout.strip() == b""


def test_missing_package_is_told_before_training(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)  # its import fails
    config = tiny_config()
    config.crf.update({"enabled": True, "engine": "pydensecrf"})
    with pytest.raises(InputError, match=r"pip install pydensecrf2.*on 3\.13") as caught:
        train.train(config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


class Immediate(CrfPool):
    """Remembers what it was given and answers class 1 everywhere."""

    def __init__(self):
        super().__init__(0, dense.refine, timeout=60.0)
        self.given = []

    def submit(self, probs, image):
        self.given.append((probs, image))
        future = Future()
        future.set_result(np.ones(probs.shape[:2], np.uint8))
        return future


def scored_batches(count):
    """Batches of two 8x8 images with content of 5x8 pixels, the last one's second row a filler."""
    import jax.numpy as jnp

    for i in range(count):
        label = np.full((2, 8, 8), 255, np.uint8)
        label[:, :5] = 1
        yield {
            "id": np.array([2 * i, 2 * i + 1]),
            "image": np.full((2, 8, 8, 3), i, np.uint8),
            "label": label,
            "mask": np.array([True, i < count - 1]),
            "size": np.array([[5, 8], [5, 8]], np.int32),
            "probs": jnp.full((2, 8, 8, 3), i, jnp.float32),
        }


def test_padding_and_filling_rows_are_not_refined_and_count_nowhere():
    pool = Immediate()
    refined = list(refine_batches(scored_batches(3), pool, num_classes=3, boundary_share=0.1))
    assert [batch["id"].tolist() for batch in refined] == [[0, 1], [2, 3], [4, 5]]
    assert [image[0, 0, 0] for _, image in pool.given] == [0, 0, 1, 1, 2]
    assert {probs.shape for probs, _ in pool.given} == {(5, 8, 3)}
    assert [int(batch["refined_confusion"][:, 1, 1].sum()) for batch in refined[:2]] == [80, 80]
    assert refined[2]["refined"].sum() == 40
    # A distance of one pixel: the frames of 5x8 pixels, all of which are class 1 and found so.
    near = [batch["refined_boundary"] for batch in refined]
    assert np.concatenate(near)[:, 1].tolist() == [[22, 22]] * 5 + [[0, 0]]
    assert "probs" not in refined[0]


def test_batch_is_handed_out_after_the_next_one_went_in():
    pool = Immediate()
    refined = refine_batches(scored_batches(3), pool, num_classes=3, boundary_share=0.1)
    counts = [len(pool.given) for _ in refined]
    assert counts == [4, 5, 5]


def test_image_that_fails_twice_counts_as_predicted_and_is_reported(
    tiny_config, prepared, tmp_path, monkeypatch
):
    """An evaluation whose CRF answers class 0 everywhere, and kills its process at one image."""
    import flax.linen as nn
    import jax.numpy as jnp

    from trashseg_jax import steps
    from trashseg_jax.data import pipeline
    from trashseg_jax.devices import sharding
    from trashseg_jax.report import table

    class Model(nn.Module):
        """Takes colours, repeated, for logits."""

        def __call__(self, image, *, train):
            return jnp.tile(image, 4)[..., :11]

    config = tiny_config()
    source = prepared.source("val")
    one_by_one = pipeline.eval_batches(
        source, batch_size=1, image_size=32, process_index=0, process_count=1
    )
    images = {int(batch["id"][0]): batch["image"][0] for batch in one_by_one}
    victim = list(images)[3]
    die = partial(fixtures_crf.die_at, checksum=zlib.crc32(images[victim].tobytes()))
    pool = CrfPool(2, die, timeout=60.0)
    monkeypatch.setattr(build, "build_crf", lambda config, **_: pool)
    mesh = sharding.make_mesh()
    loss = build.build_loss(config, np.ones(11))
    score = evaluate.build_scorer(
        config, prepared, Model(), loss, mesh, refine=True, resolution="scaled"
    )
    result = score(steps.TrainState(0, 0, {}, {}, (), {}))

    place = result.ids.tolist().index(victim)
    expected = np.zeros_like(result.confusion)
    expected[:, :, 0] = result.confusion.sum(-1)
    expected[place] = result.confusion[place]
    np.testing.assert_array_equal(result.refined_confusion, expected)
    np.testing.assert_array_equal(result.refined_boundary[place], result.boundary[place])
    assert not np.delete(result.refined_boundary, place, 0)[:, 1:, 0].any()
    assert np.any(expected[place][:, 1:])  # it differs from the CRF's answer

    figures = evaluate.summarize(
        config, prepared, result, step=0, skipped=0, warnings=[], resamples=10
    )
    log, origin = tmp_path / "log.jsonl", fixtures_pages.ORIGIN
    evaluate.write_reports(tmp_path, figures, result, log=log, origin=origin)
    reason = "worker died (signal 9), then worker died (signal 9)"
    assert json.loads((tmp_path / "metrics.json").read_text())["crf"]["failed"] == [
        {"id": victim, "reason": reason}
    ]
    for text in (table.format_table(figures), (tmp_path / "report.html").read_text()):
        assert "these count as predicted: 1" in text
        assert f"image {victim}: {reason}" in text
