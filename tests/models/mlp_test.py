"""The MLP is Bengio's formula over exactly block_size tokens, at every place of any row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.models.mlp import MLPLanguageModel

B, T, BLOCK, V, C, HIDDEN, START = 2, 7, 3, 11, 5, 13, 4


def by_hand(params, window, n_layer):
    """The logits after one window of BLOCK tokens, oldest first."""
    h = np.concatenate([params["token_embedding_table"]["embedding"][token] for token in window])
    for n in range(n_layer):
        h = np.tanh(h @ params[f"hidden_{n}"]["kernel"] + params[f"hidden_{n}"]["bias"])
    return h @ params["lm_head"]["kernel"] + params["lm_head"]["bias"]


@pytest.mark.parametrize("n_layer, n_embd", [(1, C), (2, C), (1, 2)])
def test_every_place_is_bengios_formula_of_its_window(n_layer, n_embd, random_params):
    x_BxT = np.random.default_rng(1).integers(0, V, (B, T))
    model = MLPLanguageModel(V, BLOCK, n_embd, HIDDEN, n_layer, START)
    params = random_params(model, x_BxT)
    logits = jax.jit(model.apply)({"params": params}, x_BxT)
    for b in range(B):
        # Before the beginning stands the start token: the slides' "- - - a a b i d".
        text = [START] * (BLOCK - 1) + x_BxT[b].tolist()
        for t in range(T):
            expected = by_hand(params, text[t : t + BLOCK], n_layer)
            np.testing.assert_allclose(logits[b, t], expected, rtol=1e-4, atol=1e-5)


def test_the_start_of_an_item_is_told_by_start_tokens_alone(random_params):
    # A row that begins with the start token, as an item's does, sees one more of them in front.
    model = MLPLanguageModel(V, BLOCK, C, HIDDEN, 1, START)
    item = [START, 7, 2, 9]
    params = random_params(model, np.array([item]))
    short = jax.jit(model.apply)({"params": params}, np.array([item]))
    long = jax.jit(model.apply)({"params": params}, np.array([[START, START, *item]]))
    np.testing.assert_allclose(short[0], long[0, 2:], rtol=1e-5)


def test_it_starts_with_live_tanh_layers_and_a_quiet_head():
    model = MLPLanguageModel(101, 4, 50, 300, 1)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    stds = {
        ("token_embedding_table", "embedding"): 1.0,
        ("hidden_0", "kernel"): 5 / 3 / (4 * 50) ** 0.5,
        ("lm_head", "kernel"): 0.01,
    }
    for (module, name), std in stds.items():
        np.testing.assert_allclose(np.std(params[module][name]), std, rtol=0.05)
    for module in ("hidden_0", "lm_head"):
        assert not params[module]["bias"].any()
