"""Prepared copies: what is used is known and kept, what is old is listed and removed."""

import os
import subprocess
import sys
import time

import clean_cache
import pytest

from trashseg_jax.data import copies, locks


@pytest.fixture
def cache(tmp_path):
    """Three copies, last used 40, 35 and 1 days ago, of 100 bytes each."""
    for name, days in (("old", 40), ("older-in-use", 35), ("new", 1)):
        make(tmp_path, name, days=days)
    return tmp_path


def make(cache, name, *, days):
    path = copies.folder(cache) / name
    (path / "part").mkdir(parents=True)
    (path / "part" / "data").write_bytes(bytes(100))
    copies.mark_whole(path)
    os.utime(path / copies.WHOLE, (time.time() - 86400 * days,) * 2)
    return path


def names(cache):
    return sorted(path.name for path in copies.folder(cache).iterdir() if path.is_dir())


def use(path):
    return locks.ensure(path, is_there=lambda: copies.is_whole(path), make=pytest.fail)


def test_copies_are_listed_from_the_longest_unused_on(cache):
    found = copies.list_copies(cache)
    assert [copy.path.name for copy in found] == ["old", "older-in-use", "new"]
    assert [copy.size for copy in found] == [100] * 3
    assert [copy.days for copy in found] == pytest.approx([40, 35, 1], abs=0.01)


def test_use_is_noted(cache):
    copies.mark_used(copies.folder(cache) / "old")
    assert copies.list_copies(cache)[-1].path.name == "old"


def test_nothing_is_removed_unless_asked_for(cache, capsys):
    clean_cache.clean(cache, days=30.0, removes=False)
    assert names(cache) == ["new", "old", "older-in-use"]
    *_, total, hint = capsys.readouterr().out.splitlines()
    assert total == f"{copies.folder(cache)}: 3 copies, 300 bytes"
    assert hint == "--remove removes what is unused for 30 days: 2 copies, 200 bytes"


def test_what_is_old_goes_unless_a_run_has_it_open(cache, capsys):
    path = copies.folder(cache) / "older-in-use"
    with use(path):
        clean_cache.clean(cache, days=30.0, removes=True)
        assert names(cache) == ["new", "older-in-use"]
    said = capsys.readouterr().out
    assert f"{path}: in use, left alone" in said
    assert said.splitlines()[-1] == f"{copies.folder(cache)}: 2 copies, 200 bytes"
    clean_cache.clean(cache, days=30.0, removes=True)
    assert names(cache) == ["new"]


def test_a_copy_used_since_it_was_listed_stays(cache):
    listed = copies.list_copies(cache)[0]
    copies.mark_used(listed.path)
    assert not copies.remove(listed)
    assert listed.path.is_dir()


def test_a_removal_that_was_killed_leaves_no_copy_and_is_finished_later(cache, monkeypatch):
    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(copies.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            copies.remove(copies.list_copies(cache)[0])
    assert not (copies.folder(cache) / "old").exists()
    clean_cache.clean(cache, days=30.0, removes=True)
    assert names(cache) == ["new"]


def test_a_run_waits_for_a_removal_and_then_prepares_again(cache):
    path, made = copies.folder(cache) / "old", []
    code = (
        "import sys; from pathlib import Path; from trashseg_jax.data import locks\n"
        "with locks.alone(Path(sys.argv[1])) as free:\n"
        "    print(free, flush=True); sys.stdin.read()\n"
        "    import shutil; shutil.rmtree(sys.argv[1])\n"
    )
    remover = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert remover.stdout.readline() == "True\n"
    remover.stdin.close()
    lock = locks.ensure(
        path, is_there=lambda: copies.is_whole(path), make=lambda: made.append(path)
    )
    assert remover.wait() == 0
    assert made == [path]
    lock.close()


def test_another_users_lock_is_shared(cache, monkeypatch):
    """Tests may run as root, whom no mode keeps out: so opening it to be written is refused."""
    path, opened = copies.folder(cache) / "new", type(cache).open
    use(path).close()

    def refuse(self, mode="r", **options):
        if mode != "r":
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, mode, **options)

    monkeypatch.setattr(type(cache), "open", refuse)
    with use(path), locks.alone(path) as free:
        assert not free


SIZES = {0: "0 bytes", 1023: "1023 bytes", 1024: "1 KiB", 3 * 2**20: "3 MiB", 5 * 2**29: "2.5 GiB"}


@pytest.mark.parametrize(("size", "shown"), SIZES.items())
def test_sizes_are_in_powers_of_1024(size, shown):
    assert copies.format_size(size) == shown
