"""Runs on byte pairs: continued, written with, looked into, compared with runs on characters."""

import json
import shutil

import numpy as np
import pytest
import tiny_runs
from rich.cells import cell_len

from gptjax import evaluate, look
from gptjax.checkpoints import run as runs
from gptjax.cli import main as cli
from gptjax.data import bpe, corpora
from gptjax.monitoring import plots
from gptjax.monitoring.console import Terminal
from gptjax.training import experiment, resume

V = 283
BPE = {"kind": "bpe", "vocab_size": V}


def write_text(folder):
    """Words that come again and again, among them some beyond ASCII."""
    path = folder / "words.txt"
    words = tiny_runs.write_text(folder).read_text(encoding="utf-8").split()
    marks = ["é,", "漢", ";", "naïve"]
    path.write_text(" ".join(w + marks[i % 4] * (i % 3 == 0) for i, w in enumerate(words)) + "\n")
    return path


def config_of(text, kind="bigram_embed", **changes):
    few = {"train": {"steps": 13, "eval_every": 6}, "tokenizer": BPE}
    return tiny_runs.config(text, kind, **few | changes)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "bpe"
    return folder, tiny_runs.fit(config_of(text), folder)


@pytest.fixture
def call(finished, capsys):
    """A command with the run: (exit code, stdout, stderr)."""

    def call(command, *words, **flags):
        given = [f"--{name}={value}" for name, value in flags.items()]
        argv = ["gptjax", f"--workdir={finished[0]}", *given, *words]
        options = {"words": "question"} if command is look else {}
        code = cli.call(command.main, argv, flags=command.FLAGS, **options)
        return code, *capsys.readouterr()

    return call


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(finished, text, tmp_path, monkeypatch):
    config = config_of(text)
    assert tiny_runs.fit(config, tmp_path, monkeypatch, stop_at=7).step >= 7
    tiny_runs.fit(config, tmp_path, monkeypatch)
    assert tiny_runs.outcome(config, tmp_path) == tiny_runs.outcome(config, finished[0])


def test_it_goes_on_with_the_pairs_it_has_whatever_would_be_learnt_now(
    finished, text, tmp_path, monkeypatch
):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    before = runs.open_run(workdir).tokenizer
    other = bpe.train(["quite another text " * 9], V)
    monkeypatch.setattr(bpe, "train", lambda *_: other)
    monkeypatch.setattr(plots, "loss_curves", lambda *_: "")
    tiny_runs.fit(config_of(text, train={"steps": 15, "eval_every": 6}), workdir)
    assert runs.open_run(workdir, 15).tokenizer == before != other
    assert resume.learnt_tokenizer(tmp_path / "nothing") is None


def test_characters_need_no_tokenizer_that_was_saved(text, tmp_path):
    config = config_of(text, "bigram", tokenizer={"kind": "char"})
    tiny_runs.fit(config, tmp_path)
    assert resume.learnt_tokenizer(tmp_path) is None


def test_pairs_are_learnt_from_the_training_split_alone(text):
    config = config_of(text)
    corpus = corpora.load(config.data, config.seed)
    tok = corpus.tokenizer(config.tokenizer)
    assert tok == bpe.train([corpus.splits["train"]], V) and tok.vocab_size == V
    assert tok != bpe.train([corpus.text], V)
    assert tok.decode(tok.encode(corpus.splits["val"])) == corpus.splits["val"]


def test_it_writes_and_holds_half_a_character_back(finished):
    run = runs.open_run(finished[0])
    pieces = {}
    settings = {"max_new_tokens": 40, "temperature": 5.0, "num_samples": 3, "seed": 4}
    samples = run.generate(
        "é", on_text=lambda row, t: pieces.setdefault(row, []).append(t), **settings
    )
    for row, sample in enumerate(samples):
        assert "".join(pieces[row]) == sample.text == run.tokenizer.decode(sample.ids)
    assert len({sample.text for sample in samples}) == 3
    stop = samples[0].text[7:9]
    cut = run.generate("é", stop=stop, **settings)[0]
    assert cut.text == samples[0].text[: samples[0].text.find(stop)] and cut.why == "stop"
    assert run.generate("", max_new_tokens=3)[0].prompt == ""


def test_items_begin_and_end_with_the_end_of_text(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("".join(f"{a}{b}\n" for a in ("anna", "ben", "é") for b in "abcdefghij"))
    config = config_of(names, "mlp", train={"steps": 80, "eval_every": 0})
    summary = tiny_runs.fit(config, tmp_path / "run")
    run = runs.open_run(tmp_path / "run")
    split = experiment.of_run(run, tmp_path / "run").splits["val"]
    tok, items = run.tokenizer, corpora.load(config.data, config.seed).splits["val"]
    ends = np.flatnonzero(split.tokens == tok.end_id)
    assert tok.decode(split.tokens[: ends[1]]) == "<|endoftext|>" + items.split("\n")[0]
    # An item's end is a character and a byte, as a new line is.
    assert (split.characters, split.n_bytes) == (len(items), len(items.encode()))
    bits = summary["final_val_nats"] * split.n_predicted / np.log(2)
    assert summary["final_val_bits_per_byte"] == pytest.approx(bits / len(items.encode()))
    assert summary["final_val_bits_per_character"] == pytest.approx(bits / len(items))
    samples = run.generate("", max_new_tokens=200, num_samples=9)
    assert "end" in {sample.why for sample in samples}
    assert not any("<|" in sample.text for sample in samples)


def test_the_loss_is_given_per_token_character_and_byte(finished, call, text, tmp_path):
    report = json.loads(call(evaluate, "--json", checkpoint="last")[1])
    val = text.read_text(encoding="utf-8")
    val = val[int(0.9 * len(val)) :]
    tok = runs.open_run(finished[0]).tokenizer
    first = tok.token_bytes(int(tok.encode(val)[0]))  # it is not predicted
    assert report["bytes"] == len(val.encode()) - len(first)
    assert report["characters"] == len(val) - len(first.decode())
    bits = report["bits_per_token"] * report["tokens"]
    assert report["bits_per_byte"] * report["bytes"] == pytest.approx(bits)
    assert report["bits_per_character"] * report["characters"] == pytest.approx(bits)
    assert report["bits_per_byte"] == pytest.approx(finished[1]["final_val_bits_per_byte"])
    assert report["bits_per_byte"] < report["bits_per_character"] < report["bits_per_token"]


def test_tokens_are_shown_legibly_in_columns(call, tmp_path, finished):
    path = tmp_path / "some.txt"
    path.write_text("Zé 漢字 naïve\n", encoding="utf-8")
    _, out, _ = call(evaluate, "--per_token", text_file=path)
    table = out.split("\n\n")[-1].splitlines()
    assert r"\xad" in out and "␣" in out and "漢" in out
    assert len(set(map(cell_len, table))) == 1
    for question in (["next", "naïve"], ["next", "漢", "--every_position"]):
        code, out, _ = call(look, *question, top=200)
        assert code == 0 and "␣" in out and r"\x" in out
    code, out, err = call(look, "near", " a")
    assert code == 0 and out.startswith("cosine to  a")


def test_a_table_compares_them_with_characters_by_bits_per_byte(finished, text, tmp_path, capsys):
    from gptjax.compare import measure

    config = config_of(text, tokenizer={"kind": "char"})
    tiny_runs.fit(config, tmp_path / "char")
    with Terminal() as terminal:
        table, _ = measure.compare([finished[0], tmp_path / "char"], "last", terminal)
    ours, theirs = table.lines
    assert ours.bits_per_byte == pytest.approx(finished[1]["final_val_bits_per_byte"])
    assert 0 < theirs.bits_per_byte < theirs.val_nats / np.log(2) and ours.gained is None
    assert table.notes == [
        "not all runs learnt from the same tokens and were asked for the same: their losses per "
        "token do not compare, bits per byte do, and no gain of one over another is shown"
    ]
    for shown in (table.text(), table.markdown()):
        assert f"{ours.bits_per_byte:.4f}" in shown and "which compares runs" in shown
    assert "bits_per_byte" in table.csv() and table.json()["lines"][0]["bits_per_byte"]
