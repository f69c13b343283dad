"""What a model makes of a text: the losses are evaluate's, the guesses those of its softmax."""

import numpy as np
import pytest
from random_runs import NAMES, TEXT

from gptjax.errors import UserError
from gptjax.evaluation import probe
from gptjax.evaluation.count_models import count_bigram
from gptjax.evaluation.loss_eval import Evaluator
from gptjax.interpret import capture, text

KINDS = [("gpt", TEXT), ("mlp", TEXT), ("bigram", TEXT), ("bigram_embed", TEXT), ("ffwd", TEXT)]
KINDS += [("gpt", NAMES), ("mlp", NAMES)]


@pytest.mark.parametrize("kind, corpus", KINDS)
def test_the_losses_are_those_of_evaluate(kind, corpus, run_of):
    run = run_of(kind, corpus, block_size=9 if corpus == NAMES else 7)
    split = probe.text_split(run, corpus)
    scores = Evaluator(run.model, 2).score(run.params, split)
    cut = text.rows(run, corpus, 999)
    found = text.read(run, cut)
    assert cut.n_predicted == len(scores.ids) == len(found.nats) > 15
    np.testing.assert_array_equal(cut.ids[1:], scores.ids)
    np.testing.assert_allclose(found.nats, scores.nats, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.rank, scores.rank)
    np.testing.assert_array_equal(np.repeat(np.arange(len(cut.first_R)), cut.count_R), scores.row)
    assert len(set(scores.row)) > 1


def test_the_guesses_are_the_likeliest_in_order(run_of):
    run = run_of("gpt")
    cut = text.rows(run, TEXT, 999)
    found = text.read(run, cut)
    _, p_TxV = probe.next_tokens(run, run.tokenizer.decode(cut.ids[:5]))
    order = np.argsort(-p_TxV, axis=1, kind="stable")[:, : text.TOP]
    assert found.top_ids.shape == (len(cut.ids) - 1, text.TOP) and p_TxV.shape[1] > text.TOP
    np.testing.assert_array_equal(found.top_ids[:5], order)
    p = np.take_along_axis(p_TxV, order, axis=1)
    np.testing.assert_allclose(found.top_p[:5], p, rtol=1e-5)
    came = found.top_ids == cut.ids[1:, None]
    assert came.any() and not came.any(axis=1).all()
    at, column = np.nonzero(came)
    np.testing.assert_array_equal(found.rank[at], 1 + column)
    np.testing.assert_allclose(found.top_p[came], np.exp(-found.nats[at]))


def test_of_equal_logits_the_first_tokens_are_told():
    found = text.guesses(np.float32([[0, 2, 1, 2, 1, 1], [5, 5, 5, 5, 5, 5]]), np.array([4, 2]), 4)
    np.testing.assert_array_equal(found.top_ids, [[1, 3, 2, 4], [0, 1, 2, 3]])
    np.testing.assert_array_equal(found.rank, [3, 1])
    np.testing.assert_allclose(found.nats[1], np.log(6))


@pytest.mark.parametrize("kind, corpus", [("gpt", TEXT), ("gpt", NAMES), ("mlp", NAMES)])
def test_the_beginning_of_a_text_is_what_it_was(kind, corpus, run_of):
    run = run_of(kind, corpus, block_size=9 if kind == "gpt" else 3)
    whole, most = text.rows(run, corpus, 999), 11
    cut = text.rows(run, corpus, most)
    assert cut.count_R.sum() == most < whole.count_R.sum() and cut.n_predicted == whole.n_predicted
    np.testing.assert_array_equal(cut.ids, whole.ids[: most + 1])
    for found, of_whole in zip(text.read(run, cut), text.read(run, whole), strict=True):
        np.testing.assert_allclose(found, of_whole[:most], rtol=1e-5)


def test_all_texts_of_a_run_share_one_program(run_of):
    for run, texts in (run_of("gpt"), ("so", TEXT)), (run_of("mlp", NAMES), ("a\n", NAMES)):
        text.read(run, text.rows(run, texts[0], 30))
        before = capture._forward._cache_size()
        text.read(run, text.rows(run, texts[1], 30))
        assert capture._forward._cache_size() == before


def test_the_bigram_is_asked_for_the_same_predictions(run_of):
    run = run_of("gpt")
    cut = text.rows(run, TEXT, 20)
    bigram = count_bigram(cut.ids[:-1], cut.ids[1:], run.tokenizer.vocab_size)
    nats = text.bigram_nats(cut, bigram)
    assert nats.shape == (20,)
    np.testing.assert_allclose(nats.mean(), bigram.nats(cut.ids[:-1], cut.ids[1:]))


def test_a_text_without_a_prediction_is_refused(run_of):
    with pytest.raises(UserError, match="the text has 1 token, and the first is not predicted"):
        text.rows(run_of("gpt"), "s", 9)
    with pytest.raises(UserError, match="the text holds no item: give one a line"):
        text.rows(run_of("mlp", NAMES), "\n\n", 9)
    with pytest.raises(UserError, match="cannot score a text"):
        text.rows(run_of("bigram_embed", tokens="word", neighbours=2), TEXT, 9)
