"""The command ``look``: what it prints of what comes next, of neighbours and of the plane."""

import io
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_runs

from gptjax import look
from gptjax.checkpoints import run as runs
from gptjax.cli import main as cli
from gptjax.config import files, parse
from gptjax.errors import UserError
from gptjax.evaluation import count_models
from gptjax.interpret import lens, tables
from gptjax.interpret import text as texts
from gptjax.monitoring.console import Terminal
from gptjax.training.trainer import fit
from gptjax.web import context

NAMES = "abi\nabia\nbia\niba\nbaab\nabba\nibi\naib\niia\nbab\n"
TEXT = "so it is. it is so.\n" * 40
KINDS = ("ngram", "bigram", "bigram_embed", "mlp", "head", "gpt")


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """A function of a model's kind and a text: a run of it, untrained."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def make(kind, text, **fields):
        name = f"{kind}-{len(text)}-{len(fields)}"
        if name not in made:
            config = files.load("count_bigram")
            path = folder / f"{len(text)}.txt"
            path.write_text(text, encoding="utf-8")
            config.data.update(path=str(path), kind="items" if text == NAMES else "stream")
            sizes = {"block_size": 2, "n_layer": 1, "n_head": 1, "n_embd": 2, "n_hidden": 5}
            config.model.update(kind=kind, **sizes)
            config.train.window = 0
            config.name = name
            for field, value in fields.items():
                part, _, leaf = field.partition("__")
                config[part][leaf] = value
            with Terminal(io.StringIO()) as terminal:
                fit(parse.from_dict(config), folder / name, terminal)
            made[name] = folder / name
        return made[name]

    return make


def ask(workdir, *question, **flags):
    defaults = {"top": None, "every_position": False, "out": "", "checkpoint": "best"}
    defaults |= {"layer": None, "head": None, "text_file": ""}
    return look.main(
        SimpleNamespace(workdir=str(workdir), question=list(question), **defaults | flags)
    )


def test_next_shows_the_27_classes_of_a_context(run_of, capsys):
    workdir = run_of("ngram", NAMES)
    ask(workdir, "next", "a b i")
    apart = capsys.readouterr().out
    ask(workdir, "next", "abi")
    assert capsys.readouterr().out == apart, "characters may stand apart or together"
    head, *lines = apart.splitlines()
    assert head == "probability of the next token after '\\nabi': 4 of 4 tokens"
    shown = {line.split()[0]: float(line.split()[1]) for line in lines}
    assert set(shown) == {"a", "b", "i", "\\n"}
    np.testing.assert_allclose(sum(shown.values()), 1, atol=2e-4)
    values = list(shown.values())
    assert values == sorted(values, reverse=True)
    bars = [line.count("█") for line in lines]
    assert max(bars) == look.BAR and bars == sorted(bars, reverse=True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_model_answers_at_every_position(kind, run_of, capsys):
    workdir = run_of(kind, NAMES)
    ask(workdir, "next", "a b i", every_position=True, top=2)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "probability of the next token after each place: 2 of 4 tokens"
    run = runs.open_run(workdir)
    slides = run.model.lookback == run.model.block_size - 1
    # The start and three characters; a model that does not slide sees its block alone.
    assert len(lines) == (4 if slides else run.model.block_size)
    assert lines[-1].split(" -> ")[0].endswith("bi'") and "came" not in lines[-1]
    assert all("came: " in line for line in lines[:-1])


def test_five_guesses_stand_at_each_place_and_one_bar_is_enough(run_of, capsys):
    workdir = run_of("gpt", TEXT)
    ask(workdir, "next", "it", every_position=True)
    _, *lines = capsys.readouterr().out.splitlines()
    guesses = [line.split(" -> ")[1].split("   came: ")[0] for line in lines]
    assert [len(guess.split("  ")) for guess in guesses] == [5, 5]
    ask(workdir, "next", "it")
    _, *bars = capsys.readouterr().out.splitlines()
    assert len(bars) == 7
    ask(workdir, "next", "it", top=1)
    head, first, rest = capsys.readouterr().out.splitlines()
    assert head.endswith("after 'it': 1 of 7 tokens") and first == bars[0]
    # What is not shown has what is left of the probability.
    others = sum(float(line.replace("' '", "_").split()[1]) for line in bars[1:])
    assert rest.startswith("6 others: ")
    np.testing.assert_allclose(float(rest.split()[-1]), others, atol=4e-4)


def test_near_and_analogy_answer_with_other_tokens(run_of, capsys):
    workdir = run_of("gpt", TEXT)
    ask(workdir, "near", "s", top=3)
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "cosine to s (1: the same direction): 3 of 6 others"
    near = [line.split() for line in lines]
    assert len(near) == 3 and "s" not in [words[0] for words in near]
    ask(workdir, "analogy", "s", "o", "i")
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "cosine to o - s + i (1: the same direction): 4 of 4 others"
    analogy = [line.split()[0] for line in lines]
    assert not {"s", "o", "i"} & set(analogy)


def test_white_space_can_be_told_from_nothing(run_of, capsys):
    workdir = run_of("gpt", TEXT)
    for question in (["near", "s"], ["next", "it"]):
        ask(workdir, *question)
        assert any(line.startswith("' '  ") for line in capsys.readouterr().out.splitlines())


def test_a_word_is_answered_with_words(run_of, capsys):
    ask(run_of("bigram_embed", TEXT, tokenizer__kind="word"), "near", "it")
    _, *lines = capsys.readouterr().out.splitlines()
    answers = [line.split()[0] for line in lines]
    assert sorted(answers) == ["is", "so"]


@pytest.mark.parametrize("n_embd, how", [(2, "the embedding itself"), (3, "PCA")])
def test_the_plane_is_a_picture_of_the_embedding(run_of, capsys, n_embd, how, tmp_path):
    workdir = run_of("mlp", TEXT * n_embd, model__n_embd=n_embd)
    ask(workdir, "plane")
    assert how in capsys.readouterr().out
    assert (workdir / "plane.png").read_bytes().startswith(b"\x89PNG")
    ask(workdir, "plane", "s", "o", out=str(tmp_path / "two.png"))
    assert "2 of 7 tokens" in capsys.readouterr().out and (tmp_path / "two.png").exists()


@pytest.mark.parametrize(
    "question, message",
    [
        ([], "unknown question ''"),
        (["nearest"], "unknown question 'nearest': ask next, near, analogy, plane"),
        (["near"], "near needs 1"),
        (["analogy", "a", "b"], "analogy needs 3"),
        (["near", "x"], "'x' is none of the model's 4 tokens"),
        (["next", "xyz"], "the character 'x'"),
        (["near", "a"], "a row per context of 2 tokens"),
    ],
)
def test_mistakes(question, message, run_of):
    with pytest.raises(UserError, match=message):
        ask(run_of("ngram", NAMES), *question)


def test_an_unknown_word_is_told_the_nearest(run_of):
    with pytest.raises(UserError, match=r"'IT' is none .* \(did you mean 'it'\?\)"):
        ask(run_of("bigram_embed", TEXT, tokenizer__kind="word"), "near", "IT")
    with pytest.raises(UserError, match="--top=0"):
        ask(run_of("ngram", NAMES), "next", "a", top=0)


def call(*argv):
    return cli.call(look.main, ["look", *argv], words="question", flags=look.FLAGS)


def test_the_checkpoint_that_is_asked_for_answers(tmp_path, capsys):
    config = tiny_runs.config(tiny_runs.write_text(tmp_path), train={"steps": 7})
    tiny_runs.fit(config, tmp_path / "run")
    answers = {}
    for which in ("0", "7", "last"):
        capsys.readouterr()
        flags = [f"--workdir={tmp_path / 'run'}", f"--checkpoint={which}", "--nocompilation_cache"]
        assert call(*flags, "next", "a") == 0
        answers[which] = capsys.readouterr().out
    assert answers["0"] != answers["7"] == answers["last"]


@pytest.mark.parametrize(
    "argv, named",
    [
        (["near", "a", "--every_position"], "--every_position belongs to the question next"),
        (["next", "a", "--out=x.png"], "--out belongs to the questions plane, attention, lens"),
        (["lens", "a", "--layer=1"], "--layer belongs to the question attention, not to lens"),
        (["next", "a", "--head=0"], "--head belongs to the question attention, not to next"),
        (["table", "--text_file=x"], "--text_file belongs to the questions attention, lens, loss"),
        (["loss", "a", "--out=x.pdf"], "--out=x.pdf must end in .png or .svg"),
        (["loss"], 'loss needs a text: loss "To be", or --text_file'),
        (["lens", "a", "--text_file=x"], "are two texts: give one"),
        (["curves", "a"], "curves needs 0 of the model's tokens, and got 1"),
        (["attention", "a"], "this ngram has no attention: ask next"),
        (["lens", "a"], "this ngram has no residual stream: ask next"),
        (["table"], "this ngram looks at 2 tokens, and has no table of pairs: ask next"),
        (["loss", "xyz"], "the character 'x'"),
    ],
)
def test_a_flag_of_another_question_is_refused(argv, named, run_of, capsys):
    assert call(f"--workdir={run_of('ngram', NAMES)}", *argv, "--nocompilation_cache") == 2
    assert named in capsys.readouterr().err


def test_where_no_token_is_left_to_answer_that_is_said(run_of, capsys):
    workdir = f"--workdir={run_of('mlp', 'ababbab' * 20)}"
    assert call(workdir, "analogy", "a", "b", "a", "--nocompilation_cache") == 2
    assert "2 tokens hold no other one" in capsys.readouterr().err


def test_the_question_stands_among_the_flags_in_any_order(run_of, capsys):
    workdir = f"--workdir={run_of('ngram', NAMES)}"
    answers = []
    for argv in ([workdir, "--top=2", "next", "a b i"], ["next", "a b i", workdir, "--top=2"]):
        assert call(*argv, "--nocompilation_cache") == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] and len(answers[0].splitlines()) == 1 + 2 + 1
    assert call(workdir, "near", "--nocompilation_cache") == 2
    assert capsys.readouterr().err == "look: near needs 1 of the model's tokens, and got 0\n"


def test_attention_has_a_line_for_each_head_and_a_picture(run_of, capsys):
    workdir = run_of("gpt", TEXT, model__n_layer=3, model__n_head=2, model__n_embd=6)
    ask(workdir, "attention", "it")
    head, *lines, picture = capsys.readouterr().out.splitlines()
    assert "2 of 2 tokens" in head and head.endswith("from the last token, t")
    heads = [f"layer {layer} head {head}" for layer in (1, 2, 3) for head in (1, 2)]
    assert [line[:14] for line in lines] == heads
    found = lens.attention(runs.open_run(workdir), "it")
    for line, wei in zip(lines, found.wei_NxHxTxT.reshape(-1, 2, 2), strict=True):
        name, share = lens.habit(wei)
        assert f"{name} {share:.2f}" in line and f"t {wei[1, 1]:.2f}" in line
    assert picture == f"{workdir / 'attention.png'}: a picture of it"
    assert (workdir / "attention.png").read_bytes().startswith(b"\x89PNG")
    ask(workdir, "attention", "it", layer=2, head=1, out=str(workdir / "one.svg"))
    assert capsys.readouterr().out.splitlines()[1] == lines[2]
    assert b"<svg" in (workdir / "one.svg").read_bytes()
    with pytest.raises(UserError, match="layer=4 is none of this model's: it has layers 1 to 3"):
        ask(workdir, "attention", "it", layer=4)


def test_a_lens_has_a_line_for_each_layer_and_brackets_around_what_came(run_of, capsys, tmp_path):
    workdir = run_of("gpt", TEXT, model__n_layer=3, model__n_head=2, model__n_embd=6)
    (tmp_path / "is.txt").write_text("is", encoding="utf-8")
    ask(workdir, "lens", text_file=str(tmp_path / "is.txt"))
    _, reads, *layers, came, picture = capsys.readouterr().out.splitlines()
    assert reads.split() == ["reads", "i", "s"] and came.split() == ["came", "next", "s"]
    found = lens.look_through(runs.open_run(workdir), "is").guesses
    names = lens.layer_names(4)
    for line, name, ids, rank in zip(layers, names, found.top_ids, found.rank, strict=True):
        first, last = lens.names(runs.open_run(workdir), ids[:, 0])
        first = f"[{first}]" if rank[0] == 1 else first
        assert line.split() == [*name.split(), first, last]
    assert picture.startswith(f"{workdir / 'lens.png'}: ") and (workdir / "lens.png").exists()


@pytest.mark.parametrize("kind, text", [("gpt", TEXT), ("mlp", NAMES)])
def test_a_loss_is_told_of_every_token_beside_the_count_bigrams(kind, text, run_of, capsys):
    workdir = run_of(kind, text)
    asked = "so it is" if text == TEXT else "abi\nbia"
    ask(workdir, "loss", asked)
    head, *lines, picture = capsys.readouterr().out.splitlines()
    run = runs.open_run(workdir)
    cut = texts.rows(run, asked, 99)
    nats = texts.read(run, cut).nats
    assert len(lines) == len(nats) and f"mean {nats.mean():.4f}" in head
    for line, name, loss in zip(lines, lens.names(run, cut.ids[1:]), nats, strict=True):
        assert line.split()[:2] == [name, f"{loss:.4f}"]
    first, second = context.of_run(run).splits["train"].pairs()
    pairs = count_models.count_bigram(first, second, run.tokenizer.vocab_size)
    assert f"the count bigram's {texts.bigram_nats(cut, pairs).mean():.4f}" in head
    assert (workdir / "text_loss.png").exists() and str(workdir / "text_loss.png") in picture
    ask(workdir, "loss", asked, top=3)
    head, *few, _ = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in few] == [line.split()[:2] for line in lines[:3]]
    assert f"3 of {len(nats)} predictions" in head


def test_without_its_corpus_a_loss_and_a_table_are_the_models_alone(run_of, capsys, tmp_path):
    text = TEXT + "it is as it was.\n"
    workdir = run_of("bigram", text)
    for question in (["loss", "it is"], ["table"]):
        ask(workdir, *question)
        beside = capsys.readouterr().out
        (workdir.parent / f"{len(text)}.txt").rename(tmp_path / "away")
        ask(workdir, *question)
        alone = capsys.readouterr().out
        (tmp_path / "away").rename(workdir.parent / f"{len(text)}.txt")
        assert "no counts beside it: " in alone.splitlines()[-1] and "no counts" not in beside
        said = "the count bigram's" if question[0] == "loss" else "in brackets"
        assert said in beside and said not in alone


def test_a_table_holds_the_likeliest_followers_beside_the_counts(run_of, capsys):
    workdir = run_of("bigram", TEXT)
    ask(workdir, "table", "i", top=2)
    head, line, picture = capsys.readouterr().out.splitlines()
    assert "after 1 of 7" in head and (workdir / "table.png").exists()
    run = runs.open_run(workdir)
    splits = context.of_run(run).splits
    found = tables.followers(run, splits, ["i"])
    name, *cells = line.split("   ")
    assert name == "i" and len(cells) == 2
    for cell, i in zip(cells, np.argsort(-found.p_RxK[0], kind="stable"), strict=False):
        p, counted = found.p_RxK[0, i], found.counted_RxK[0, i]
        assert cell == f"{lens.names(run, found.ids_K[[i]])[0]} {p:.3f} ({counted:.3f})"
    ask(workdir, "table")
    assert len(capsys.readouterr().out.splitlines()) == 1 + 7 + 1


def test_curves_are_told_and_drawn(tmp_path, capsys):
    tiny_runs.fit(tiny_runs.config(tiny_runs.write_text(tmp_path)), tmp_path / "run")
    ask(tmp_path / "run", "curves", out=str(tmp_path / "c.svg"))
    _, *lines, picture = capsys.readouterr().out.splitlines()
    figures = runs.summary(tmp_path / "run")
    told = {line.rsplit(None, 1)[0]: line.rsplit(None, 1)[1] for line in lines}
    assert told["val, exact, step 23"] == f"{figures['final_val_nats']:.4f}"
    assert told["count bigram"] == f"{figures['count_bigram_val_nats']:.4f}"
    assert {"ln V", "unigram", "train, exact, step 23"} <= set(told)
    assert b"<svg" in (tmp_path / "c.svg").read_bytes() and "c.svg" in picture


def test_help_is_quick_and_shows_the_pictures():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "gptjax.look", "--help"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "attention" in done.stdout and "--layer" in done.stdout
    heavy = {"jax", "numpy", "matplotlib", "flax", "starlette"}
    assert not heavy & {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
