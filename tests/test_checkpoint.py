import dataclasses
import errno
import resource
import shutil
import threading
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trashseg_jax import optim, steps
from trashseg_jax.devices import sharding
from trashseg_jax.errors import InputError, RunError
from trashseg_jax.run import checkpoint
from trashseg_jax.run.checkpoint import Checkpoints, Gone, digest, has_checkpoint

PARAMS = {"conv": {"kernel": jnp.ones((3, 2))}}


def state_at(step, *, width=2, name="adamw"):
    params = {"conv": {"kernel": jnp.full((3, width), float(step))}}
    schedule = optim.make_schedule("cosine", learning_rate=0.1, steps=9, warmup_steps=2)
    tx = optim.make_optimizer(name, schedule, weight_decay=0.1, clip_norm=1.0)
    ema = {"params": jax.tree.map(jnp.copy, params), "batch_stats": {}}
    return steps.TrainState(jnp.array(step), jnp.array(0), params, {}, tx.init(params), ema)


def save(folder, mious, *, keep=2):
    with Checkpoints(folder, keep=keep, writable=True) as checkpoints:
        for step, miou in mious.items():
            checkpoints.save(state_at(step), miou=miou)


def test_restored_state_equals_the_saved_one(tmp_path):
    save(tmp_path, {3: 0.5})
    with Checkpoints(tmp_path, keep=2, writable=True) as checkpoints:
        restored = checkpoints.restore(3, state_at(0))
    assert jax.tree.structure(restored) == jax.tree.structure(state_at(3))
    jax.tree.map(np.testing.assert_array_equal, restored, state_at(3))


def test_latest_and_best_are_kept(tmp_path):
    save(tmp_path, {1: 0.1, 2: 0.9, 3: None, 4: 0.3, 5: 0.2, 6: None})
    with Checkpoints(tmp_path, keep=2, writable=True) as checkpoints:
        assert (checkpoints.latest_step, checkpoints.best_step) == (6, 2)
        assert checkpoints.restore(2, state_at(0)).step == 2
    kept = {int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()}
    assert kept == {2, 5, 6}


def test_nothing_saved_means_no_step(tmp_path):
    with Checkpoints(tmp_path, keep=2, writable=True) as checkpoints:
        assert checkpoints.latest_step is None
        assert checkpoints.best_step is None


def test_saving_a_step_again_keeps_the_first(tmp_path):
    save(tmp_path, {1: 0.5})
    save(tmp_path, {1: 0.7})
    with Checkpoints(tmp_path, keep=2, writable=True) as checkpoints:
        assert checkpoints.latest_step == 1


DAMAGES = {
    "a flipped bit": lambda file, data: file.write_bytes(flipped(data)),
    "half a file": lambda file, data: file.write_bytes(data[: len(data) // 2]),
    "an empty file": lambda file, data: file.write_bytes(b""),
    "a lost file": lambda file, data: file.unlink(),
}


def flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_latest_checkpoint_is_named_and_set_aside(tmp_path, damage, capfd, monkeypatch):
    """Whichever of its files that matter is hit; the largest has the arrays' data."""
    monkeypatch.setattr(checkpoint, "ROTATION_SECONDS", 0.1)
    folder = tmp_path / "checkpoints"
    save(folder, {1: 0.5, 2: 0.4})
    largest = max(
        (f for f in (folder / "2").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size
    )
    damage(largest, largest.read_bytes())
    with Checkpoints(folder, keep=2, writable=False) as checkpoints:
        with pytest.raises(RunError, match=r"checkpoints/2: is damaged"):
            checkpoints.restore(2, state_at(0))
        state = checkpoints.restore_latest(state_at(0))
        assert checkpoints.latest_step == 1
        checkpoints.save(state_at(2), miou=None)
    jax.tree.map(np.testing.assert_array_equal, state, state_at(1))
    assert (tmp_path / "damaged-checkpoint-2").is_dir()
    out, err = capfd.readouterr()
    assert out.splitlines() == [
        f"{folder}/2: is damaged, moved to damaged-checkpoint-2; going on from the one before"
    ]
    assert err == ""
    with Checkpoints(folder, keep=2, writable=False) as checkpoints:
        assert checkpoints.restore(2, state_at(0)).step == 2


def contents(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def test_with_every_checkpoint_damaged_nothing_is_moved_nor_begun_anew(tmp_path):
    folder = tmp_path / "checkpoints"
    save(folder, {1: 0.5, 2: 0.4})
    for step in (1, 2):
        (folder / str(step) / "state" / "manifest.ocdbt").unlink()
    before = contents(tmp_path)
    for _ in range(2):
        with (
            Checkpoints(folder, keep=2, writable=True) as checkpoints,
            pytest.raises(RunError, match=r"every checkpoint is damaged \(2, 1\).*begin anew move"),
        ):
            checkpoints.restore_latest(state_at(0))
    assert contents(tmp_path) == before


# What stands in for a file that may not be read: tests may run as root, which reads all.


def loop(file):
    file.unlink()
    file.symlink_to(file.name)


def make_folder(file):
    file.unlink()
    file.mkdir()


READ = ("_CHECKPOINT_METADATA", "state/_METADATA", "state/manifest.ocdbt", "state/d/*")


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize(
    ("spoil", "reason"), [(loop, "Too many levels"), (make_folder, "Is a directory")]
)
def test_files_that_the_system_does_not_let_read_are_no_damage(tmp_path, name, spoil, reason):
    folder = tmp_path / "checkpoints"
    save(folder, {1: 0.5, 2: 0.4})
    (file,) = (folder / "2").glob(name)
    spoil(file)
    before = contents(tmp_path)
    with Checkpoints(folder, keep=2, writable=True) as checkpoints:
        for read in (partial(checkpoints.restore, 2), checkpoints.restore_latest):
            with pytest.raises(RunError, match=rf"{file}: {reason}.*nothing was changed") as error:
                read(state_at(0))
            assert "\n" not in str(error.value)
    assert contents(tmp_path) == before


FOREIGN = {
    "permission": (PermissionError(errno.EACCES, "Permission denied", "/x"), "Permission denied"),
    "input/output": (OSError(errno.EIO, "Input/output error", "/x"), "Input/output error"),
    "memory": (MemoryError(), "out of memory"),
    "device memory": (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 8 GiB"), "8 GiB"),
    "TensorStore": (ValueError("PERMISSION_DENIED: Error opening x"), "PERMISSION_DENIED"),
    "our own mistake": (AttributeError("no attribute 'x'"), "no attribute"),
}


@pytest.mark.parametrize(("raised", "reason"), FOREIGN.values(), ids=FOREIGN)
def test_errors_that_no_parser_raises_are_no_damage(tmp_path, monkeypatch, raised, reason):
    """Whatever Orbax makes of them on their way up."""
    folder = tmp_path / "checkpoints"
    save(folder, {1: 0.5, 2: 0.4})
    before = contents(tmp_path)

    def load(*_):
        try:
            raise raised
        except type(raised) as error:
            raise KeyError("Failed to load checkpointable") from error

    with Checkpoints(folder, keep=2, writable=True) as checkpoints:
        monkeypatch.setattr(checkpoints._checkpointer, "load", load)
        with pytest.raises(RunError, match=rf"checkpoints/2: cannot be read \(.*{reason}"):
            checkpoints.restore_latest(state_at(0))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("level", ["checkpoints", "checkpoints/2"])
@pytest.mark.parametrize("spoil", [loop, lambda path: path.write_text("")])
def test_checkpoints_that_cannot_be_listed_do_not_count_as_none(tmp_path, level, spoil):
    save(tmp_path / "checkpoints", {1: 0.5, 2: 0.4})
    shutil.rmtree(tmp_path / level)
    (tmp_path / level).touch()
    spoil(tmp_path / level)
    with pytest.raises(RunError, match=rf"{tmp_path / level}: cannot be read"):
        has_checkpoint(tmp_path / "checkpoints")
    with pytest.raises(RunError, match="cannot be read"):
        Checkpoints(tmp_path / "checkpoints", keep=2, writable=True)


@pytest.mark.parametrize("slowly", [False, True])
def test_checkpoint_that_a_training_removes_meanwhile_is_gone_not_damaged(tmp_path, slowly):
    """At once, or file after file, as Orbax does it."""
    save(tmp_path, {1: 0.5, 2: 0.4})
    with Checkpoints(tmp_path, keep=2, writable=False) as reader:
        shutil.rmtree(tmp_path / "2" / ("state" if slowly else ""))
        rest = threading.Timer(0.5, partial(shutil.rmtree, tmp_path / "2", ignore_errors=True))
        rest.start()
        with pytest.raises(Gone, match=r"/2: was removed while it was read"):
            reader.restore(2, state_at(0))
        rest.join()
        assert reader.latest_step == 1
        assert reader.restore(1, state_at(0)).step == 1


def test_digest_changes_with_any_bit_and_not_with_the_devices():
    state, mesh = state_at(3), sharding.make_mesh()
    expected = digest(state)
    assert digest(jax.device_put(state, sharding.replicated(mesh))) == expected
    bits = np.asarray(state.params["conv"]["kernel"]).view(np.uint32)
    for place in np.ndindex(bits.shape):
        for bit in range(0, 32, 5):
            changed = bits.copy()
            changed[place] ^= 1 << bit
            other = {"conv": {"kernel": jnp.asarray(changed.view(np.float32))}}
            assert digest(dataclasses.replace(state, params=other)) != expected


def save_and_wait(checkpoints, state):
    checkpoints.save(state, miou=0.5)
    checkpoints.wait()


def test_failing_save_is_told_with_the_last_whole_step(tmp_path):
    """The limit on a file's size stands in for a full disk: writes fail with an OSError."""
    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder, keep=2, writable=True)
    checkpoints.save(state_at(1), miou=0.5)
    checkpoints.wait()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        with pytest.raises(RunError, match=r"checkpoints: .*last whole one is that of step 1"):
            save_and_wait(checkpoints, state_at(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with Checkpoints(folder, keep=2, writable=True) as again:
        assert again.latest_step == 1
        assert again.restore_latest(state_at(0)).step == 1
        again.save(state_at(2), miou=0.5)
    assert sorted(entry.name for entry in folder.iterdir()) == ["1", "2"]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"width": 5}, r"ema/params/conv/kernel is float32\[3, 2\] .* float32\[3, 5\]"),
        ({"name": "adam"}, r"opt_state/"),
    ],
)
def test_another_model_or_optimizer_is_refused_by_name(tmp_path, other, named):
    save(tmp_path, {1: 0.5})
    with (
        Checkpoints(tmp_path, keep=2, writable=True) as checkpoints,
        pytest.raises(InputError, match=named) as error,
    ):
        checkpoints.restore(1, state_at(0, **other))
    assert "\n" not in str(error.value)
