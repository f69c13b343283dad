"""The one forward pass: a batch, its rows and its tokens have one loss, that of the formula."""

import json
import math

import jax
import numpy as np
import pytest

from gptjax import models
from gptjax.config.schema import ModelConfig
from gptjax.data.batching import Batch, whole_split
from gptjax.data.dataset import Split, cut_items, cut_stream, skip_gram
from gptjax.errors import UserError
from gptjax.evaluation import loss_eval
from gptjax.evaluation.loss_eval import Evaluator
from gptjax.monitoring import metrics
from gptjax.runtime.mesh_rules import AXES, Placement, make_mesh

V, B, K = 11, 4, 3  # tokens, rows of a batch, batches of a call; windows are 5 and 6
SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 6, "n_hidden": 7}
RNG = np.random.default_rng(0)
STREAM = RNG.integers(0, V, 68)  # 67 predictions: 13 rows of 5, and one of 2
ITEMS = np.array([0, *RNG.integers(1, V, 8), 0, *RNG.integers(1, V, 3), 0, 5, 0, 6, 7, 0])
SPLITS = {
    "gpt": cut_stream(STREAM, 5),
    "bigram_embed": cut_stream(STREAM, 5),
    "bigram": skip_gram(STREAM[:23], neighbours=2),
    "mlp": cut_items(ITEMS, 0, 6, 2),  # the first item goes on in a second row
    "ngram": cut_stream(STREAM, 6, 1),  # a row shows one token of its past
}


@pytest.fixture(scope="module")
def case(random_params):
    """A function of a model's kind: the evaluator, parameters and a split for it."""

    def make(kind):
        block_size = {"mlp": 3, "ngram": 2}.get(kind, 5)
        model = models.build(ModelConfig(kind, block_size=block_size, **SIZES), V, 0)
        params = random_params(model, np.zeros((1, 1), np.int32))
        return Evaluator(model, B, K), params, SPLITS[kind]

    return make


def by_hand(model, params, split):
    """nats of every prediction, and its rank: a list for each row, from the plain logits."""
    rows, apply = [], jax.jit(model.apply)
    for first, count, began in zip(*split.rows(np.arange(split.n_rows)), strict=True):
        begin = max(began, first - split.lookback)
        x = split.tokens[begin : first + count]
        logits = np.asarray(apply({"params": params}, x[None])[0], np.float64)
        logits = logits[first - begin :]
        right = logits[np.arange(count), split.tokens[first + 1 : first + count + 1]]
        nats = np.log(np.exp(logits).sum(axis=1)) - right
        rows.append((nats, 1 + (logits > right[:, None]).sum(axis=1)))
    return rows


@pytest.mark.parametrize("kind", sorted(SPLITS))
def test_tokens_sum_to_rows_and_rows_to_batches_by_hand(kind, case):
    evaluator, params, split = case(kind)
    expected = by_hand(evaluator.model, params, split)
    row_nats = [nats.sum() for nats, _ in expected]
    n_calls = math.ceil(len(expected) / (K * B))

    scores = evaluator.score(params, split)
    np.testing.assert_allclose(scores.nats, np.concatenate([n for n, _ in expected]), rtol=1e-5)
    assert scores.rank.tolist() == np.concatenate([rank for _, rank in expected]).tolist()
    firsts, counts, _ = split.rows(np.arange(split.n_rows))
    spans = zip(firsts + 1, counts, strict=True)
    ids = [split.tokens[first : first + count] for first, count in spans]
    assert scores.ids.tolist() == np.concatenate(ids).tolist()
    assert np.bincount(scores.row).tolist() == counts.tolist()

    found = list(evaluator.row_losses(params, split))
    assert len(found) == n_calls and all(len(part) == K * B for part in found[:-1])
    rows = np.concatenate(found)
    assert len(rows) == len(expected)  # and none of those that fill up the last batch
    np.testing.assert_allclose(rows, row_nats, rtol=1e-5)
    np.testing.assert_allclose(np.bincount(scores.row, scores.nats), rows, rtol=1e-6)

    sums = [evaluator.batch_sums(params, batches) for batches in whole_split(split, B, K)]
    nats, count = (np.concatenate(part) for part in zip(*sums, strict=True))
    assert nats.shape == count.shape == (n_calls * K,)
    parts = [slice(at, at + B) for at in range(0, n_calls * K * B, B)]
    np.testing.assert_allclose(nats, [rows[part].sum() for part in parts], rtol=1e-6)
    assert count.tolist() == [counts[part].sum() for part in parts]

    told = []
    loss = evaluator.exact_loss(params, split, lambda done, total: told.append((done, total)))
    np.testing.assert_allclose(loss, sum(row_nats) / split.n_predicted, rtol=1e-5)
    assert len(told) == n_calls and told[-1] == (split.n_rows, split.n_rows)
    assert {nats.dtype, count.dtype, rows.dtype, scores.nats.dtype} == {np.dtype(np.float64)}


def test_the_rank_is_one_more_than_the_tokens_that_are_likelier_equal_ones_left_out():
    logits = np.array([[[2.0, 1.0, 1.0, 1.0, 0.0]] * 5])
    y = np.arange(5)[None]
    _, rank = loss_eval.token_scores(logits, Batch(y, y, np.ones((1, 5))))
    assert rank.tolist() == [[1, 2, 2, 2, 5]]


def test_dropout_is_off(case):
    evaluator, params, split = case("gpt")
    wild = models.build(ModelConfig("gpt", block_size=5, dropout=0.9, **SIZES), V, 0)
    np.testing.assert_array_equal(
        Evaluator(wild, B, K).score(params, split).nats, evaluator.score(params, split).nats
    )


def test_batches_go_where_they_are_put(case):
    evaluator, params, split = case("bigram_embed")
    seen = []

    class Seen(Placement):
        def put_batch(self, batch):
            seen.append(batch.x.shape)
            return super().put_batch(batch)

    ours = Evaluator(evaluator.model, B, K, Seen(make_mesh(devices=jax.devices()[:1])))
    assert ours.exact_loss(params, split) == evaluator.exact_loss(params, split)
    assert ours.score(params, split).nats.tolist() == evaluator.score(params, split).nats.tolist()
    assert sum(len(part) for part in ours.row_losses(params, split)) == split.n_rows == 14
    assert seen == [(K, B, 5)] * 6


@pytest.mark.parametrize("kind", ["bigram", "gpt", "mlp"])
def test_what_is_too_much_for_one_call_is_done_in_parts_to_the_same_sums(case, kind):
    whole, params, split = case(kind)
    T = split.lookback + split.window
    batches = next(whole_split(split, B, 5))
    assert whole.call_shape(T) == (K, B)
    row_flops, told = T * whole._flops_per_token, []
    for fit, shape in ((2.5 * B, (2, B)), (B - 0.5, (1, B // 2)), (0.1, (1, 1))):
        parts = Evaluator(whole.model, B, K, call_flops=fit * row_flops)
        assert parts.call_shape(T) == shape
        found = parts.batch_sums(params, batches, lambda *done: told.append(done))
        np.testing.assert_allclose(found, whole.batch_sums(params, batches), rtol=1e-6)
        done, (total,) = [d for d, _ in told], {n for _, n in told}
        assert done == sorted(set(done)) and done[-1] == total == 5
        assert len(done) == -(-5 * B // (shape[0] * shape[1]))
        told.clear()
        np.testing.assert_allclose(
            parts.exact_loss(params, split), whole.exact_loss(params, split), rtol=1e-6
        )
        rows = [np.concatenate(list(e.row_losses(params, split))) for e in (parts, whole)]
        np.testing.assert_allclose(*rows, rtol=1e-5)


def test_a_call_of_the_lectures_gpt_is_half_a_second_of_two_cores_and_rows_are_shared_out():
    model = models.build(ModelConfig("gpt", 256, 6, 6, 384), 65)
    for data, fsdp, rows in ((1, 1, 8), (2, 1, 8), (4, 4, 16)):  # of 64: 6.05 GFLOP each
        mesh = jax.sharding.AbstractMesh((data, fsdp, 3), AXES)
        evaluator = Evaluator(model, 64, 200, Placement(mesh))
        assert evaluator.call_shape(256) == (1, rows)
    assert Evaluator(model, 64, 200, call_flops=1e13).call_shape(256) == (25, 64)
    # A table has no products, and is not free.
    n, rows = Evaluator(models.build(ModelConfig("bigram"), 65), 64, 10**6).call_shape(8)
    assert rows == 64 and 1e4 < n < 1e6


def test_the_forward_pass_is_compiled_once_for_a_model_a_question_and_a_shape(case):
    evaluator, params, _ = case("bigram_embed")
    model, traced = evaluator.model, []

    def ask(model, what, shape):
        x = np.zeros(shape, np.int32)
        before = len(traced)
        loss_eval.forward(model, what, params, Batch(x, x, np.ones(shape, np.float32)))
        return len(traced) > before

    def one(logits, batch):
        traced.append(logits.shape)
        return logits.sum()

    def other(logits, batch):
        return 2 * one(logits, batch)

    same = models.build(ModelConfig("bigram_embed", block_size=5, **SIZES), V, 0)
    longer = models.build(ModelConfig("bigram_embed", block_size=8, **SIZES), V, 0)
    assert same is not model
    assert ask(model, one, (K, B, 5)) and not ask(model, one, (K, B, 5))
    assert not ask(same, one, (K, B, 5)), "an equal model is the same model"
    assert ask(model, one, (K, B, 4)) and ask(model, one, (1, B, 5))
    assert ask(model, other, (K, B, 5)) and not ask(model, other, (K, B, 5))
    assert not ask(same, one, (K, B, 4))
    params = params | {"position_embedding_table": {"embedding": np.zeros((8, 6), np.float32)}}
    assert ask(longer, one, (K, B, 5)) and not ask(longer, one, (K, B, 5))


def test_a_whole_split_is_one_program(case):
    _, params, split = case("gpt")
    model = models.build(ModelConfig("gpt", block_size=7, **SIZES), V, 0)
    params = params | {"position_embedding_table": {"embedding": np.zeros((7, 6), np.float32)}}
    evaluator, before = Evaluator(model, B, K), loss_eval.forward._cache_size()
    for _ in range(2):
        evaluator.exact_loss(params, split)
    assert loss_eval.forward._cache_size() == before + 1
    list(evaluator.row_losses(params, split))  # the same question
    assert loss_eval.forward._cache_size() == before + 1
    evaluator.score(params, split)
    assert loss_eval.forward._cache_size() == before + 2


def test_the_probabilities_are_those_of_every_place(case):
    for kind, n_seen in (("gpt", 5), ("bigram", 9)):  # one reads its block, one slides
        evaluator, params, _ = case(kind)
        seen, p = loss_eval.probabilities(evaluator.model, params, STREAM[:9])
        assert seen.tolist() == STREAM[9 - n_seen : 9].tolist()
        logits = np.asarray(evaluator.model.apply({"params": params}, seen[None])[0], np.float64)
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        assert p.shape == (n_seen, V) and p.dtype == np.float64
        np.testing.assert_allclose(p, expected, rtol=1e-5)


def test_logits_that_are_not_finite_are_an_error(case):
    evaluator, params, _ = case("bigram")
    table = np.array(params["token_embedding_table"]["embedding"])
    table[3] = np.nan
    with pytest.raises(UserError, match="prediction 2 are not finite"):
        damaged = {"token_embedding_table": {"embedding": table}}
        evaluator.score(damaged, cut_stream(np.array([1, 2, 3, 4]), 2))


def test_one_figure_in_every_unit():
    split = Split(np.zeros(11, np.int32), 4, 0, characters=30, n_bytes=40)
    found = loss_eval.figures(math.log(8), split)
    assert found["bits_per_token"] == pytest.approx(3) and found["perplexity"] == pytest.approx(8)
    assert found["bits_per_character"] == pytest.approx(1)
    assert found["bits_per_byte"] == pytest.approx(3 / 4)
    assert found["nats_per_character"] == pytest.approx(math.log(2))
    assert (found["nats_per_token"], found["tokens"], found["characters"]) == (math.log(8), 10, 30)
    assert found["bytes"] == 40


def test_where_no_text_is_made_of_the_predictions_there_is_no_figure_per_character():
    found = loss_eval.figures(math.log(8), SPLITS["bigram"])
    assert not SPLITS["bigram"].characters
    assert set(found) == {"nats_per_token", "bits_per_token", "perplexity", "tokens"}


def test_a_loss_beyond_all_perplexity_is_still_a_report():
    found = loss_eval.figures(1e4, Split(np.zeros(11, np.int32), 4, 0, characters=10))
    assert found["perplexity"] == math.inf and found["nats_per_token"] == 1e4
    assert json.loads(json.dumps(metrics.plain(found)))["perplexity"] is None
