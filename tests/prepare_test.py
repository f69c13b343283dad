"""The command ``prepare``: the tokens that the text would have, whatever its blocks, or nothing."""

import errno
import os
import types

import numpy as np
import pytest
import tiny_runs
from hypothesis import given, settings
from hypothesis import strategies as st

from gptjax import prepare, sample
from gptjax.cli import main as cli
from gptjax.config.schema import TokenizerConfig
from gptjax.data import text_file, token_files, tokenizers
from gptjax.data.splits import split_stream
from gptjax.errors import UserError

AWKWARD = [
    "a",
    "b1",
    " ",
    "\n",
    "\r\n",
    "\r",
    "é",
    "€",
    "😀",
    "don't",
    "\u0301",
    "क्",
    "\u2019",
    "\x85",
]


def made(path, out, config, **more):
    return prepare.prepare(str(path), str(out), config, lambda *_: None, **more)


def assert_same(found, text, tok):
    """That a folder has the tokens that ``text`` has in memory."""
    assert found.tokenizer == tok
    for split, part in split_stream(text).items():
        assert found.splits[split].characters == len(part)
        assert found.splits[split].n_bytes == len(part.encode())
        np.testing.assert_array_equal(found.splits[split].tokens, tok.encode(part))


@settings(max_examples=60)
@given(
    parts=st.lists(st.sampled_from(AWKWARD), min_size=2, max_size=60),
    mark=st.booleans(),
    block=st.integers(1, 9),
    kind=st.sampled_from([("char", 1), ("byte", 1), ("word", 1), ("word", 2), ("bpe", 1, 259)]),
)
def test_the_tokens_are_those_of_the_whole_text(tmp_path_factory, parts, mark, block, kind):
    folder, config = tmp_path_factory.mktemp("prepare"), TokenizerConfig(*kind)
    path = folder / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" * mark + "".join(parts).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_file, "_BLOCK_BYTES", block)
        patch.setattr(token_files, "SHARD_BYTES", 4 * block)
        try:
            text = text_file.read_text(str(path))
            learnt_from = split_stream(text)["train"] if config.kind == "bpe" else text
            tok = tokenizers.build(config, learnt_from)
        except UserError as error:
            with pytest.raises(UserError) as ours:
                made(path, folder / "out", config)
            assert str(ours.value) == str(error) and not (folder / "out").exists()
            return
        assert_same(made(path, folder / "out", config), text, tok)
    names = sorted(os.listdir(folder / "out"))
    assert "tokens.json" in names and not [name for name in names if name.endswith(".part")]


def test_byte_pairs_of_a_large_text_are_learnt_from_a_sample_of_all_of_it(tmp_path, monkeypatch):
    words = [f"{chr(97 + n // 40)}{chr(97 + n % 26)}er" * 2 for n in range(900)]
    text = " ".join(words) + " " + "xyzzy" * 9 + " zyx" * 90
    (tmp_path / "a.txt").write_text(text)
    monkeypatch.setattr(text_file, "_BLOCK_BYTES", 100)
    monkeypatch.setattr(prepare, "LEARNT_FROM", 2000)
    seen = []
    learn = tokenizers.learn
    monkeypatch.setattr(
        tokenizers,
        "learn",
        lambda c, texts, *rest: learn(c, seen.append(list(texts)) or seen[0], *rest),
    )
    config = TokenizerConfig("bpe", 1, 290)
    found = made(tmp_path / "a.txt", tmp_path / "out", config)
    (parts,) = seen
    assert 1700 < len("".join(parts)) <= 2100 < 0.3 * len(text)
    ends = [text.find(part) / len(text) for part in parts]
    assert ends == sorted(ends) and max(np.diff([0, *ends, 0.9])) < 0.12, "evenly spread"
    assert found.tokenizer == tokenizers.bpe.train(parts, 290) and found.vocab_size == 290
    for split, part in split_stream(text).items():
        np.testing.assert_array_equal(found.splits[split].tokens, found.tokenizer.encode(part))
    assert made(tmp_path / "a.txt", tmp_path / "out", config).tokenizer == found.tokenizer
    with pytest.raises(UserError, match="another text or tokenizer"):
        made(tmp_path / "a.txt", tmp_path / "out", TokenizerConfig("bpe", 1, 291))


@pytest.mark.parametrize("kind", ["word", "char"])
def test_several_processes_give_the_tokens_of_one(kind, tmp_path, monkeypatch):
    path, config = tmp_path / "a.txt", TokenizerConfig(kind)
    path.write_text("".join(f"{n} ünd {n * n},\n" for n in range(900)), encoding="utf-8")
    monkeypatch.setattr(text_file, "_BLOCK_BYTES", 999)  # more blocks than are read ahead
    found = made(path, tmp_path / "out", config, n_workers=2)
    text = text_file.read_text(str(path))
    assert_same(found, text, tokenizers.build(config, text))


def test_ids_beyond_sixteen_bits_take_thirty_two(tmp_path):
    path, config = tmp_path / "a.txt", TokenizerConfig("word")
    for n, dtype in ((2**16 - 2, "uint16"), (2**16 - 1, "uint32")):  # and a new line and <unk>
        path.write_text("\n".join(map(str, range(n))) + "\n\n")
        found = made(path, tmp_path / dtype, config)
        text = path.read_text()
        assert found.dtype == dtype and found.tokenizer.vocab_size == n + 2
        assert_same(found, text, tokenizers.build(config, text))


@pytest.mark.parametrize(
    "data, says",
    [
        (b"abc\nca" + b"f\xe9 au lait" + b" x" * 9, "byte 7 of 34 is 0xe9"),
        (b"\xef\xbb\xbfab cd \xe2\x82", "byte 9 of 11 is 0xe2"),
        (b"abc def g\0h", "byte 9 is NUL"),
        (b"\xff\xfea\0", "UTF-16"),
        (b" \n \r\n", r"is empty \(5 bytes\)"),
        (b"a", "1 character"),
    ],
)
def test_what_is_no_text_is_refused_with_its_place_and_nothing_is_left(
    tmp_path, monkeypatch, data, says
):
    monkeypatch.setattr(text_file, "_BLOCK_BYTES", 5)
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(UserError, match=says):
        made(tmp_path / "a.txt", tmp_path / "out", TokenizerConfig("char"))
    assert os.listdir(tmp_path) == ["a.txt"]


# ---- what is left, and the folders there are ---------------------------------------------------


@pytest.fixture
def path(tmp_path):
    return tiny_runs.write_text(tmp_path)


@pytest.mark.parametrize("ends", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_where_it_is_interrupted_nothing_is_left_and_a_second_start_works(
    ends, path, tmp_path, monkeypatch
):
    real, calls = token_files.Writer.write, []

    def write(writer, split, ids):
        calls.append(split)
        if len(calls) > 1:
            with token_files.naming(path):
                raise ends
        real(writer, split, ids)

    monkeypatch.setattr(token_files.Writer, "write", write)
    with pytest.raises(type(ends)):
        made(path, tmp_path / "out", TokenizerConfig())
    assert os.listdir(tmp_path / "out") == []
    monkeypatch.undo()
    made(path, tmp_path / "out", TokenizerConfig())


def test_what_a_killed_one_left_is_replaced_and_no_run_takes_it_for_whole(path, tmp_path):
    out = tmp_path / "out"
    made(path, out, TokenizerConfig())
    whole = {file.name: file.read_bytes() for file in out.iterdir()}
    (out / "tokens.json").unlink()
    (out / "train-00007.bin").write_bytes(b"half")
    with pytest.raises(UserError, match="holds 'train-00000.bin'"):
        made(path, out, TokenizerConfig())  # without its mark it may be anybody's
    (out / token_files.UNFINISHED).touch()
    with pytest.raises(UserError, match="without tokens.json"):
        token_files.open_folder(str(out))
    made(path, out, TokenizerConfig())
    assert {file.name: file.read_bytes() for file in out.iterdir()} == whole


def test_a_text_that_changes_between_its_readings_is_refused(path, tmp_path, monkeypatch):
    real = tokenizers.of_pieces

    def slow(*args):
        path.write_bytes(path.read_bytes()[::-1])
        return real(*args)

    monkeypatch.setattr(prepare.tokenizers, "of_pieces", slow)
    with pytest.raises(UserError, match="was changed while it was read"):
        made(path, tmp_path / "out", TokenizerConfig())
    assert os.listdir(tmp_path / "out") == []


def test_too_little_room_is_seen_before_anything_is_written(path, tmp_path, monkeypatch):
    n = len(path.read_text())
    for free, fits in ((2 * n, True), (2 * n - 1, False)):
        room = types.SimpleNamespace(free=token_files.SPARE_BYTES + free)
        monkeypatch.setattr(token_files.shutil, "disk_usage", lambda _, room=room: room)
        if fits:
            made(path, tmp_path / "fits", TokenizerConfig())
            continue
        with pytest.raises(UserError, match="GB are free.*make room"):
            made(path, tmp_path / "out", TokenizerConfig())
        assert os.listdir(tmp_path / "out") == []


@pytest.fixture
def call(capsys):
    """Call the command: (exit code, stdout, stderr)."""

    def call(*argv):
        code = cli.call(prepare.main, ["gptjax.prepare", *argv], flags=prepare.FLAGS)
        return code, *capsys.readouterr()

    return call


def test_the_command_says_what_there_is_and_how_to_learn_from_it(call, path, tmp_path):
    argv = [f"--path={path}", f"--out={tmp_path}/out", "--tokenizer=word", "--min_count=3"]
    code, out, err = call(*argv)
    assert (code, err) == (0, "") and "words.txt: word, vocabulary" in out and "complete" in out
    assert f"--config.data.path={tmp_path}/out --config.tokenizer.kind=word" in out
    assert out.rstrip().endswith("--config.tokenizer.min_count=3")
    before = [(f.name, f.stat().st_mtime_ns) for f in sorted((tmp_path / "out").iterdir())]
    assert call(*argv) == (code, out, err)  # it is there already
    assert before == [(f.name, f.stat().st_mtime_ns) for f in sorted((tmp_path / "out").iterdir())]
    code, out, err = call(f"--verify={tmp_path}/out")
    assert (code, err) == (0, "") and "undamaged" in out


@pytest.mark.parametrize(
    "argv, named",
    [
        ("", ["--path", "--out", "--verify"]),
        ("--path={t}/words.txt", ["--out"]),
        ("--path={t}/words.txt --out={t}/x --verify={t}/x", ["--verify"]),
        ("--path={t}/none.txt --out={t}/x", ["none.txt", "there is no file"]),
        ("--path={t} --out={t}/x", ["is a folder"]),
        ("--path={t}/words.txt --out={t}", ["holds 'done'", "--out"]),
        ("--path={t}/words.txt --out={t}/words.txt", ["no folder", "--out"]),
        ("--path={t}/words.txt --out={t}/done --tokenizer=byte", ["another text or tokenizer"]),
        ("--path={t}/words.txt --out={t}/x --tokenizer=bpf", ["char or word or byte or bpe"]),
        ("--path={t}/words.txt --out={t}/x --min_count=2", ["min_count=2", "word"]),
        ("--path={t}/words.txt --out={t}/x --vocab_size=300", ["vocab_size=300", "'bpe'"]),
        ("--path={t}/words.txt --out={t}/x --tokenizer=word --min_count=999", ["min_count=999"]),
        ("--verify={t}/x", ["without tokens.json"]),
        ("--verify={t}", ["without tokens.json"]),
    ],
)
def test_a_wrong_use_is_one_line(call, path, tmp_path, argv, named):
    made(path, tmp_path / "done", TokenizerConfig())
    code, out, err = call(*argv.format(t=tmp_path).split())
    assert (code, out) == (2, "") and err.count("\n") == 1 and not (tmp_path / "x").exists()
    assert all(name in err for name in named), err


# ---- training from a folder --------------------------------------------------------------------


def test_a_run_on_the_tokens_is_the_run_on_the_text(path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(token_files, "SHARD_BYTES", 500)
    made(path, tmp_path / "tokens", TokenizerConfig())
    text = tiny_runs.config(path, "gpt")
    tokens = tiny_runs.config(tmp_path / "tokens", "gpt")
    tiny_runs.fit(text, tmp_path / "a", monkeypatch)
    assert tiny_runs.fit(tokens, tmp_path / "b", monkeypatch, stop_at=9).step < 23
    tiny_runs.fit(tokens, tmp_path / "b", monkeypatch)
    tiny_runs.fit(text, tmp_path / "c", monkeypatch, stop_at=9)
    tiny_runs.fit(tokens, tmp_path / "c", monkeypatch)  # the text's sha256 is what must agree
    expected = tiny_runs.outcome(text, tmp_path / "a")
    assert tiny_runs.outcome(tokens, tmp_path / "b") == expected
    assert tiny_runs.outcome(tokens, tmp_path / "c") == expected
    # What needs the text itself says so.
    argv = ["gptjax.sample", f"--workdir={tmp_path / 'b'}", "--report"]
    assert cli.call(sample.main, argv, flags=sample.FLAGS) == 2
    assert "hold no text" in capsys.readouterr().err
    with pytest.raises(UserError, match="train.neighbours=2 makes its pairs in memory"):
        tiny_runs.real_build(tiny_runs.config(tmp_path / "tokens", train={"neighbours": 2}))


def test_other_tokens_are_refused_by_a_run(path, tmp_path):
    made(path, tmp_path / "words", TokenizerConfig("word", 2))
    config = tiny_runs.config(tmp_path / "words")
    with pytest.raises(UserError, match="tokenizer.kind='word'.*has 'char': set --config.tok"):
        tiny_runs.real_build(config)
