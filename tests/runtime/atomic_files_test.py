"""Files are written whole or not at all, and those of other people are read without harm."""

import errno
import json
import os

import pytest

from gptjax.runtime import atomic_files
from gptjax.runtime.atomic_files import (
    parse_json,
    read_json,
    read_small,
    whole_folder,
    write_whole,
)


def test_a_file_is_written_whole_into_folders_that_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "file.json"
    for data in (b"one", b"", b"three" * 99):
        write_whole(path, data)
        assert path.read_bytes() == data
    assert os.listdir(path.parent) == ["file.json"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_others_may_read_what_was_written(tmp_path):
    write_whole(tmp_path / "f", b"x")
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_a_write_that_fails_leaves_the_old_file_and_names_it(tmp_path, monkeypatch, call):
    path = tmp_path / "file.json"
    write_whole(path, b"old")

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic_files.os, call, refuse)
    with pytest.raises(OSError, match="No space left on device: .*file.json") as error:
        write_whole(path, b"new")
    assert error.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file.json"]


def test_an_interruption_leaves_no_half_file(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic_files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "f", b"new")
    assert os.listdir(tmp_path) == []


def test_what_a_killed_write_left_is_deleted_and_nothing_else(tmp_path):
    for name in (f"run.jsonab12{atomic_files.PART}", f"mine{atomic_files.PART}", "run.json", "b"):
        (tmp_path / name).write_bytes(b"x")
    atomic_files.clean(tmp_path)
    left = ["b", f"mine{atomic_files.PART}", "run.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left


def test_json_is_read_up_to_a_limit(tmp_path):
    path, value = tmp_path / "f.json", {"a": [1, 2.5, "ü", None]}
    data = json.dumps(value).encode()
    path.write_bytes(data)
    assert read_json(path, len(data)) == value
    assert read_json(path, len(data) - 1) is None
    with pytest.raises(OSError, match=f"{len(data)} bytes, more than the allowed 10"):
        read_small(path, 10)


def test_no_file_and_a_folder_are_no_json(tmp_path):
    assert read_json(tmp_path / "absent", 99) is None
    assert read_json(tmp_path, 99) is None
    with pytest.raises(FileNotFoundError):
        read_small(tmp_path / "absent", 99)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in this file system")
def test_a_pipe_is_no_json_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert read_json(tmp_path / "pipe", 99) is None
    with pytest.raises(OSError, match="no regular file"):
        read_small(tmp_path / "pipe", 99)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xfe", b"{torn", b"[1] 2", b"[" * 200_000, b'{"a":' * 200_000],
    ids=lambda data: repr(data[:9]),
)
def test_what_is_not_json_or_nested_too_deep_is_none(tmp_path, data):
    (tmp_path / "f").write_bytes(data)
    assert read_json(tmp_path / "f", 2**21) is None
    with pytest.raises(ValueError):
        parse_json(data)


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_has_its_name_when_it_is_whole(tmp_path, there):
    path = tmp_path / "a" / "out"
    if there:
        path.mkdir(parents=True)
    with whole_folder(path) as part:
        (part / "file").write_bytes(b"x")
        assert part.parent == path.parent and not (path / "file").exists()
    assert (path / "file").read_bytes() == b"x" and os.listdir(path.parent) == ["out"]
    if os.name != "nt":
        assert path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_folder_that_fails_leaves_nothing(tmp_path, error):
    with pytest.raises(error), whole_folder(tmp_path / "out") as part:
        (part / "file").write_bytes(b"x")
        raise error
    assert os.listdir(tmp_path) == []


def test_a_folder_that_somebody_filled_meanwhile_is_left_alone(tmp_path):
    path = tmp_path / "out"
    with pytest.raises(OSError, match="out") as error, whole_folder(path) as part:
        (part / "file").write_bytes(b"ours")
        path.mkdir()
        (path / "file").write_bytes(b"theirs")
    assert error.value.filename == str(path)
    assert (path / "file").read_bytes() == b"theirs" and os.listdir(tmp_path) == ["out"]
