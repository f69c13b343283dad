"""The three ways to average the past are one, and the third is a head without opinions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.models import averaging
from gptjax.models.gpt import Head

B, T, C = 4, 7, 3
X = np.random.default_rng(0).normal(size=(B, T, C)).astype(np.float32)
WAYS = (averaging.average_loop, averaging.average_matmul, averaging.average_softmax)


@pytest.mark.parametrize("average", WAYS)
def test_each_place_holds_the_mean_of_itself_and_its_past(average):
    expected = [[X[b, : t + 1].mean(axis=0) for t in range(T)] for b in range(B)]
    np.testing.assert_allclose(jax.jit(average)(X), expected, atol=1e-6)


@pytest.mark.parametrize("average", WAYS)
def test_nothing_comes_from_the_future(average):
    changed = X.copy()
    changed[:, 4:] += 100
    np.testing.assert_allclose(average(X)[:, :4], average(changed)[:, :4], atol=1e-6)


def test_scores_weigh_the_past_unequally_and_never_the_future():
    scores = np.full((T, T), 50.0, np.float32)
    scores[:, 0] = 100  # everyone looks at the first place, and so gets it
    out = averaging.average_softmax(X, scores)
    np.testing.assert_allclose(out, np.broadcast_to(X[:, :1], X.shape), atol=1e-5)


def test_a_head_whose_queries_are_zero_averages_its_values():
    kernel = np.random.default_rng(1).normal(size=(3, C, 5)).astype(np.float32)
    params = {"query": np.zeros((C, 5), np.float32), "key": kernel[1], "value": kernel[2]}
    params = {name: {"kernel": jnp.asarray(k)} for name, k in params.items()}
    out = Head(head_size=5, block_size=T).apply({"params": params}, X)
    np.testing.assert_allclose(out, averaging.average_matmul(X @ kernel[2]), atol=1e-5)
