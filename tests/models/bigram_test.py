"""The bigram models are the formulas of pages 4 and 5, and start as their docstrings say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.models.bigram import BigramEmbedLanguageModel, BigramLanguageModel

B, T, BLOCK, V, C = 2, 5, 7, 11, 3
X = np.random.default_rng(0).integers(0, V, (B, T))


def test_the_table_gives_the_row_of_each_token():
    table = np.random.default_rng(1).normal(size=(V, V)).astype(np.float32)
    params = {"token_embedding_table": {"embedding": table}}
    logits = BigramLanguageModel(V).apply({"params": params}, X)
    np.testing.assert_array_equal(logits, table[X])


def test_the_second_is_the_head_of_token_plus_position():
    rng = np.random.default_rng(1)
    token, position = rng.normal(size=(V, C)), rng.normal(size=(BLOCK, C))
    kernel, bias = rng.normal(size=(C, V)), rng.normal(size=V)
    params = {
        "token_embedding_table": {"embedding": token},
        "position_embedding_table": {"embedding": position},
        "lm_head": {"kernel": kernel, "bias": bias},
    }
    params = jax.tree.map(lambda p: p.astype(np.float32), params)
    logits = jax.jit(BigramEmbedLanguageModel(V, BLOCK, C).apply)({"params": params}, X)
    for b in range(B):
        for t in range(T):
            expected = (token[X[b, t]] + position[t]) @ kernel + bias
            np.testing.assert_allclose(logits[b, t], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "model, std", [(BigramLanguageModel(101), 1.0), (BigramEmbedLanguageModel(101, 50, 100), 0.02)]
)
def test_it_starts_at_the_stated_width_and_without_bias(model, std):
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if path[-1].key == "bias":
            assert not leaf.any()
        else:
            np.testing.assert_allclose(np.std(leaf), std, rtol=0.05)
