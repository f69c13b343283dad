"""What a forward pass keeps: each array is the formula's, and what a kind has not is None."""

import math

import jax
import numpy as np
import pytest

from gptjax import models
from gptjax.config.schema import ModelConfig
from gptjax.interpret import capture
from gptjax.models.fast.gpt_fast import FastGPT
from gptjax.models.gpt import GPTLanguageModel, twin
from gptjax.models.precision import Precision

N, B, H, T, K, C, V, BLOCK = 2, 3, 2, 5, 4, 8, 11, 7


@pytest.fixture(scope="module")
def gpt(random_params):
    """A GPT of all distinct sizes, its parameters, tokens (B, T), and what was captured."""
    model = GPTLanguageModel(V, BLOCK, C, H, N, dropout=0.5)
    x = np.random.default_rng(1).integers(0, V, (B, T))
    params = random_params(model, x, std=1.0)
    return model, params, x, capture.capture(model, params, x)


def layer_norm(x, p):
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def test_attention_weights_are_the_softmax_of_the_scores(gpt):
    model, params, x, captured = gpt
    wei = captured.attention_NxBxHxTxS
    assert wei.shape == (N, B, H, T, T) and wei.dtype == np.float32
    np.testing.assert_allclose(wei.sum(axis=-1), 1, rtol=1e-5)
    above = np.triu(np.ones((T, T), bool), 1)
    assert (wei[..., above] == 0).all() and (wei[..., ~above] > 0).all()
    # The first layer by hand: ln1(tok_emb + pos_emb), then each head's q and k.
    h = params["token_embedding_table"]["embedding"][x]
    h = h + params["position_embedding_table"]["embedding"][:T]
    first = params["blocks_0"]
    h = layer_norm(h, first["ln1"])
    for head in range(H):
        q, k = (h @ first["sa"]["heads"][name]["kernel"][head] for name in ("query", "key"))
        scores = np.where(above, -np.inf, q @ k.swapaxes(1, 2) / math.sqrt(K))
        expected = jax.nn.softmax(scores, axis=-1)
        np.testing.assert_allclose(wei[0, :, head], expected, rtol=1e-4, atol=1e-6)
    assert np.abs(wei[0] - wei[1]).max() > 0.1  # another layer looks elsewhere


def test_the_residual_stream_is_what_the_blocks_add_to(gpt):
    model, params, x, captured = gpt
    streams, kept = captured.streams_LxBxTxC, captured.activations
    assert streams.shape == (N + 1, B, T, C) and streams.dtype == np.float32
    tok, pos = (params[f"{name}_embedding_table"]["embedding"] for name in ("token", "position"))
    np.testing.assert_allclose(streams[0], tok[x] + pos[:T], rtol=1e-6)
    for n in range(N):
        added = kept[f"blocks_{n}/sa"] + kept[f"blocks_{n}/ffwd"]
        np.testing.assert_allclose(streams[n + 1], streams[n] + added, rtol=1e-4, atol=1e-4)
    head = params["lm_head"]
    expected = layer_norm(streams[-1], params["ln_f"]) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(captured.logits_BxTxV, expected, rtol=1e-4, atol=1e-4)


def test_activations_are_named_by_module_in_the_order_of_computing(gpt):
    _, params, _, captured = gpt
    kept = captured.activations
    sa = ["key", "query", "value"]
    block = ["ln1", *(f"sa/heads/{name}" for name in sa), "sa/heads", "sa", "ln2", "ffwd/fc"]
    expected = ["token_embedding_table", "position_embedding_table", "embed"]
    for n in range(N):
        expected += [f"blocks_{n}/{name}" for name in (*block, "ffwd")] + [f"blocks_{n}"]
    assert list(kept) == [*expected, "ln_f"]
    p, before = params["blocks_1"], kept["blocks_1/ln2"]
    fc = np.maximum(before @ p["ffwd"]["fc"]["kernel"] + p["ffwd"]["fc"]["bias"], 0)
    np.testing.assert_allclose(kept["blocks_1/ffwd/fc"], fc, rtol=1e-4, atol=1e-4)
    assert (fc == 0).any() and fc.shape == (B, T, 4 * C)
    q = np.einsum("btc,hck->hbtk", kept["blocks_1/ln1"], p["sa"]["heads"]["query"]["kernel"])
    np.testing.assert_allclose(kept["blocks_1/sa/heads/query"], q, rtol=1e-4, atol=1e-4)
    assert q.shape == (H, B, T, K)


def test_a_quick_model_is_captured_as_the_notes_one_by_one_program(gpt):
    model, params, x, captured = gpt
    quick = twin(FastGPT, model, precision=Precision("bfloat16"))
    programs = capture._forward._cache_size()
    again = capture.capture(quick, params, x)
    jax.tree.map(np.testing.assert_array_equal, again, captured)
    capture.capture(model, jax.tree.map(lambda p: p / 2, params), x[::-1])  # another checkpoint
    assert capture._forward._cache_size() == programs
    plain = np.asarray(model.apply({"params": params}, x))
    np.testing.assert_allclose(captured.logits_BxTxV, plain, rtol=1e-4, atol=1e-4)


KINDS = {"bigram": 0, "bigram_embed": 0, "mlp": 0, "ngram": 0, "head": 1, "multihead": 2, "ffwd": 2}


@pytest.mark.parametrize("kind, n_head", KINDS.items())
def test_every_kind_of_model_has_what_it_has(kind, n_head, random_params):
    sizes = {"block_size": 2 if kind == "ngram" else T, "n_embd": C, "n_head": H, "n_layer": N}
    model = models.build(ModelConfig(kind, n_hidden=9, **sizes), V)
    x = np.random.default_rng(2).integers(0, V, (B, T))
    params = random_params(model, x)
    captured = capture.capture(model, params, x)
    assert captured.streams_LxBxTxC is None
    logits = np.asarray(model.apply({"params": params}, x))
    np.testing.assert_allclose(captured.logits_BxTxV, logits, rtol=1e-5, atol=1e-5)
    if n_head:
        wei = captured.attention_NxBxHxTxS
        assert wei.shape == (1, B, n_head, T, T)
        np.testing.assert_allclose(wei.sum(axis=-1), 1, rtol=1e-5)
        assert (wei[..., np.triu(np.ones((T, T), bool), 1)] == 0).all()
    else:
        assert captured.attention_NxBxHxTxS is None
    shapes = {name: value.shape for name, value in captured.activations.items()}
    assert "token_embedding_table" in shapes
    if kind == "mlp":
        hidden = captured.activations["hidden_1"]
        assert hidden.shape == (B, T, 9) and np.abs(hidden).max() < 1
        head = params["lm_head"]
        np.testing.assert_allclose(hidden @ head["kernel"] + head["bias"], logits, atol=1e-4)
    if kind == "ffwd":
        assert shapes["ffwd/fc"] == (B, T, 4 * C) and captured.activations["ffwd/fc"].min() == 0
