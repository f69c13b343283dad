"""The command ``evaluate``: a split of the corpus, or any text without the corpus."""

import json
import math

import jax
import numpy as np
import pytest
import tiny_runs

from gptjax import evaluate
from gptjax.checkpoints import run as runs
from gptjax.cli import main as cli
from gptjax.data import corpora

KINDS = ("gpt", "mlp", "bigram")  # a stream in windows, items, a stream whose model slides


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Runs of three kinds, the split they were evaluated on as a file, and no corpus."""
    folder = tmp_path_factory.mktemp("evaluate")
    text = tiny_runs.write_text(folder)
    found = {"folder": folder}
    for kind in KINDS:
        config = tiny_runs.config(
            text, kind, train={"steps": 3, "eval_every": 3}, sample={"max_new_tokens": 0}
        )
        found[kind] = tiny_runs.fit(config, folder / kind)["final_val_nats"]
        split = corpora.load(config.data, config.seed).splits["val"]
        (folder / f"{kind}.txt").write_text(split, encoding="utf-8")
    text.unlink()
    return found


@pytest.fixture
def call(folders, capsys, tmp_path):
    """Score a text (or a file) with a run: (exit code, stdout, stderr)."""

    def call(kind, text, *flags):
        path = folders["folder"] / text
        if not path.suffix:
            path = tmp_path / "text.txt"
            path.write_text(text, encoding="utf-8")
        flags = [f"--workdir={folders['folder'] / kind}", f"--text_file={path}", *flags]
        code = cli.call(evaluate.main, ["gptjax.evaluate", *flags], flags=evaluate.FLAGS)
        return code, *capsys.readouterr()

    return call


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_of_a_split_has_the_exact_loss_of_the_split(kind, call, folders):
    code, out, err = call(kind, f"{kind}.txt", "--checkpoint=last", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["nats_per_token"] == pytest.approx(folders[kind], rel=1e-6)
    text = (folders["folder"] / f"{kind}.txt").read_text(encoding="utf-8")
    assert report["tokens"] == report["characters"] == len(text) - (kind != "mlp")
    assert report["perplexity"] == pytest.approx(math.exp(report["nats_per_token"]))


def test_each_token_has_the_probability_and_rank_of_the_models_logits(call, folders):
    text = "abcdefgfedcbaaa"
    tokens = json.loads(call("gpt", text, "--per_token", "--json")[1])["per_token"]
    run = runs.open_run(folders["folder"] / "gpt")
    ids = run.tokenizer.encode(text)
    assert [t["text"] for t in tokens] == list(text[1:])
    assert [t["id"] for t in tokens] == ids[1:].tolist()
    assert [t["row"] for t in tokens] == [0] * 6 + [1] * 6 + [2] * 2
    # A row of its own for each window: what stands before it is not seen.
    x_3x6 = np.concatenate([ids[:-1], [0] * 4]).reshape(3, 6)
    logits = jax.jit(run.model.apply)({"params": run.params}, x_3x6).reshape(18, -1)
    for i, token in enumerate(tokens):
        weights = np.exp(np.asarray(logits[i], np.float64))
        p = weights / weights.sum()
        assert token["probability"] == pytest.approx(p[ids[i + 1]], rel=1e-4)
        assert token["nats"] == pytest.approx(-math.log(p[ids[i + 1]]), rel=1e-4)
        assert token["rank"] == 1 + (p > p[ids[i + 1]]).sum()


def test_the_table_has_a_line_per_token_and_says_how_the_text_is_cut(call):
    code, out, _ = call("gpt", "abcdefg\nab", "--per_token")
    head, table = out.split("\n\n")
    assert code == 0 and len(table.splitlines()) == 1 + 9
    assert "rows of at most 6 predictions" in head and "the first token is not predicted" in head
    assert "\\n" in table.splitlines()[7]
    assert "probability" not in call("gpt", "abcdefg\nab")[1]
    assert "each token is predicted from the 1 before it" in call("bigram", "abc")[1]


def test_items_stand_one_a_line_and_their_end_is_predicted(call):
    report = json.loads(call("mlp", "ab  \n\ngfedcb\n\n", "--per_token", "--json")[1])
    assert [t["text"] for t in report["per_token"]] == [*"ab", "\\n", *"gfedcb", "\\n"]
    assert [t["row"] for t in report["per_token"]] == [0] * 3 + [1] * 7
    assert report["tokens"] == report["characters"] == 10
    assert "one item a line" in report["cut"]


def test_a_text_has_the_error_of_its_split_and_a_short_one_has_none(call, folders):
    """The file of val is cut as val is: the same blocks, and the same error."""
    report = json.loads(call("gpt", "gpt.txt", "--checkpoint=last", "--json")[1])
    summary = json.loads((folders["folder"] / "gpt/summary.json").read_text(encoding="utf-8"))
    assert report["nats_per_token_error"] == pytest.approx(
        summary["final_val_nats_error"], rel=1e-4
    )
    code, out, _ = call("gpt", "abcdefg")
    assert code == 0 and "±" not in out and "per token error" not in out
    assert json.loads(call("gpt", "abcdefg", "--json")[1])["nats_per_token_error"] is None


def test_a_text_of_two_tokens_is_enough_and_of_one_is_not(call):
    report = json.loads(call("gpt", "ab", "--json")[1])
    assert report["tokens"] == report["characters"] == 1
    code, out, err = call("gpt", "a")
    assert (code, out) == (2, "") and "1 token" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "kind, text, named",
    [("gpt", "abß\n", "'ß' (U+00DF) at position 2"), ("mlp", "ab\n\ncßd\n", "line 3: the char")],
)
def test_an_unknown_character_is_named_with_its_place(kind, text, named, call):
    code, out, err = call(kind, text)
    assert (code, out) == (2, "") and named in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "flags, named",
    [(["--split=val"], "--split"), (["--text_file=", "--per_token"], "--per_token")],
)
def test_flags_that_contradict_each_other_are_refused(flags, named, call):
    code, _, err = call("gpt", "abc", *flags)
    assert code == 2 and named in err


@pytest.fixture
def split_report(tmp_path, capsys):
    """A function of a run's changes: its summary, and ``evaluate --json`` on its own split."""

    def report(kind, *flags, **changes):
        text = tiny_runs.write_text(tmp_path)
        changes["train"] = {"steps": 2} | changes.get("train", {})
        config = tiny_runs.config(text, kind, sample={"max_new_tokens": 0}, **changes)
        summary = tiny_runs.fit(config, tmp_path / "run")
        argv = ["gptjax.evaluate", f"--workdir={tmp_path / 'run'}", "--checkpoint=last", *flags]
        capsys.readouterr()
        assert cli.call(evaluate.main, [*argv, "--json"], flags=evaluate.FLAGS) == 0
        return summary, json.loads(capsys.readouterr().out)

    return report


def test_a_split_of_the_corpus_is_reported_beside_the_count_bigram(split_report):
    summary, report = split_report("gpt", "--split=train")
    names = "workdir step split nats_per_token nats_per_token_error bits_per_token"
    names += " nats_per_character bits_per_character bits_per_byte perplexity"
    names += " tokens characters bytes count_bigram_nats_per_token"
    assert list(report) == names.split() and (report["split"], report["step"]) == ("train", 2)
    # All of it: the summary's is of a part as large as val.
    assert report["tokens"] > 5 * summary["final_train_tokens"] > 0
    assert 0 < abs(report["nats_per_token"] - summary["final_train_nats"]) < 0.1
    assert report["nats_per_token_error"] > 0
    assert report["nats_per_character"] == report["nats_per_token"]  # a token is a character
    assert report["count_bigram_nats_per_token"] == summary["count_bigram_train_nats"]


def test_the_error_is_the_summarys_and_is_explained(split_report, tmp_path, capsys):
    summary, report = split_report("gpt")
    error = report["nats_per_token_error"]
    assert report["nats_per_token"] == summary["final_val_nats"]  # one loss, one number
    assert error == summary["final_val_nats_error"] > 0
    argv = ["gptjax.evaluate", f"--workdir={tmp_path / 'run'}", "--checkpoint=last"]
    assert cli.call(evaluate.main, argv, flags=evaluate.FLAGS) == 0
    said = capsys.readouterr().out
    assert f"{report['nats_per_token']:.4f} ± {error:.4f}\n" in said
    assert "±: standard error of the choice of validation text" in said
    argv = ["gptjax.evaluate", "--help"]
    assert cli.call(evaluate.main, argv, about=evaluate.__doc__, flags=evaluate.FLAGS) == 0
    assert "± is the standard error of the choice" in capsys.readouterr().out


def test_words_have_a_share_of_unknown_ones_and_more_characters_than_tokens(split_report):
    summary, report = split_report("bigram", tokenizer={"kind": "word", "min_count": 9})
    assert report["split"] == "val" and 0 < report["unknown_words"] < 1
    assert report["nats_per_token"] == pytest.approx(summary["final_val_nats"], rel=1e-6)
    per_character = report["nats_per_token"] * report["tokens"] / report["characters"]
    assert report["nats_per_character"] == pytest.approx(per_character)
    assert report["characters"] > 1.5 * report["tokens"]


def test_neighbours_make_no_text_and_have_no_figure_per_character(split_report, tmp_path, capsys):
    words = {"tokenizer": {"kind": "word"}, "train": {"neighbours": 2}}
    summary, report = split_report("bigram_embed", **words)
    assert not [name for name in report if "character" in name]
    assert report["nats_per_token"] == pytest.approx(summary["final_val_nats"], rel=1e-6)
    assert report["tokens"] > 0 and report["unknown_words"] == 0
    argv = ["gptjax.evaluate", f"--workdir={tmp_path / 'run'}", f"--text_file={tmp_path}/words.txt"]
    assert cli.call(evaluate.main, argv, flags=evaluate.FLAGS) == 2
    assert "cannot score a text: ask look near" in capsys.readouterr().err
