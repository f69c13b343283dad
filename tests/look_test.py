"""The command ``look``: what it prints of what comes next, of neighbours and of the plane."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_runs

from gptjax import look
from gptjax.checkpoints import run as runs
from gptjax.cli import main as cli
from gptjax.config import files, parse
from gptjax.errors import UserError
from gptjax.monitoring.console import Terminal
from gptjax.training.trainer import fit

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
        (["next", "a", "--out=x.png"], "--out belongs to the question plane"),
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
