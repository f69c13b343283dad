"""The n-gram is a table with a row per context, and a context is the last tokens as one number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptjax.models import ngram
from gptjax.models.ngram import NGramLanguageModel

B, T, V, START = 2, 7, 5, 3


@given(tokens=st.lists(st.integers(0, 3), min_size=1, max_size=20), n=st.integers(1, 3))
def test_contexts_number_the_last_tokens_the_newest_last(tokens, n):
    start, vocab_size = 3, 4
    found = np.asarray(ngram.contexts(np.array([tokens]), vocab_size, n, start))[0]
    for t in range(len(tokens)):
        seen = ([start] * n + tokens[: t + 1])[-n:]
        assert found[t] == sum(token * vocab_size ** (n - 1 - i) for i, token in enumerate(seen))


@pytest.mark.parametrize("block_size", [1, 2, 3])
def test_every_place_has_the_row_of_its_context(block_size):
    rng = np.random.default_rng(1)
    x_BxT = rng.integers(0, V, (B, T))
    table = rng.normal(size=(V,) * (block_size + 1)).astype(np.float32)
    params = {"token_embedding_table": {"embedding": table.reshape(-1, V)}}
    model = NGramLanguageModel(V, block_size, START)
    logits = jax.jit(model.apply)({"params": params}, x_BxT)
    for b in range(B):
        # Before the beginning stands the start token.
        text = [START] * (block_size - 1) + x_BxT[b].tolist()
        for t in range(T):
            np.testing.assert_array_equal(logits[b, t], table[tuple(text[t : t + block_size])])


def test_it_starts_as_a_uniform_guess_with_a_row_per_context():
    params = NGramLanguageModel(V, 3).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    assert jax.tree.map(jnp.shape, params) == {
        "params": {"token_embedding_table": {"embedding": (V**3, V)}}
    }
    assert not any(leaf.any() for leaf in jax.tree.leaves(params))
