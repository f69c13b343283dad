"""Questions to a model answered with values: what comes next, who is near."""

import numpy as np
import pytest

from gptjax import models
from gptjax.checkpoints.run import Run
from gptjax.config.schema import Config, DataConfig, ModelConfig, TokenizerConfig, TrainConfig
from gptjax.data import tokenizers
from gptjax.errors import UserError
from gptjax.evaluation import embeddings, probe

TEXT = "so it is. it is so.\n"
NAMES = "abi\nbia\n"


@pytest.fixture(scope="module")
def run_of(random_params):
    """A function of a model's kind and a text: a run with random parameters."""

    def make(kind, text, tokens="char", neighbours=0, **sizes):
        sizes = {"block_size": 2, "n_layer": 1, "n_head": 1, "n_embd": 4, "n_hidden": 5} | sizes
        config = Config(
            data=DataConfig(kind="items" if text == NAMES else "stream"),
            tokenizer=TokenizerConfig(tokens),
            model=ModelConfig(kind, **sizes),
            train=TrainConfig(neighbours=neighbours),
        )
        tok = tokenizers.build(config.tokenizer, text)
        model = models.build(config.model, tok.vocab_size, tok.start_id)
        return Run(config, tok, model, random_params(model, np.zeros((1, 1), np.int32)), step=0)

    return make


def test_the_probabilities_are_the_models(run_of):
    run = run_of("mlp", TEXT)
    seen, p = probe.next_tokens(run, "it is")
    assert p.shape == (5, run.tokenizer.vocab_size) and run.tokenizer.decode(seen) == "it is"
    np.testing.assert_allclose(p.sum(axis=1), 1)
    logits = np.asarray(run.model.apply({"params": run.params}, seen[None]))[0, -1]
    np.testing.assert_allclose(np.log(p[-1]) - np.log(p[-1, 0]), logits - logits[0], atol=1e-5)


def test_where_a_space_is_a_token_it_stays_one(run_of):
    run = run_of("mlp", TEXT)
    assert run.tokenizer.decode(probe.next_tokens(run, "i t")[0]) == "i t"
    assert run.tokenizer.decode(probe.next_tokens(run, "")[0]) == "\n"


def test_where_a_space_is_no_token_characters_may_stand_apart(run_of):
    run = run_of("mlp", NAMES)
    for text in ("a b i", "abi"):
        assert run.tokenizer.decode(probe.next_tokens(run, text)[0]) == "\nabi"
    words = run_of("mlp", TEXT, tokens="word")
    assert words.tokenizer.decode(probe.next_tokens(words, "so it")[0]) == "so it"


def test_near_and_analogy_are_the_cosines_of_the_table(run_of):
    run = run_of("gpt", TEXT)
    table = probe.table(run)
    assert table.dtype == np.float64 and table.shape == (run.tokenizer.vocab_size, 4)
    names = probe.names(run)
    assert names == ["\\n", " ", ".", "i", "o", "s", "t"]
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    s, o, i = (names.index(name) for name in "soi")
    expected = {name: unit[s] @ unit[n] for n, name in enumerate(names) if n != s}
    found, n_others = probe.near(run, "s", 99)
    assert n_others == len(found) == len(names) - 1
    assert [name for name, _ in found] == sorted(expected, key=lambda name: -expected[name])
    np.testing.assert_allclose([c for _, c in found], sorted(expected.values(), reverse=True))
    direction = unit[o] - unit[s] + unit[i]
    cosines = unit @ direction / np.linalg.norm(direction)
    ((best, cosine),), n_others = probe.analogy(run, ["s", "o", "i"], 1)
    assert n_others == len(names) - 3
    left = [n for n in range(len(names)) if n not in (s, o, i)]
    assert names.index(best) == max(left, key=lambda n: cosines[n])
    np.testing.assert_allclose(cosine, cosines[left].max())


def test_a_word_is_answered_with_words_and_a_mark_with_all(run_of):
    run = run_of("bigram_embed", TEXT, tokens="word")
    found, n_others = probe.near(run, "it", 9)
    assert sorted(name for name, _ in found) == ["is", "so"] and n_others == 2
    assert len(probe.near(run, ".", 9)[0]) == run.tokenizer.vocab_size - 1


def test_a_run_that_learnt_of_words_alone_says_so_of_a_mark(run_of):
    run = run_of("bigram_embed", TEXT, tokens="word", neighbours=1)
    assert len(probe.find(run, ["it", "so"])) == 2
    with pytest.raises(UserError, match=r"'\.' is no word, and this run learnt of words alone"):
        probe.find(run, ["it", "."])


def test_a_table_of_contexts_has_no_vectors_of_tokens(run_of):
    with pytest.raises(UserError, match="this ngram has a row per context of 2 tokens, 49,"):
        probe.near(run_of("ngram", TEXT), "s", 3)


@pytest.mark.parametrize("n_embd, how", [(2, "the embedding itself"), (3, "PCA")])
def test_the_plane_shows_the_named_tokens_or_the_longest_vectors(n_embd, how, run_of, monkeypatch):
    run = run_of("bigram_embed", TEXT, tokens="word", n_embd=n_embd)
    table = probe.table(run)
    points, labels, shown = probe.plane(run, ["so", "it"])
    ids = probe.find(run, ["so", "it"])
    assert labels == ["so", "it"] and shown.startswith(how)
    np.testing.assert_array_equal(points, embeddings.plane(table[ids])[0])
    lengths = {name: np.linalg.norm(table[i]) for i, name in enumerate(probe.names(run))}
    longest = sorted(("is", "it", "so"), key=lambda name: -lengths[name])  # words alone
    assert probe.plane(run, [])[1] == longest
    monkeypatch.setattr(probe, "ON_THE_PLANE", 2)
    assert probe.plane(run, [])[1] == longest[:2]
