"""The cached GPT is the GPT: the same parameters, and logits that no piece or place changes.

B batch, T time, C channels, H heads, K head size, V vocabulary, N layers: all different, so that a
transposed axis cannot pass.
"""

import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from gptjax.models.fast.gpt_cached import CachedGPT
from gptjax.models.gpt import GPTLanguageModel

B, T, BLOCK, C, H, K, V, N = 2, 5, 8, 12, 3, 4, 13, 2
TOKENS = np.random.default_rng(3).integers(0, V, (B, BLOCK))
CHANGES = [{}, {"tie_lm_head": True}, {"activation": "gelu", "scale_residual": True}]
CHANGES += [{"qkv_bias": True, "lm_head_bias": False}]
CASES = [(1, CHANGES[0]), (T, CHANGES[0]), *((BLOCK, changes) for changes in CHANGES[1:])]


def model(**changes):
    return GPTLanguageModel(V, BLOCK, C, H, N, **changes)


def by_path(tree):
    return traverse_util.flatten_dict(tree, sep="/")


def assert_close(logits, expected):
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.fixture(scope="module")
def reading(random_params):
    """A model's ``read``, compiled once per length of piece, and its plain logits of TOKENS."""
    ours = model()
    params, cached = random_params(ours, TOKENS), CachedGPT.of(ours)
    prepared = CachedGPT.of(model()).prepare(params)
    read = jax.jit(lambda x, cache: cached.apply({"params": prepared}, x, cache, method="read"))
    whole = jax.jit(ours.apply)({"params": params}, TOKENS)
    return read, whole, cached.empty_cache(B)


# ---- parameters -------------------------------------------------------------------------------


def test_the_twin_has_the_sizes_of_the_model():
    ours = model(dropout=0.1, activation="gelu", tie_lm_head=True, scale_residual=True)
    twin = CachedGPT.of(ours)
    fields = [field.name for field in dataclasses.fields(ours)]
    assert {"n_layer", "dropout", "tie_lm_head"} < set(fields)
    assert all(getattr(twin, name) == getattr(ours, name) for name in fields)
    assert twin == CachedGPT.of(ours) and twin != CachedGPT.of(model())  # a key of compiled loops


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_both_have_the_same_parameters_by_path(changes):
    ours = model(**changes)
    plain, cached = (
        by_path(jax.eval_shape(m.init, jax.random.key(0), TOKENS)["params"])
        for m in (ours, CachedGPT.of(ours))
    )
    assert set(plain) == set(cached)
    shapes = {path: leaf.shape for path, leaf in plain.items()}
    kernels = {path for path in shapes if re.search("/sa/heads/.*/kernel", path)}
    biases = {path for path in shapes if re.search("/sa/heads/.*/bias", path)}
    assert {shapes[path] for path in kernels} == {(H, C, K)} and len(kernels) == 3 * N
    assert all(shapes[path] == (H, K) for path in biases)
    assert len(biases) == (3 * N if ours.qkv_bias else 0)
    shapes |= dict.fromkeys(kernels, (C, H, K)) | dict.fromkeys(biases, (K, H))
    for path, leaf in cached.items():
        assert (leaf.shape, leaf.dtype) == (shapes[path], plain[path].dtype)


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_to_prepare_is_to_swap_the_axes_of_the_heads_and_nothing_else(changes, random_params):
    ours = model(**changes)
    params = random_params(ours, TOKENS)
    prepared = CachedGPT.of(model()).prepare(params)
    assert jax.tree.structure(prepared) == jax.tree.structure(params)
    back, swapped = {}, 0
    for path, leaf in by_path(prepared).items():
        if leaf is not by_path(params)[path]:
            assert "/sa/heads/" in path
            leaf, swapped = leaf.swapaxes(0, 1), swapped + 1
        back[path] = leaf
    assert swapped == (6 * N if ours.qkv_bias else 3 * N)
    chex.assert_trees_all_equal(traverse_util.unflatten_dict(back, sep="/"), params)
    chex.assert_trees_all_equal(CachedGPT.of(model()).prepare(prepared), params)


def test_an_empty_cache_has_a_place_per_row_head_token_and_channel():
    cache = CachedGPT.of(model()).empty_cache(B)
    assert len(cache.keys) == len(cache.values) == N
    for keys, values in zip(cache.keys, cache.values, strict=True):
        chex.assert_shape((keys, values), [(H, B, K, BLOCK), (H, B, BLOCK, K)])
        assert keys.dtype == values.dtype == jnp.float32
    chex.assert_shape(cache.length_B, (B,))
    assert not any(leaf.any() for leaf in jax.tree.leaves(cache))


# ---- the plain call ---------------------------------------------------------------------------


@pytest.mark.parametrize("length, changes", CASES, ids=str)
def test_the_inherited_call_gives_the_logits_of_the_gpt(length, changes, random_params):
    ours = model(**changes)
    params, x = random_params(ours, TOKENS), TOKENS[:, :length]
    plain = jax.jit(ours.apply)({"params": params}, x)
    twin = jax.jit(CachedGPT.of(ours).apply)({"params": CachedGPT.of(model()).prepare(params)}, x)
    assert_close(twin, plain)


# ---- read -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [[1] * BLOCK, [BLOCK], [3, 1, 3, 1]])
def test_reading_in_pieces_is_reading_at_once(pieces, reading):
    read, whole, cache = reading
    start = 0
    for length in pieces:
        logits, cache = read(TOKENS[:, start : start + length], cache)
        chex.assert_shape(logits, (B, length, V))
        assert_close(logits, whole[:, start : start + length])
        start += length
        np.testing.assert_array_equal(cache.length_B, [start] * B)


def test_rows_of_different_lengths_each_continue_where_they_are(reading):
    read, whole, cache = reading
    # Row 0 has read 1 token and row 1 has read 3: what stands after them is not seen.
    lengths = np.array([1, 3], np.int32)
    told = np.where(np.arange(5) < lengths[:, None], TOKENS[:, :5], (TOKENS[:, :5] + 1) % V)
    _, cache = read(told, cache)
    cache = cache.replace(length_B=jnp.asarray(lengths))
    for step in range(2):
        place = lengths + step
        new = np.take_along_axis(TOKENS, place[:, None], axis=1)
        logits, cache = read(new, cache)
        for b in range(B):
            np.testing.assert_allclose(
                logits[b, 0], whole[b, place[b]], rtol=1e-5, atol=1e-5 * np.abs(whole).max()
            )
    np.testing.assert_array_equal(cache.length_B, lengths + 2)


@pytest.mark.parametrize(
    "sizes",
    [
        {"block_size": 5, "n_embd": 8, "n_head": 1, "n_layer": 1},
        {"block_size": 13, "n_embd": 12, "n_head": 3, "n_layer": 2, "tie_lm_head": True},
        {"block_size": 24, "n_embd": 20, "n_head": 4, "n_layer": 3, "activation": "gelu"},
        {"block_size": 32, "n_embd": 64, "n_head": 4, "n_layer": 4},
    ],
    ids=str,
)
def test_cached_logits_are_the_uncached_ones_token_by_token(sizes, random_params):
    ours = GPTLanguageModel(vocab_size=V, **sizes)
    block, n_rows = ours.block_size, ours.n_layer  # one row (read in its own way), two, three, four
    x_BxT = np.random.default_rng(4).integers(0, V, (n_rows, block))
    params, cached = random_params(ours, x_BxT), CachedGPT.of(ours)
    whole, prepared = (
        jax.jit(ours.apply)({"params": params}, x_BxT),
        CachedGPT.of(model()).prepare(params),
    )
    read = jax.jit(lambda x, cache: cached.apply({"params": prepared}, x, cache, method="read"))
    cache = cached.empty_cache(n_rows)
    for t in range(block):
        logits, cache = read(x_BxT[:, t : t + 1], cache)
        assert_close(logits[:, 0], whole[:, t])


# ---- at ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("length, changes", CASES, ids=str)
def test_the_logits_of_one_place_are_those_of_all_places(length, changes, random_params):
    ours = model(**changes)
    x_BxT = np.random.default_rng(6).integers(0, V, (length, length))
    at_B = np.roll(np.arange(length), 1)  # every place, in another order than the rows
    params, cached = random_params(ours, x_BxT), CachedGPT.of(ours)
    whole = jax.jit(ours.apply)({"params": params}, x_BxT)
    one = jax.jit(lambda params, *inputs: cached.apply({"params": params}, *inputs, method="at"))(
        CachedGPT.of(model()).prepare(params), x_BxT, at_B
    )
    chex.assert_shape(one, (length, V))
    assert_close(one, whole[np.arange(length), at_B])
