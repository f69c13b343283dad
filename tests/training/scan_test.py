"""A step is the gradient of the batch's mean loss; a chunk is its steps, wherever it is cut."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.data.batching import Batch
from gptjax.models.bigram import BigramLanguageModel
from gptjax.models.gpt import GPTLanguageModel
from gptjax.models.loss import cross_entropy
from gptjax.models.mlp import MLPLanguageModel
from gptjax.runtime import sharding
from gptjax.training import optimizer
from gptjax.training import scan as steps
from gptjax.training.optimizer import OptimConfig
from gptjax.training.scan import TrainState

pytestmark = pytest.mark.usefixtures("quick_compile")

K, B, T, V = 5, 6, 7, 11  # steps of a chunk, rows, time, vocabulary
KEY = jax.random.key(8)
TABLE = BigramLanguageModel(V)
MLP = MLPLanguageModel(V, block_size=2, n_embd=3, n_hidden=4)
GPT = GPTLanguageModel(V, block_size=8, n_embd=9, n_head=3, n_layer=1, dropout=0.25)
ADAMW = optimizer.build(OptimConfig(learning_rate=0.01, warmup_steps=2), steps=K)
SGD = optimizer.build(OptimConfig("sgd", schedule="constant", learning_rate=0.5, clip_norm=0.0), 1)


def random_batches(accumulate=1, n=K, seed=0):
    """Batches (n, A, B / A, T) whose rows count 1 to T places, so no two parts count the same."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, V, (2, n, B, T)).astype(np.int32)
    w = (np.arange(T) < np.resize([1, 7, 3, 6, 2, 4], (n, B))[..., None]).astype(np.float32)
    return Batch(*(a.reshape(n, accumulate, -1, T) for a in (x, y, w)))


def fresh(random_params, model, tx, step=0):
    params = jax.tree.map(jnp.asarray, random_params(model, np.zeros((1, 1), np.int32)))
    zero = jnp.zeros((), jnp.int32)
    return TrainState(step=zero + step, params=params, opt_state=tx.init(params), skipped=zero + 0)


@functools.cache
def compiled(model, tx, skip_limit=0):
    """One program per model, rule and limit: the tests share what it cost to compile."""
    return jax.jit(functools.partial(steps.train_chunk, model, tx, skip_limit))


def run(chunk, state, batches, cuts):
    """A run of sum(cuts) steps in chunks of these lengths, each filled up to K as a run does."""
    seen, first = [], 0
    for n in cuts:
        mine = Batch(*(np.resize(a[first : first + n], (K, *a.shape[1:])) for a in batches))
        state, metrics = chunk(state, mine, n, KEY)
        seen.append(jax.tree.map(lambda m, n=n: m[:n], metrics))
        first += n
    return state, jax.tree.map(lambda *parts: np.concatenate(parts), *seen)


# ---- one step ---------------------------------------------------------------------------------


def test_the_gradient_of_the_table_is_its_closed_form(random_params):
    # d mean nll / d table[i] = the mean over places with x = i of softmax(table[i]) - onehot(y).
    # Clipping comes behind: it shortens the step to .5 times .01, and not the norm that is told.
    tx = optimizer.build(OptimConfig("sgd", 0.5, schedule="constant", clip_norm=0.01), steps=1)
    state = fresh(random_params, TABLE, tx)
    table = np.asarray(state.params["token_embedding_table"]["embedding"], np.float64)
    batch = jax.tree.map(lambda a: a[0], random_batches())
    expected, nats = np.zeros((V, V)), 0.0
    for x, y, w in zip(*(a.ravel() for a in batch), strict=True):
        p = np.exp(table[x]) / np.exp(table[x]).sum()
        expected[x] += w * (p - np.eye(V)[y]) / batch.w.sum()
        nats -= w * np.log(p[y]) / batch.w.sum()
    after, seen = jax.jit(functools.partial(steps.train_step, TABLE, tx))(state, batch, KEY)
    moved = table - after.params["token_embedding_table"]["embedding"]
    norm = np.sqrt((expected**2).sum())
    np.testing.assert_allclose(moved, 0.5 * 0.01 / norm * expected, atol=1e-6)
    np.testing.assert_allclose(seen.loss_nats, nats, rtol=1e-5)
    np.testing.assert_allclose(seen.grad_norm, norm, rtol=1e-5)
    assert seen.finite and after.step == 1 and after.skipped == 0


def test_a_batch_done_in_three_parts_is_the_whole_batch(random_params):
    # The parts count 6 to 9 places: a mean of their means would be another number.
    results = []
    for accumulate in (1, 3):
        state, batches = fresh(random_params, MLP, ADAMW), random_batches(accumulate)
        assert len(set(batches.w[0].sum((1, 2)).tolist())) == accumulate
        state, seen = compiled(MLP, ADAMW)(state, batches, K, KEY)
        results.append((state.params, seen.loss_nats, seen.grad_norm))
    chex.assert_trees_all_close(*results, rtol=2e-5, atol=2e-6)


def test_jit_changes_nothing(random_params):
    state, batch = fresh(random_params, TABLE, SGD), jax.tree.map(lambda a: a[0], random_batches(2))
    step = functools.partial(steps.train_step, TABLE, SGD)
    with_jit = jax.jit(step)(state, batch, KEY)
    with jax.disable_jit():
        without = step(state, batch, KEY)
    chex.assert_trees_all_close(with_jit, without, rtol=1e-5, atol=1e-7)


def test_a_step_has_the_same_dropout_whenever_it_is_taken(random_params):
    def loss(step, key=KEY):
        state = fresh(random_params, GPT, ADAMW, step)
        return float(compiled(GPT, ADAMW)(state, random_batches(), 1, key)[1].loss_nats[0])

    assert loss(3) == loss(3)
    assert len({loss(3), loss(4), loss(5), loss(3, jax.random.key(9))}) == 4


def test_each_part_of_a_batch_has_dropout_of_its_own(random_params):
    # Two equal parts: with one mask for both, the mean of both would be that of the first.
    first = Batch(*(a[0, :1, :2] for a in random_batches()))
    x, y, w = (np.concatenate([a, a]) for a in first)
    params = fresh(random_params, GPT, SGD).params
    loss = jax.jit(lambda batch: steps.loss_and_grads(GPT, params, batch, KEY)[0])
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
    step = jax.jit(functools.partial(steps.train_step, MLP, ADAMW))
    one_by_one = state
    for k in range(K):
        one_by_one, _ = step(one_by_one, jax.tree.map(lambda a, k=k: a[k], batches), KEY)
    at_once, _ = compiled(MLP, ADAMW)(state, batches, K, KEY)
    chex.assert_trees_all_close(at_once, one_by_one, rtol=1e-5, atol=1e-6)


def test_entries_behind_n_are_not_run(random_params):
    n, batches = 3, random_batches()
    batches.w[n:] = np.nan
    state, seen = compiled(MLP, ADAMW)(fresh(random_params, MLP, ADAMW), batches, n, KEY)
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
    good, _ = compiled(MLP, ADAMW)(fresh(random_params, MLP, ADAMW), batches, bad, KEY)
    state, seen = compiled(MLP, ADAMW)(
        fresh(random_params, MLP, ADAMW), without(batches, [bad]), K, KEY
    )
    chex.assert_trees_all_equal(state, good)
    assert (state.step, state.skipped) == (bad, 0)
    np.testing.assert_array_equal(seen.finite, np.arange(K) < bad)
    assert np.isnan(seen.loss_nats[bad])
    np.testing.assert_array_equal(seen.loss_nats[bad + 1 :], 0)


def test_a_bad_step_within_the_limit_is_passed_over_and_counted(random_params):
    batches, bad = random_batches(), 2
    state, seen = compiled(MLP, ADAMW, 1)(
        fresh(random_params, MLP, ADAMW), without(batches, [bad]), K, KEY
    )
    assert (state.step, state.skipped) == (K, 1)
    np.testing.assert_array_equal(seen.finite, np.arange(K) != bad)
    # It learnt what a run of the other batches learns (this model has no dropout to differ by).
    others = [k for k in range(K) if k != bad]
    rest = Batch(*(a[[*others, 0]] for a in batches))
    expected, _ = compiled(MLP, ADAMW)(fresh(random_params, MLP, ADAMW), rest, K - 1, KEY)
    chex.assert_trees_all_equal(state.params, expected.params)
    chex.assert_trees_all_equal(state.opt_state, expected.opt_state)


def test_the_bad_step_past_the_limit_stops_the_run(random_params):
    batches = without(random_batches(), [1, 3])
    state, seen = compiled(MLP, ADAMW, 1)(fresh(random_params, MLP, ADAMW), batches, K, KEY)
    assert (state.step, state.skipped) == (3, 1)
    np.testing.assert_array_equal(seen.finite, [True, False, True, False, False])
    # Asked again, it stops again, and does not count the same step twice.
    again, seen = compiled(MLP, ADAMW, 1)(state, without(random_batches(), [0]), K, KEY)
    chex.assert_trees_all_equal(again, state)
    assert not seen.finite.any()


def test_an_infinite_gradient_is_a_bad_step_too(random_params):
    class Steep(BigramLanguageModel):
        def __call__(self, x_BxT, train=False):
            logits = super().__call__(x_BxT)
            return logits + 0 * jnp.sqrt(logits - jax.lax.stop_gradient(logits))  # slope: infinite

    state = fresh(random_params, Steep(V), SGD)
    after, seen = compiled(Steep(V), SGD)(state, random_batches(), K, KEY)
    assert np.isfinite(seen.loss_nats[0]) and not seen.finite[0]
    chex.assert_trees_all_equal(after, state)


def test_a_small_model_learns_what_can_be_learnt():
    # Each token decides the next: the loss can fall from about ln 11 to 0.
    tx = optimizer.build(OptimConfig(learning_rate=0.5, schedule="constant"), steps=30)
    state = steps.init_state(TABLE, tx, seed=0)
    x = np.random.default_rng(0).integers(0, V, (K, 1, B, T)).astype(np.int32)
    batches = Batch(x, (3 * x + 1) % V, np.ones(x.shape, np.float32))
    losses = []
    for _ in range(6):
        state, seen = compiled(TABLE, tx)(state, batches, K, KEY)
        losses += seen.loss_nats.tolist()
    assert losses[0] > 2 and losses[-1] < 0.1
    assert state.step == 30


# ---- evaluation and the compiled forms --------------------------------------------------------


def test_evaluation_sums_each_batch_with_dropout_off(random_params):
    batches = Batch(*(a[:, 0] for a in random_batches()))
    params = fresh(random_params, GPT, SGD).params
    nats_K, count_K = jax.jit(functools.partial(steps.eval_chunk, GPT))(params, batches)
    plain = GPTLanguageModel(V, block_size=8, n_embd=9, n_head=3, n_layer=1)

    @jax.jit
    def one(x, y, w):
        return cross_entropy(plain.apply({"params": params}, x), y, w)

    for k in range(K):
        nats, count = one(*(a[k] for a in batches))
        np.testing.assert_allclose((nats_K[k], count_K[k]), (nats, count), rtol=1e-5)
        assert count == 23


def test_training_takes_the_state_over_and_evaluation_leaves_it():
    place = sharding.replicated(sharding.make_mesh(jax.devices()[:1]))
    chunk, evaluate = steps.jitted(TABLE, ADAMW, 0, place)
    state = jax.device_put(steps.init_state(TABLE, ADAMW, 0), place)
    evaluate(state.params, Batch(*(a[:, 0] for a in random_batches())))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    after, _ = chunk(state, random_batches(), K, KEY)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))


def test_many_chunks_are_traced_and_compiled_once(monkeypatch):
    traces, compiles = [], []

    def counted(function):
        def wrapper(*args):
            traces.append(function.__name__)
            return function(*args)

        return wrapper

    def listen(event, seconds, **_):
        if event.endswith("backend_compile_duration"):
            compiles.append(seconds)

    for name in ("train_chunk", "eval_chunk"):
        monkeypatch.setattr(steps, name, counted(getattr(steps, name)))
    place = sharding.replicated(sharding.make_mesh(jax.devices()[:1]))
    chunk, evaluate = steps.jitted(TABLE, ADAMW, 0, place)
    state = jax.device_put(steps.init_state(TABLE, ADAMW, 0), place)
    chunk_batches = [jax.device_put(random_batches(seed=seed), place) for seed in range(4)]
    eval_batches = [Batch(*(a[:, 0] for a in batches)) for batches in chunk_batches]
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for n, batches, held_out in zip((1, 2, K, 3), chunk_batches, eval_batches, strict=True):
            state, _ = chunk(state, batches, n, KEY)
            evaluate(state.params, held_out)
    finally:
        jax.monitoring.clear_event_listeners()
    assert sorted(traces) == ["eval_chunk", "train_chunk"]
    assert len(compiles) == 2
    assert state.step == 11


# ---- the beginning ----------------------------------------------------------------------------


def test_the_seed_alone_decides_the_beginning():
    init = jax.jit(functools.partial(steps.init_state, TABLE, ADAMW))
    one, again, other = init(5), init(5), init(6)
    chex.assert_trees_all_equal(one, again)
    tables = [s.params["token_embedding_table"]["embedding"] for s in (one, other)]
    assert not np.allclose(*tables)
    assert (one.step, one.skipped) == (0, 0)
    assert not any(leaf.any() for leaf in jax.tree.leaves(one.opt_state))


def test_the_first_bad_parameter_is_named():
    params = {"a": {"kernel": jnp.ones(2)}, "b": {"bias": jnp.array([1.0, jnp.inf])}, "c": jnp.nan}
    assert steps.first_nonfinite(params) == "b/bias"
    assert steps.first_nonfinite({"a": jnp.ones(3)}) == ""
