"""The verb ``evaluate`` on any text: the figures of a split, without the corpus."""

import json
import math

import jax
import numpy as np
import pytest
import tiny_runs

from gptjax import evaluate
from gptjax.checkpoints import run as runs
from gptjax.cli import main as cli
from gptjax.data import splits as corpus
from gptjax.data.tokenizers import WordTokenizer
from gptjax.errors import UserError
from gptjax.evaluation import loss_eval as scoring
from gptjax.monitoring import metrics

pytestmark = pytest.mark.usefixtures("quick_compile")
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
        split = corpus.load(config.data, config.seed).splits["val"]
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


def test_a_loss_beyond_all_perplexity_is_still_a_report():
    found = evaluate.figures(1e4, 10, 10)
    assert found["perplexity"] == math.inf and found["nats_per_token"] == 1e4
    assert json.loads(json.dumps(metrics.plain(found)))["perplexity"] is None


def test_items_stand_one_a_line_and_their_end_is_predicted(call):
    report = json.loads(call("mlp", "ab  \n\ngfedcb\n\n", "--per_token", "--json")[1])
    assert [t["text"] for t in report["per_token"]] == [*"ab", "\\n", *"gfedcb", "\\n"]
    assert [t["row"] for t in report["per_token"]] == [0] * 3 + [1] * 7
    assert report["tokens"] == report["characters"] == 10
    assert "one item a line" in report["cut"]


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


def test_logits_that_are_not_finite_are_an_error(folders):
    run = runs.open_run(folders["folder"] / "bigram")
    rows, _ = scoring.cut("abcd", run.tokenizer, run.model, items=False)
    table = np.array(run.params["token_embedding_table"]["embedding"])
    table[run.tokenizer.encode("b")] = np.nan
    with pytest.raises(UserError, match="prediction 1 are not finite"):
        scoring.score(run.model, {"token_embedding_table": {"embedding": table}}, rows)


def test_characters_of_words_are_counted_behind_the_first():
    from gptjax import models

    tok = WordTokenizer((" ", "be", "not", "or", "to"))
    model = models.build(models.ModelConfig("bigram"), tok.vocab_size)
    rows, characters = scoring.cut("to be or not", tok, model, items=False)
    assert (rows.n_predicted, characters) == (6, len(" be or not"))


def test_one_figure_in_every_unit():
    found = evaluate.figures(math.log(8), tokens=10, characters=30)
    assert found["bits_per_token"] == pytest.approx(3) and found["perplexity"] == pytest.approx(8)
    assert found["bits_per_character"] == pytest.approx(1)
    assert found["nats_per_character"] == pytest.approx(math.log(2))
