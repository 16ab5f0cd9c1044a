"""What the system refuses is one line: the folder, the reason, the option that names another."""

import errno
import os
import pwd
from pathlib import Path

import pytest

from trashseg_jax import build, evaluate, folders, train
from trashseg_jax.errors import InputError
from trashseg_jax.report import files


def test_cache_is_that_of_the_xdg_specification(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert folders.user_cache() == tmp_path / "xdg" / "trashseg_jax"
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert folders.user_cache() == tmp_path / "home" / ".cache" / "trashseg_jax"


def test_no_home_is_one_line_that_names_the_option(monkeypatch, tiny_config):
    """As in a container whose user has no entry in the password file."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    config = tiny_config()
    config.data.cache_dir = ""
    with pytest.raises(InputError, match=r"no home folder.*--config\.data\.cache_dir=FOLDER"):
        build.cache_dir(config)


@pytest.fixture
def no_folder(tmp_path):
    """A place where nothing can be made, for root either."""
    (tmp_path / "file").touch()
    return tmp_path / "file" / "folder"


@pytest.mark.parametrize("dataset", ["demo", "aistage"])
def test_unusable_cache_is_one_line_that_names_the_option(tiny_config, no_folder, dataset):
    """At the demo's rendering, and at the preparation."""
    config = tiny_config()
    config.data.cache_dir = str(no_folder)
    config.data.name = dataset
    if dataset == "demo":
        config.data.dir = ""
    with pytest.raises(InputError, match=rf"^{no_folder}/.*\(Not a directory.*data\.cache_dir$"):
        build.build_data(config)


def test_unusable_run_folder_is_told_before_anything_is_prepared(
    tiny_config, no_folder, tmp_path, monkeypatch
):
    config = tiny_config()
    config.data.cache_dir = str(tmp_path / "cache")
    with pytest.raises(InputError, match=rf"^{no_folder}: cannot .*\(Not a dir.*--workdir"):
        train.train(config, no_folder)
    with pytest.raises(InputError, match=rf"^{no_folder}: cannot .*\(Not a dir.*--workdir"):
        evaluate.evaluate(config, no_folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_reports_that_cannot_be_written_are_one_line(tiny_config, tmp_path, monkeypatch):
    """The disk is full when the images have been scored."""
    config = tiny_config()
    train.train(config, tmp_path)
    before = (tmp_path / "metrics.json").read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=rf"^{tmp_path}: .*No space left on device.*--workdir"):
        evaluate.evaluate(config, tmp_path)
    assert (tmp_path / "metrics.json").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))


ARRAY_RECORD = "Failed to finalize: write() failed: No space left on device; at byte 147456"


def test_what_is_no_refusal_of_the_system_passes():
    line = r"^/x: cannot be written \(No space left on device\); y$"
    with pytest.raises(InputError, match=line), folders.explained(Path("/x"), "y"):
        raise RuntimeError(ARRAY_RECORD)
    for other in (RuntimeError("a mistake of ours"), OSError("a library's"), KeyError("x")):
        with pytest.raises(type(other)) as passed, folders.explained(Path("/x"), "y"):
            raise other
        assert passed.value is other


def test_files_are_on_the_disk_before_they_get_their_name_and_the_name_after(tmp_path, monkeypatch):
    """In this order, or a power cut leaves an empty file under the name."""
    calls, fsync, replace = [], os.fsync, os.replace

    def note_sync(handle):
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        calls.append(("sync", path.name, path.read_bytes() if path.is_file() else b""))
        fsync(handle)

    def note_replace(source, target):
        calls.append(("rename", Path(source).name, Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    files.write_text(tmp_path / "a.txt", "übung\n")
    assert calls == [
        ("sync", "a.txt.tmp", "übung\n".encode()),
        ("rename", "a.txt.tmp", "a.txt"),
        ("sync", tmp_path.name, b""),
    ]
    assert (tmp_path / "a.txt").read_text() == "übung\n"


def test_a_replaced_folder_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    """Whatever wrote into it."""
    calls, sync, rename = [], folders.sync, os.rename
    monkeypatch.setattr(folders, "sync", lambda path: (calls.append("sync"), sync(path)))
    monkeypatch.setattr(os, "rename", lambda a, b: (rename(a, b), calls.append(Path(b).name)))
    with files.replaced_folder(tmp_path / "model") as folder:
        (folder / "README.md").write_text("x")
    assert calls == ["sync", "model"]


def test_every_file_and_folder_of_a_tree_is_synced(tmp_path, monkeypatch):
    synced = []
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_text("x")
    monkeypatch.setattr(os, "fsync", lambda h: synced.append(os.readlink(f"/proc/self/fd/{h}")))
    folders.sync(tmp_path)
    assert sorted(synced) == sorted(map(str, [tmp_path, *tmp_path.rglob("*")]))
