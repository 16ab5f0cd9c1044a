"""Compiled programs that outlive a run."""

import json
import os
import stat
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from trashseg_jax.devices import program_cache
from trashseg_jax.errors import InputError

ROOT = Path(__file__).parent.parent


def write(folder, name, content, *, used):
    """An entry as JAX writes it, last used at a time."""
    entry = folder / f"{name}-cache"
    entry.write_bytes(content)
    os.utime(entry, (used, used))
    return entry


@pytest.mark.parametrize("kept", [0, 1, 1000, -1])
def test_only_whole_entries_are_left(tmp_path, kept):
    packed = zlib.compress(np.random.default_rng(0).bytes(3_000_000))
    whole = write(tmp_path, "whole", packed, used=1)
    write(tmp_path, "cut", packed[:kept], used=1)
    write(tmp_path, "flipped", packed[:2000] + b"\0\0" + packed[2002:], used=1)
    program_cache.mend(tmp_path)
    assert list(tmp_path.glob("*-cache")) == [whole]


def test_entries_of_another_compression_are_left(tmp_path):
    entry = write(tmp_path, "zstandard", b"\x28\xb5\x2f\xfd...", used=1)
    program_cache.mend(tmp_path)
    assert entry.exists()


def test_an_entry_is_looked_at_once(tmp_path):
    program_cache.mend(tmp_path)
    entry = write(tmp_path, "old", b"x\x9cbroken", used=1)
    program_cache.mend(tmp_path)
    assert entry.exists()


def test_what_was_used_longest_ago_goes_first(tmp_path):
    entries = [write(tmp_path, f"{used}", bytes(10), used=used) for used in (3, 1, 4, 2)]
    program_cache.prune(tmp_path, max_bytes=25)
    assert [entry.exists() for entry in entries] == [True, False, True, False]


def test_the_folder_is_the_same_for_the_same_processor():
    assert program_cache.machine() == program_cache.machine()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of this project in the user's cache, which is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "trashseg_jax"


def test_the_folder_is_made_for_the_user_alone(cache):
    before = os.umask(0o002)  # as where each user has a group of his own
    try:
        own = program_cache.own_folder()
    finally:
        os.umask(before)
    assert own == (cache / "programs" / program_cache.machine()).resolve()
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (own, own.parent)] == [0o700] * 2
    assert program_cache.own_folder() == own


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o707, 0o777, 0o1777])
@pytest.mark.parametrize("level", ["own", "programs", "link"])
def test_a_folder_in_which_others_may_write_is_not_used(cache, tmp_path, mode, level):
    own = program_cache.own_folder()
    if level == "link":
        (cache / "programs").rename(tmp_path / "elsewhere")
        (cache / "programs").symlink_to(tmp_path / "elsewhere")
    (own if level == "own" else own.parent).chmod(mode)
    with pytest.raises(InputError, match=rf"others may write in it \(mode {mode:o}\).*not kept"):
        program_cache.own_folder()


def test_nor_is_one_whose_parent_others_may_exchange(cache):
    program_cache.own_folder()
    cache.chmod(0o777)
    with pytest.raises(InputError, match=rf"{cache}: others may write"):
        program_cache.own_folder()
    cache.chmod(0o1777)
    program_cache.own_folder()


def test_another_users_folder_is_not_used(cache, monkeypatch):
    del cache
    program_cache.own_folder()
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(InputError, match=f"belongs to user {owner}, not to {owner + 1}"):
        program_cache.own_folder()


STEP = """
import jax, jax.monitoring, jax.numpy as jnp, numpy as np
from trashseg_jax.devices import program_cache
program_cache.keep_programs()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
loaded = []
jax.monitoring.register_event_listener(
    lambda name, **_: loaded.append(1) if name.endswith("/cache_hits") else None
)
init = jax.jit(
    lambda key: jax.random.normal(key, (64, 64)),
    compiler_options={"xla_backend_optimization_level": 0},
)
step = jax.jit(lambda state: (jnp.tanh(state @ state.T) / 3, state.sum()), donate_argnums=0)
state = init(jax.random.key(0))
for _ in range(5):
    state, total = step(state)
print(len(loaded), np.asarray(state).tobytes().hex(), float(total))
"""


def run_step(cache):
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    del environment["JAX_COMPILATION_CACHE_DIR"]
    command = [sys.executable, "-c", STEP]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    *said, line = done.stdout.splitlines()
    loaded, *result = line.split()
    return int(loaded), result, said


def test_loaded_programs_compute_the_same_bits_and_say_nothing(tmp_path):
    """Donated arguments and other compiler options too; then with all entries damaged."""
    compiled, first, _ = run_step(tmp_path)
    loaded, second, said = run_step(tmp_path)
    assert (compiled, loaded > 1, said) == (0, True, [])
    assert second == first
    for entry in tmp_path.glob("trashseg_jax/programs/*/*-cache"):
        entry.write_bytes(entry.read_bytes()[:-9])
    assert run_step(tmp_path) == (0, first, [])
    assert run_step(tmp_path) == (loaded, first, [])  # mended


def test_a_cache_that_cannot_be_is_no_hindrance_and_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    loaded, _, said = run_step(tmp_path / "file")
    assert loaded == 0
    (line,) = said
    assert line.startswith(f"{tmp_path / 'file'}/trashseg_jax/programs")
    assert "Not a directory" in line
    assert "JAX_COMPILATION_CACHE_DIR" in line


def test_the_environments_folder_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "own"))
    environment = dict(os.environ)
    code = (
        "import json; from trashseg_jax.devices import program_cache;"
        "program_cache.keep_programs(); import jax;"
        "print(json.dumps(jax.config.values['jax_compilation_cache_dir']))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    assert json.loads(done.stdout) == str(tmp_path / "own")
