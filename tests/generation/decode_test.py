"""The compiled loop writes what the notes' ``generate`` writes: a plain Python loop beside it.

B rows, V vocabulary, W = block_size, C channels, H heads, N layers.
"""

import functools

import jax
import numpy as np
import pytest

from gptjax import models
from gptjax.config.schema import MODELS, WINDOWS, ModelConfig
from gptjax.generation import decode, sampling
from gptjax.models.fast.gpt_cached import CachedGPT
from gptjax.models.gpt import GPTLanguageModel

V, W = 11, 6
PLAIN = sampling.build(1.0)


@functools.cache
def one_more(model):
    """Logits after the first ``t`` tokens of a window, and the draw, compiled once."""

    def draw(params, x_W, t, key, sampler, seen_V):
        logits_V = model.apply({"params": params}, x_W[None])[0, t - 1]
        drawn = jax.random.categorical(key, sampler(logits_V[None], seen_V[None])[0])
        return drawn, jax.nn.log_softmax(logits_V)[drawn]

    return jax.jit(draw)


def reference(model, params, ids, key, n, sampler=PLAIN, end_id=None, refill=False):
    """Page 6, one token after the other: the last W tokens through the model, draw, append.

    With ``refill`` what is visible grows from the prompt to W tokens, then starts again from W // 2
    tokens and the last one.
    """
    size = model.block_size
    ids, visible = [int(i) for i in ids], min(len(ids), size + 1)
    log_probs = []
    for _ in range(n):
        if visible > size:
            visible = size // 2 + 1 if refill else size
        # Filled up with a token that the engine never puts after a text: nobody looks at it.
        x_W = np.array((ids[-visible:] + [V - 1] * size)[:size], np.int32)
        seen_V = np.isin(np.arange(V), ids)
        key_of_token = jax.random.fold_in(key, len(ids))
        t = min(visible, size)
        drawn, log_prob = one_more(model)(params, x_W, t, key_of_token, sampler, seen_V)
        ids.append(int(drawn))
        log_probs.append(float(log_prob))
        visible += 1
        if ids[-1] == end_id:
            break
    return ids, log_probs


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def run(model, params, prompts, key_B, n, window="exact", sampler=PLAIN, end_id=None, room=99):
    """The engine, ``room`` tokens a call: (ids, ln P of what was made) by row, the last state."""
    model, params = decode.prepare(model, params)
    state = decode.start(model, params, prompts, key_B, room)
    texts, made = [prompt.tolist() for prompt in prompts], [[] for _ in prompts]
    for done in range(0, n, room):
        piece = min(room, n - done)
        state = decode.advance(model, window, params, state, sampler, piece, end_id)
        for b, text in enumerate(texts):
            new = slice(len(text) - int(state.begin_B[b]), int(state.length_B[b]))
            text += np.asarray(state.ids_BxL)[b, new].tolist()
            made[b] += np.asarray(state.log_prob_BxL)[b, new].tolist()
    return list(zip(texts, made, strict=True)), state


def prompts_of(*lengths, seed=3):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, V, length).astype(np.int32) for length in lengths]


def gpt(**changes):
    sizes = {"block_size": W, "n_embd": 12, "n_head": 3, "n_layer": 2} | changes
    return GPTLanguageModel(vocab_size=V, **sizes)


@pytest.fixture(scope="module")
def trained(random_params):
    """A model and random parameters for it, made once."""

    @functools.cache
    def make(model):
        return model, random_params(model, np.zeros((1, 1), np.int32), std=0.5)

    return make


# Prompts shorter and longer than the context. Seven rows and one buffer in most tests: they share
# their compiled programs.
RAGGED, N_NEW = (1, 3, W, W + 1, 2 * W + 3, 4, 2), 2 * W + 5


@pytest.mark.parametrize("kind", MODELS)
def test_every_model_writes_what_the_plain_loop_writes(kind, trained):
    size = 2 if kind == "ngram" else W
    config = ModelConfig(kind, block_size=size, n_layer=2, n_head=3, n_embd=12, n_hidden=7)
    model, params = trained(models.build(config, V, start_id=4))
    prompts, key_B = prompts_of(*RAGGED), keys(7)
    found, _ = run(model, params, prompts, key_B, N_NEW)
    for (ids, log_probs), prompt, key in zip(found, prompts, key_B, strict=True):
        expected_ids, expected = reference(model, params, prompt, key, N_NEW)
        assert ids == expected_ids and len(ids) == len(prompt) + N_NEW
        np.testing.assert_allclose(log_probs, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_what_comes_next_is_asked_of_a_text_of_any_length(kind, trained, monkeypatch):
    size = 2 if kind == "ngram" else W
    config = ModelConfig(kind, block_size=size, n_layer=2, n_head=3, n_embd=12, n_hidden=7)
    model, params = trained(models.build(config, V, start_id=4))
    monkeypatch.setattr(decode, "ASKED", 2)  # two programs, of 4 and of W tokens
    monkeypatch.setattr(decode, "bucket", lambda n, least: max(n + n % 2, least))
    for ids in prompts_of(1, 3, W, 2 * W + 3):
        found = decode.next_logits(*decode.prepare(model, params), ids)
        seen = ids if model.slides else ids[-model.block_size :]
        expected = model.apply({"params": params}, seen[None])[0, -1]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("block_size", [1, 5, W])
@pytest.mark.parametrize("window", WINDOWS)
def test_both_windows_follow_their_rule_far_past_the_context(window, block_size, trained):
    model, params = trained(gpt(block_size=block_size, n_layer=2 if block_size == W else 1))
    prompts = prompts_of(*RAGGED, seed=7)
    found, _ = run(model, params, prompts, keys(7, 5), N_NEW, window)
    for (ids, _), prompt, key in zip(found, prompts, keys(7, 5), strict=True):
        assert ids == reference(model, params, prompt, key, N_NEW, refill=window == "refill")[0]


def test_refill_is_exact_until_the_cache_is_full_and_then_differs(trained):
    model, params = trained(gpt())
    prompts = prompts_of(*RAGGED)
    exact, refill = (
        [ids for ids, _ in run(model, params, prompts, keys(7), N_NEW, window)[0]]
        for window in WINDOWS
    )
    for b in (0, 1, 5, 6):  # the prompts shorter than the context
        assert exact[b][: W + 1] == refill[b][: W + 1]
    assert exact != refill


def test_the_loop_is_prepared_for_the_cached_twin_of_a_gpt_and_any_other_model_as_it_is(trained):
    model, params = trained(gpt())
    twin, laid_out = decode.prepare(model, params)
    assert twin == CachedGPT.of(model) and laid_out.keys() == params.keys()
    jax.tree.map(np.testing.assert_array_equal, laid_out, CachedGPT.of(model).prepare(params))
    other = models.build(ModelConfig("bigram"), V)
    assert decode.prepare(other, params) == (other, params)


@pytest.mark.parametrize("window", WINDOWS)
def test_a_row_is_the_same_alone_and_among_seven(window, trained):
    model, params = trained(gpt())
    prompts, key_B = prompts_of(*RAGGED), keys(7, 2)
    together, _ = run(model, params, prompts, key_B, N_NEW, window)
    for b in range(7):
        alone, _ = run(model, params, prompts[b : b + 1], key_B[b : b + 1], 17, window)
        assert alone[0][0] == together[b][0]


@pytest.mark.parametrize("window", WINDOWS)
def test_in_pieces_in_a_short_buffer_is_at_once_in_a_long_one(window, trained):
    model, params = trained(gpt())
    prompts, how = prompts_of(*RAGGED), (window, sampling.build(0.9, repetition_penalty=1.3))
    whole, long = run(model, params, prompts, keys(7), N_NEW, *how)
    parts, short = run(model, params, prompts, keys(7), N_NEW, *how, room=3)
    assert [ids for ids, _ in whole] == [ids for ids, _ in parts]
    for (_, log_probs), (_, again) in zip(whole, parts, strict=True):
        np.testing.assert_allclose(log_probs, again, rtol=1e-5, atol=1e-6)
    assert short.ids_BxL.shape[1] == W + 1 + 3 < N_NEW  # the texts' beginnings left it
    np.testing.assert_array_equal(short.begin_B + short.length_B, long.begin_B + long.length_B)


@pytest.mark.parametrize("window", WINDOWS)
def test_a_row_ends_at_its_end_token_and_the_others_go_on(window, trained):
    model, params = trained(gpt())
    prompts, key_B, end_id = prompts_of(*RAGGED), keys(7, 8), 5
    found, state = run(model, params, prompts, key_B, N_NEW, window, end_id=end_id, room=6)
    made = []
    for (ids, _), prompt, key in zip(found, prompts, key_B, strict=True):
        again = reference(
            model, params, prompt, key, N_NEW, end_id=end_id, refill=window == "refill"
        )
        assert ids == again[0]
        made.append(len(ids) - len(prompt))
    assert len(set(made)) > 2  # they end at different times
    ended = [ids[-1] == end_id for ids, _ in found]
    np.testing.assert_array_equal(state.done_B, ended)


def test_a_sampler_sees_prompt_and_text_and_leaves_the_log_probabilities_alone(trained):
    model, params = trained(gpt())
    sampler = sampling.build(0.7, top_p=0.9, repetition_penalty=1.7)
    prompts, key_B = prompts_of(*RAGGED), keys(7, 6)
    found, _ = run(model, params, prompts, key_B, N_NEW, sampler=sampler)
    for (ids, log_probs), prompt, key in zip(found, prompts, key_B, strict=True):
        expected_ids, expected = reference(model, params, prompt, key, N_NEW, sampler)
        assert ids == expected_ids
        np.testing.assert_allclose(log_probs, expected, rtol=1e-4, atol=1e-5)


def test_logits_that_are_not_finite_stop_their_row_alone(trained):
    model, params = trained(gpt())
    prompts = [np.array([1, b]) for b in range(7)]
    clean, _ = run(model, params, prompts, keys(7), 17)
    broken = next(i for i in range(2, V) if i not in clean[0][0])
    table = np.array(params["token_embedding_table"]["embedding"])
    table[broken] = np.nan
    params = params | {"token_embedding_table": {"embedding": table}}
    prompts[3] = np.array([2, broken, 2])
    found, state = run(model, params, prompts, keys(7), 17)
    assert state.bad_B[3] and state.done_B[3] and found[3][0] == [2, broken, 2]
    assert not state.bad_B[0] and found[0][0] == clean[0][0]


def test_draws_have_the_distribution_of_the_model():
    from scipy import stats

    model, n = models.build(ModelConfig("bigram"), V), 20_000
    table = np.random.default_rng(9).normal(size=(V, V)).astype(np.float32)
    params = {"token_embedding_table": {"embedding": table}}
    state = decode.start(model, params, [np.array([3])] * n, keys(n), room=1)
    state = decode.advance(model, "exact", params, state, sampling.build(1.5, 8), 1)
    weights = np.exp(table[3].astype(np.float64) / 1.5)
    p = np.where(weights >= np.sort(weights)[-8], weights, 0)
    counts, p = np.bincount(state.ids_BxL[:, 1], minlength=V), p / p.sum()
    assert counts[p == 0].sum() == 0
    assert stats.chisquare(counts[p > 0], p[p > 0] * n).pvalue > 1e-4


@pytest.mark.parametrize("window", WINDOWS)
def test_other_lengths_numbers_and_seeds_compile_nothing_new(window, trained):
    model, params = trained(gpt())

    def programs():
        compiled = (decode._draw_tokens, decode._read_prompts, decode._refill)
        return [function._cache_size() for function in compiled]

    def generate(lengths, n, seed, *numbers):
        sampler = sampling.build(*numbers)
        run(model, params, prompts_of(*lengths), keys(7, seed), n, window, sampler)

    generate(RAGGED, 17, 0, 0.8, 5)  # cache, both, window; or cache, refill
    before = programs()
    generate(RAGGED[::-1], 16, 0, 0.8, 5)
    generate((4, 5, 6, 1, 2, 3, 14), 18, 1, 1.3, 3)
    generate((7, 3, 11, 1, 2, 9, 1), 60, 2, 0, 1)
    assert programs() == before
    n_rows = 2 if window == "exact" else 3  # so many rows are a program of their own,
    run(model, params, prompts_of(*[1] * n_rows), keys(n_rows), 2, window)
    assert programs() != before  # so that this test can fail


def test_buckets_are_powers_of_two():
    assert [decode.bucket(n) for n in (1, 16, 17, 32, 33, 1000)] == [16, 16, 32, 32, 64, 1024]
