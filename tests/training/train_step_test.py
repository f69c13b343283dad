"""A step is the gradient of the batch's mean loss; an estimate is a mean over random batches."""

import functools

import chex
import jax
import numpy as np
import pytest
from tiny_steps import (
    ADAMW,
    GPT,
    MLP,
    RATE,
    RATES,
    SGD,
    TABLE,
    B,
    K,
    T,
    V,
    fresh,
    one_batch,
    random_batches,
)

from gptjax.config.schema import OptimConfig
from gptjax.data import dataset
from gptjax.data.batching import get_batch
from gptjax.evaluation.loss_eval import Evaluator
from gptjax.models.gpt import GPTLanguageModel
from gptjax.models.loss import cross_entropy
from gptjax.training import optimizer, scan
from gptjax.training.train_step import estimate_loss, init_state, train_step

KEY = jax.random.key(8)


@functools.cache
def compiled(model, tx):
    return jax.jit(functools.partial(train_step, model, tx))


# ---- one step ---------------------------------------------------------------------------------


def test_the_gradient_of_the_table_is_its_closed_form(random_params):
    # d mean nll / d table[i] = the mean over places with x = i of softmax(table[i]) - onehot(y).
    # Clipping comes after: it shortens the step to .5 times .01, and not the norm that is told.
    tx = optimizer.build(OptimConfig("sgd", clip_norm=0.01))
    state = fresh(random_params, TABLE, tx)
    table = np.asarray(state.params["token_embedding_table"]["embedding"], np.float64)
    batch = one_batch()
    expected, nats = np.zeros((V, V)), 0.0
    for x, y, w in zip(*(a.ravel() for a in batch), strict=True):
        p = np.exp(table[x]) / np.exp(table[x]).sum()
        expected[x] += w * (p - np.eye(V)[y]) / batch.w.sum()
        nats -= w * np.log(p[y]) / batch.w.sum()
    after, seen = compiled(TABLE, tx)(state, batch, KEY, RATE)
    moved = table - after.params["token_embedding_table"]["embedding"]
    norm = np.sqrt((expected**2).sum())
    np.testing.assert_allclose(moved, 0.5 * 0.01 / norm * expected, atol=1e-6)
    np.testing.assert_allclose(seen.loss_nats, nats, rtol=1e-5)
    np.testing.assert_allclose(seen.grad_norm, norm, rtol=1e-5)
    assert seen.finite and after.step == 1 and after.skipped == 0


@pytest.mark.parametrize("model", [TABLE, MLP], ids=["table", "mlp"])
@pytest.mark.parametrize("tx", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_the_plain_step_is_a_chunk_of_one_part_and_one_step(model, tx, random_params):
    state, batches = fresh(random_params, model, tx), random_batches()
    plain, seen = compiled(model, tx)(state, one_batch(), KEY, RATES[0])
    chunk = jax.jit(functools.partial(scan.train_chunk, model, tx, 0))
    looped, all_seen = chunk(state, batches, RATES, 1, KEY)
    chex.assert_trees_all_close(plain, looped, rtol=1e-6, atol=1e-7)
    first = jax.tree.map(lambda a: a[0], all_seen)
    chex.assert_trees_all_close(seen, first, rtol=1e-6)
    assert plain.step == looped.step == 1 and seen.finite and first.finite


def test_jit_changes_nothing(random_params):
    state, batch = fresh(random_params, TABLE, SGD), one_batch()
    with_jit = compiled(TABLE, SGD)(state, batch, KEY, RATE)
    with jax.disable_jit():
        without = train_step(TABLE, SGD, state, batch, KEY, RATE)
    chex.assert_trees_all_close(with_jit, without, rtol=1e-5, atol=1e-7)


def test_a_step_that_sums_in_parts_and_is_guarded_is_the_plain_step(random_params):
    state, batch = fresh(random_params, MLP, ADAMW), one_batch()
    parts = jax.tree.map(lambda a: a.reshape(3, B // 3, T), batch)
    plain, plain_seen = compiled(MLP, ADAMW)(state, batch, KEY, RATE)
    step = functools.partial(train_step, MLP, ADAMW, guard=scan.skip_nonfinite(0))
    step = jax.jit(functools.partial(step, sum_and_grads=scan.in_parts))
    other, seen = step(state, parts, KEY, RATE)
    # The parts count 6 to 9 places: a mean of their means would be another number.
    assert len(set(parts.w.sum((1, 2)).tolist())) == 3
    chex.assert_trees_all_close(plain, other, rtol=2e-5, atol=2e-6)
    chex.assert_trees_all_close(plain_seen, seen, rtol=2e-5)


def test_the_rate_is_an_input_two_rates_are_two_results_of_one_program(random_params):
    step = jax.jit(functools.partial(train_step, TABLE, SGD))
    state, batch = fresh(random_params, TABLE, SGD), one_batch()
    table = state.params["token_embedding_table"]["embedding"]
    moved = {}
    for rate in (0.25, 0.5):
        after, _ = step(state, batch, KEY, np.float32(rate))
        moved[rate] = after.params["token_embedding_table"]["embedding"] - table
    assert step._cache_size() == 1
    np.testing.assert_allclose(2 * moved[0.25], moved[0.5], atol=1e-6)
    assert np.abs(moved[0.5]).max() > 1e-3


def test_a_plain_step_has_dropout_of_its_number(random_params):
    def loss(step, key=KEY):
        state = fresh(random_params, GPT, ADAMW, step)
        return float(compiled(GPT, ADAMW)(state, one_batch(), key, RATE)[1].loss_nats)

    assert loss(3) == loss(3)
    assert len({loss(3), loss(4), loss(5), loss(3, jax.random.key(9))}) == 4


# ---- the beginning ----------------------------------------------------------------------------


def test_the_seed_alone_decides_the_beginning():
    init = jax.jit(functools.partial(init_state, TABLE, ADAMW))
    one, again, other = init(5), init(5), init(6)
    chex.assert_trees_all_equal(one, again)
    tables = [s.params["token_embedding_table"]["embedding"] for s in (one, other)]
    assert not np.allclose(*tables)
    assert (one.step, one.skipped) == (0, 0)
    assert not any(leaf.any() for leaf in jax.tree.leaves(one.opt_state))


# ---- the estimate -----------------------------------------------------------------------------


def test_an_estimate_is_the_mean_of_its_batches_means_with_dropout_off(random_params):
    params = fresh(random_params, GPT, SGD).params
    rng = np.random.default_rng(3)
    tokens = {"train": rng.integers(0, V, 90), "val": rng.integers(0, V, 50)}
    splits = {name: dataset.cut_stream(ids, window=T) for name, ids in tokens.items()}
    found = estimate_loss(Evaluator(GPT, B), params, splits, eval_iters=K, seed=4)
    plain = GPTLanguageModel(V, block_size=8, n_embd=9, n_head=3, n_layer=1)

    @jax.jit
    def one(x, y, w):
        return cross_entropy(plain.apply({"params": params}, x), y, w)

    for name, split in splits.items():
        means = []
        for k in range(K):
            nats, count = one(*get_batch(split, B, 4, k, f"eval_{name}"))
            assert count == B * T
            means.append(nats / count)
        np.testing.assert_allclose(found[name], np.mean(means), rtol=1e-5)
    assert found == estimate_loss(Evaluator(GPT, B), params, splits, eval_iters=K, seed=4)
    assert found != estimate_loss(Evaluator(GPT, B), params, splits, eval_iters=K, seed=5)


def test_evaluation_sums_each_batch_with_dropout_off(random_params):
    batches = jax.tree.map(lambda a: a[:, 0], random_batches())
    params = fresh(random_params, GPT, SGD).params
    nats_K, count_K = Evaluator(GPT, B).batch_sums(params, batches)
    plain = GPTLanguageModel(V, block_size=8, n_embd=9, n_head=3, n_layer=1)

    @jax.jit
    def one(x, y, w):
        return cross_entropy(plain.apply({"params": params}, x), y, w)

    for k in range(K):
        nats, count = one(*(a[k] for a in batches))
        np.testing.assert_allclose((nats_K[k], count_K[k]), (nats, count), rtol=1e-5)
        assert count == 23
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(params))
