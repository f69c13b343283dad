"""A chunk is its steps, wherever it is cut; what is not finite stops it or is passed over."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_steps import ADAMW, GPT, MLP, RATES, SGD, TABLE, B, K, T, V, fresh, random_batches

from gptjax.config.schema import OptimConfig
from gptjax.data.batching import Batch
from gptjax.models.bigram import BigramLanguageModel
from gptjax.training import optimizer, scan
from gptjax.training.train_step import init_state, train_step

KEY = jax.random.key(8)


@functools.cache
def compiled(model, tx, skip_limit=0):
    """One program per model, rule and limit: the tests share what it cost to compile."""
    return jax.jit(functools.partial(scan.train_chunk, model, tx, skip_limit))


def run(chunk, state, batches, cuts):
    """A run of sum(cuts) steps in chunks of these lengths, each filled up to K as a run does."""
    seen, first = [], 0
    for n in cuts:
        mine = Batch(*(np.resize(a[first : first + n], (K, *a.shape[1:])) for a in batches))
        rates = np.resize(RATES[first : first + n], K)
        state, metrics = chunk(state, mine, rates, n, KEY)
        seen.append(jax.tree.map(lambda m, n=n: m[:n], metrics))
        first += n
    return state, jax.tree.map(lambda *parts: np.concatenate(parts), *seen)


# ---- one step ---------------------------------------------------------------------------------


def test_a_batch_done_in_three_parts_is_the_whole_batch(random_params):
    # The parts count 6 to 9 places: a mean of their means would be another number.
    results = []
    for accumulate in (1, 3):
        state, batches = fresh(random_params, MLP, ADAMW), random_batches(accumulate)
        assert len(set(batches.w[0].sum((1, 2)).tolist())) == accumulate
        state, seen = compiled(MLP, ADAMW)(state, batches, RATES, K, KEY)
        results.append((state.params, seen.loss_nats, seen.grad_norm))
    chex.assert_trees_all_close(*results, rtol=2e-5, atol=2e-6)


def test_a_step_has_the_same_dropout_whenever_it_is_taken(random_params):
    def loss(step, key=KEY):
        state = fresh(random_params, GPT, ADAMW, step)
        return float(compiled(GPT, ADAMW)(state, random_batches(), RATES, 1, key)[1].loss_nats[0])

    assert loss(3) == loss(3)
    assert len({loss(3), loss(4), loss(5), loss(3, jax.random.key(9))}) == 4


def test_each_part_of_a_batch_has_dropout_of_its_own(random_params):
    # Two equal parts: with one mask for both, the mean of both would be that of the first.
    first = Batch(*(a[0, :1, :2] for a in random_batches()))
    x, y, w = (np.concatenate([a, a]) for a in first)
    params = fresh(random_params, GPT, SGD).params

    @jax.jit
    def loss(batch):
        (nats, count), _ = scan.in_parts(GPT, params, batch, KEY)
        return nats / count

    both, one = loss(Batch(x, y, w)), loss(Batch(x, y, w * np.array([1, 0])[:, None, None]))
    assert abs(both - one) > 1e-4


# ---- a chunk ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [[1] * K, [2, 3], [4, 1]])
def test_a_run_cut_anywhere_is_the_same_run_to_the_bit(cuts, random_params):
    chunk, batches = compiled(GPT, ADAMW), random_batches()
    whole, whole_seen = run(chunk, fresh(random_params, GPT, ADAMW), batches, [K])
    state, seen = run(chunk, fresh(random_params, GPT, ADAMW), batches, cuts)
    chex.assert_trees_all_equal(state, whole)
    chex.assert_trees_all_equal(seen, whole_seen)
    assert state.step == K and np.all(seen.finite)


def test_a_chunk_is_its_steps_one_by_one(random_params):
    batches, state = random_batches(), fresh(random_params, MLP, ADAMW)
    step = jax.jit(functools.partial(train_step, MLP, ADAMW))
    one_by_one, all_seen = state, []
    for k in range(K):
        batch = Batch(*(a[k, 0] for a in batches))
        one_by_one, seen = step(one_by_one, batch, KEY, RATES[k])
        all_seen.append(seen)
    at_once, seen = compiled(MLP, ADAMW)(state, batches, RATES, K, KEY)
    chex.assert_trees_all_close(at_once, one_by_one, rtol=1e-5, atol=1e-6)
    one_by_one = jax.tree.map(lambda *metrics: np.stack(metrics), *all_seen)
    chex.assert_trees_all_close(seen, one_by_one, rtol=1e-5)


def test_entries_after_n_are_not_run(random_params):
    n, batches, rates = 3, random_batches(), RATES.copy()
    batches.w[n:] = np.nan
    rates[n:] = np.nan
    state, seen = compiled(MLP, ADAMW)(fresh(random_params, MLP, ADAMW), batches, rates, n, KEY)
    assert (state.step, state.skipped) == (n, 0)
    chex.assert_tree_all_finite(state)
    np.testing.assert_array_equal(seen.finite, np.arange(K) < n)
    np.testing.assert_array_equal(seen.loss_nats[n:], 0)


def without(batches, bad):
    """The same batches with NaN weights at these steps."""
    w = batches.w.copy()
    w[bad] = np.nan
    return batches._replace(w=w)


def test_a_bad_step_stops_the_run_before_it(random_params):
    batches, bad = random_batches(), 2
    good, _ = compiled(MLP, ADAMW)(fresh(random_params, MLP, ADAMW), batches, RATES, bad, KEY)
    state, seen = compiled(MLP, ADAMW)(
        fresh(random_params, MLP, ADAMW), without(batches, [bad]), RATES, K, KEY
    )
    chex.assert_trees_all_equal(state, good)
    assert (state.step, state.skipped) == (bad, 0)
    np.testing.assert_array_equal(seen.finite, np.arange(K) < bad)
    assert np.isnan(seen.loss_nats[bad])
    np.testing.assert_array_equal(seen.loss_nats[bad + 1 :], 0)


def test_a_bad_step_within_the_limit_is_passed_over_and_counted(random_params):
    batches, bad = random_batches(), 2
    state, seen = compiled(MLP, ADAMW, 1)(
        fresh(random_params, MLP, ADAMW), without(batches, [bad]), RATES, K, KEY
    )
    assert (state.step, state.skipped) == (K, 1)
    np.testing.assert_array_equal(seen.finite, np.arange(K) != bad)
    # It learnt what a run of the other batches learns (this model has no dropout to differ by).
    others = [k for k in range(K) if k != bad]
    rest = Batch(*(a[[*others, 0]] for a in batches))
    rates = RATES[[*others, 0]]
    expected, _ = compiled(MLP, ADAMW)(fresh(random_params, MLP, ADAMW), rest, rates, K - 1, KEY)
    chex.assert_trees_all_equal(state.params, expected.params)
    chex.assert_trees_all_equal(state.opt_state, expected.opt_state)


def test_the_bad_step_past_the_limit_stops_the_run(random_params):
    batches = without(random_batches(), [1, 3])
    state, seen = compiled(MLP, ADAMW, 1)(fresh(random_params, MLP, ADAMW), batches, RATES, K, KEY)
    assert (state.step, state.skipped) == (3, 1)
    np.testing.assert_array_equal(seen.finite, [True, False, True, False, False])
    # Asked again, it stops again, and does not count the same step twice.
    again, seen = compiled(MLP, ADAMW, 1)(state, without(random_batches(), [0]), RATES, K, KEY)
    chex.assert_trees_all_equal(again, state)
    assert not seen.finite.any()


def test_an_infinite_gradient_is_a_bad_step_too(random_params):
    class Steep(BigramLanguageModel):
        def __call__(self, x_BxT, train=False):
            logits = super().__call__(x_BxT)
            return logits + 0 * jnp.sqrt(logits - jax.lax.stop_gradient(logits))  # slope: infinite

    state = fresh(random_params, Steep(V), SGD)
    after, seen = compiled(Steep(V), SGD)(state, random_batches(), np.full(K, 0.5), K, KEY)
    assert np.isfinite(seen.loss_nats[0]) and not seen.finite[0]
    chex.assert_trees_all_equal(after, state)


def test_a_small_model_learns_what_can_be_learnt():
    # Each token decides the next: the loss can fall from about ln 11 to 0.
    tx, rates = optimizer.build(OptimConfig()), np.full(K, 0.5)
    state = init_state(TABLE, tx, seed=0)
    x = np.random.default_rng(0).integers(0, V, (K, 1, B, T)).astype(np.int32)
    batches = Batch(x, (3 * x + 1) % V, np.ones(x.shape, np.float32))
    losses = []
    for _ in range(6):
        state, seen = compiled(TABLE, tx)(state, batches, rates, K, KEY)
        losses += seen.loss_nats.tolist()
    assert losses[0] > 2 and losses[-1] < 0.1
    assert state.step == 30


# ---- the learning rates -----------------------------------------------------------------------


def test_two_lists_of_rates_are_two_results_of_one_program(random_params):
    chunk = jax.jit(functools.partial(scan.train_chunk, MLP, ADAMW, 0))
    state, batches = fresh(random_params, MLP, ADAMW), random_batches()
    (slow, slow_seen), (fast, fast_seen) = (
        chunk(state, batches, rates, K, KEY) for rates in (RATES, np.float32(3) * RATES)
    )
    assert chunk._cache_size() == 1
    assert slow_seen.loss_nats[0] == fast_seen.loss_nats[0]  # the same beginning
    assert np.all(slow_seen.loss_nats[1:] != fast_seen.loss_nats[1:])
    far = [
        np.abs(a.params["lm_head"]["kernel"] - state.params["lm_head"]["kernel"]).max()
        for a in (slow, fast)
    ]
    assert far[1] > 2 * far[0] > 0


@pytest.mark.parametrize("model", [MLP, GPT], ids=["mlp", "gpt"])
def test_under_vmap_each_member_is_what_it_is_alone(model, random_params):
    """Several runs at once, as one would to find a rate: states and rates have a leading axis."""
    batches = random_batches()
    states = [fresh(random_params, model, ADAMW)] + [init_state(model, ADAMW, s) for s in (1, 2)]
    rates = np.stack([RATES, 3 * RATES, RATES[::-1]])
    chunk = functools.partial(scan.train_chunk, model, ADAMW, 0)
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    found = jax.jit(jax.vmap(lambda state, rates: chunk(state, batches, rates, K - 1, KEY)))(
        together, rates
    )
    for i, state in enumerate(states):
        alone = compiled(model, ADAMW)(state, batches, rates[i], K - 1, KEY)
        mine = jax.tree.map(lambda leaf, i=i: leaf[i], found)
        chex.assert_trees_all_close(mine, alone, rtol=2e-5, atol=2e-6)
        assert mine[0].step == K - 1


def test_under_vmap_a_member_that_stops_leaves_the_others_alone(random_params):
    """The second member's parameters overflow: it stops, and the first does all its steps."""
    batches, good = random_batches(), fresh(random_params, MLP, ADAMW)
    bad = good.replace(params=jax.tree.map(lambda p: p * np.float32(1e30), good.params))
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), good, bad)
    chunk = functools.partial(scan.train_chunk, MLP, ADAMW, 0)
    states, seen = jax.jit(jax.vmap(lambda state: chunk(state, batches, RATES, K, KEY)))(together)
    assert states.step.tolist() == [K, 0] and seen.finite.sum(axis=1).tolist() == [K, 0]
    alone, _ = compiled(MLP, ADAMW)(good, batches, RATES, K, KEY)
    first = jax.tree.map(lambda leaf: leaf[0], states)
    chex.assert_trees_all_close(first, alone, rtol=2e-5, atol=2e-6)
    second = jax.tree.map(lambda leaf: leaf[1], states)
    chex.assert_trees_all_equal(second, bad)
