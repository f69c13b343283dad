"""A text is read as UTF-8 without what Windows adds; what is no text is explained in one line."""

import os

import pytest

from gptjax.data import text_file
from gptjax.data.text_file import read_text
from gptjax.errors import UserError


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"\xef\xbb\xbf \r\n", r"is empty \(6 bytes\)"),
        (b"caf\xe9 au lait", "not UTF-8: byte 3 of 12 is 0xe9"),
        (b"cut \xe2\x82", "not UTF-8: byte 4"),
        ("héllo".encode("utf-16"), "UTF-16"),
        ("héllo".encode("utf-16-be"), "byte 0 is NUL"),
        (b"\xfe\xff\0h", "UTF-16"),
        ("h".encode("utf-32"), "UTF-32"),
        (b"\x7fELF\x02\0\0", "binary.*byte 5 is NUL"),
    ],
)
def test_a_file_that_is_no_text_is_explained_in_one_line(tmp_path, data, says):
    path = tmp_path / "naïve name.txt"
    path.write_bytes(data)
    with pytest.raises(UserError, match=says) as error:
        read_text(str(path))
    assert "naïve name.txt" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no such\nfile", "there is no file"),
        (".", "is a folder"),
        ("a\0b", "cannot be read"),
        ("x" * 5000, "cannot be read|there is no file"),
        ("~nobody-of-this-name/a.txt", "there is no file"),
        pytest.param(os.devnull, "no regular file|is empty", id="device"),
    ],
)
def test_a_path_that_is_no_file_is_explained_in_one_line(name, says):
    with pytest.raises(UserError, match=says) as error:
        read_text(name)
    assert "\n" not in str(error.value)


def test_a_file_that_may_not_be_read_is_explained(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "mine").touch()
    monkeypatch.setattr(text_file, "open", refuse, raising=False)
    with pytest.raises(UserError, match="mine' cannot be read: Permission denied"):
        read_text(str(tmp_path / "mine"))


def test_a_text_is_read_without_what_windows_adds(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + "naïve\r\nold\rlines \n\n".encode())
    assert read_text("~/a.txt") == read_text(str(tmp_path / "a.txt")) == "naïve\nold\nlines \n\n"


def test_a_text_of_many_blocks_is_whole_and_a_late_nul_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(text_file, "_BLOCK_BYTES", 7)
    path, text = tmp_path / "a.txt", "aé€😀\n" * 50
    path.write_text(text, encoding="utf-8")
    assert read_text(str(path)) == text
    path.write_bytes(text.encode() + b"x\0")
    with pytest.raises(UserError, match=f"byte {len(text.encode()) + 1} is NUL"):
        read_text(str(path))


def test_a_text_that_memory_cannot_take_is_refused_unread(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("abc\n" * 1000)
    monkeypatch.setattr(text_file.devices, "free_memory", lambda: 39_999)
    with pytest.raises(UserError, match="takes 10 times its size in memory.*give a part of it"):
        read_text(str(tmp_path / "a.txt"))
    for enough in (40_000, 0):  # 0: unknown
        monkeypatch.setattr(text_file.devices, "free_memory", lambda enough=enough: enough)
        assert len(read_text(str(tmp_path / "a.txt"))) == 4000
