"""Every figure of the notes, recomputed in float64 where they misprint it, by the product's code.

The notes round to 4 decimals, so a figure holds when it is within half a unit of the last.
"""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.data.dataset import cut_stream
from gptjax.generation.generate import generate
from gptjax.models.bigram import BigramLanguageModel
from gptjax.models.gpt import FeedForward, Head
from gptjax.models.loss import cross_entropy
from gptjax.training.train_step import estimate_loss

# Page 4: the table as the notes print it.
TABLE = np.array(
    [
        [0.1808, -0.0700, 0.3596, -0.9152],
        [0.6258, 0.0255, 0.9545, 0.0643],
        [0.3612, 1.1679, -1.3499, -0.5102],
        [0.2360, -0.2398, -0.9211, 1.5433],
    ],
    np.float32,
)
IDX = np.array([[0, 1, 2], [1, 2, 3]])
TARGETS = np.array([[1, 2, 3], [2, 3, 0]])


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=0, atol=0.51e-4)


@jax.jit
def nlls(logits, y):
    """The product's loss, one place at a time: the sum with one weight of 1, the others 0."""
    ones = np.eye(y.size).reshape(-1, *y.shape)
    return jax.vmap(lambda w: cross_entropy(logits, y, w)[0])(ones)


@jax.jit
def mean_loss(logits, y):
    """The product's loss over all places: the notes' F.cross_entropy."""
    nats, count = cross_entropy(logits, y, jnp.ones(y.shape))
    return nats / count


def probabilities(scores):
    """Softmax, as the loss sees it: exp(-nll) of each token."""
    V = len(scores)
    logits = np.broadcast_to(np.asarray(scores, np.float32), (1, V, V))
    return np.exp(-nlls(logits, np.arange(V)[None]))


@pytest.mark.parametrize(
    "scores, expected",
    [
        ([2.3, 0.1, -1.5, 4.0], [0.1514, 0.0168, 0.0034, 0.8285]),  # page 1 sections 4, 11
        ([2.3, -1.2, 0.5, 4.7], [0.0818, 0.0025, 0.0135, 0.9022]),  # page 1 section 7
        (np.array([2, 1, 0.5, 3]) / 2, [0.2683, 0.1627, 0.1267, 0.4423]),  # page 1 section 10
        (np.array([2, 1, 0.5, 3]) / 0.5, [0.1166, 0.0158, 0.0058, 0.8618]),
        ([3, 1, -2, 4], [0.2590, 0.0351, 0.0017, 0.7042]),  # page 6 section 7
        ([10, 12, 13, 5], [0.0351, 0.2594, 0.7052, 0.0002]),
        ([3, 3.2, 3.4, 3.6], [0.1807, 0.2207, 0.2695, 0.3292]),
        ([0.63, 0.03, 0.95, 0.06], [0.2864, 0.1572, 0.3944, 0.1620]),  # page 6 section 10
        ([0.36, 1.17, -1.35, -0.51], [0.2599, 0.5842, 0.0470, 0.1089]),
        ([0.24, -0.24, -0.92, 1.54], [0.1785, 0.1105, 0.0560, 0.6550]),
        (
            [0.2, 1.1, -0.7, 0.4, 2.3, -0.5, 1.8, 0.9],  # page 7 step 2
            [0.0483, 0.1187, 0.0196, 0.0590, 0.3942, 0.0240, 0.2391, 0.0972],
        ),
    ],
)
def test_softmax(scores, expected):
    close(probabilities(scores), expected)


def table_logits(table, idx):
    params = {"token_embedding_table": {"embedding": table}}
    return jax.jit(BigramLanguageModel(len(table)).apply)({"params": params}, idx)


def test_page_4_the_six_nlls_and_their_mean():
    logits = table_logits(TABLE, IDX)
    np.testing.assert_array_equal(logits, TABLE[IDX])
    close(nlls(logits, TARGETS), [1.4472, 0.9264, 2.2168, 0.9264, 2.2168, 1.7285])
    close(mean_loss(logits, TARGETS), 1.5770)


def test_page_4_with_the_sign_that_torch_prints():
    table = TABLE.copy()
    table[0, 2] = -0.3596
    close(mean_loss(table_logits(table, IDX), TARGETS), 1.5428)


def test_page_6_the_example_grows_by_two_tokens_each_drawn_after_the_last():
    table = np.array(
        [[0.18, -0.07, 0.36, -0.92], [0.63, 0.03, 0.95, 0.06], [0.36, 1.17, -1.35, -0.51]]
        + [[0.24, -0.24, -0.92, 1.54]],
        np.float32,
    )
    params = {"token_embedding_table": {"embedding": table}}
    keys = jax.random.split(jax.random.key(0), 2)
    out = generate(BigramLanguageModel(4), params, np.array([[0, 1, 2], [1, 2, 3]]), 2, keys, 0)
    # The likeliest tokens are those that the page draws: 1 and 3, then 2 and 3.
    np.testing.assert_array_equal(out, [[0, 1, 2, 1, 2], [1, 2, 3, 3, 3]])


def test_page_7_the_nll_of_token_4():
    logits = np.array([[[0.2, 1.1, -0.7, 0.4, 2.3, -0.5, 1.8, 0.9]]], np.float32)
    close(nlls(logits, np.array([[4]])), [0.9310])


def test_page_8_the_means_of_five_losses():
    losses = {"train": [2.20, 2.10, 2.15, 2.05, 2.12], "val": [2.50, 2.40, 2.45, 2.47, 2.43]}
    counts = np.array([3, 1, 4, 2, 5])  # a mean of means: how many places a batch has is no weight

    def batch_sums(params, batches, busy):
        split = "val" if batches.x.any() else "train"
        assert batches.x.shape == (5, 2, 4)
        return counts * losses[split], counts

    five = {"batches_of_a_call": lambda split: 5}
    evaluator = SimpleNamespace(batch_size=2, batch_sums=batch_sums, **five)
    tokens = {"train": np.zeros(9, int), "val": np.ones(9, int)}
    splits = {name: cut_stream(ids, window=4) for name, ids in tokens.items()}
    found = estimate_loss(evaluator, None, splits, eval_iters=5, seed=0)
    assert set(found) == {"train", "val"}
    close(found["train"], 2.124)
    close(found["val"], 2.45)


def test_page_9_scores_are_divided_by_the_root_of_the_head_size():
    x = jnp.eye(2)[None]
    keys = jnp.array([[0.5, 0.5], [0.5, -0.5]])
    params = {"query": jnp.eye(2), "key": keys, "value": jnp.eye(2)}
    params = {name: {"kernel": kernel} for name, kernel in params.items()}
    # The values are the unit vectors, so what comes out are the weights themselves.
    (wei,) = jax.jit(Head(head_size=2, block_size=2).apply)({"params": params}, x)
    np.testing.assert_array_equal(wei[0], [1, 0])
    # The second token's scores are .3536 and -.3536: softmax keeps their difference.
    close(jnp.log(wei[1, 0] / wei[1, 1]) / 2, 0.3536)


def test_page_9_dropout_scales_the_survivors():
    # A layer that gives .5, .2, .7 to every token, so that only dropout is left to see.
    shapes = {"fc": (3, 12), "proj": (12, 3)}
    params = {n: {"kernel": jnp.zeros(s), "bias": jnp.zeros(s[1])} for n, s in shapes.items()}
    params["proj"]["bias"] = jnp.array([0.5, 0.2, 0.7])
    run = jax.jit(functools.partial(FeedForward(3, dropout=0.25).apply, train=True))
    out = run({"params": params}, jnp.ones((5, 8, 3)), rngs={"dropout": jax.random.key(0)})
    for channel, survivor in enumerate([0.6667, 0.2667, 0.9333]):
        zero, scaled = np.unique(out[..., channel])
        assert zero == 0
        close(scaled, survivor)


def test_the_worked_bigram_example():
    table = np.array(
        [
            [0.1, 0.2, 0.3, 0.4, 0.5],
            [0.2, 0.1, 0.4, 0.3, 0.6],
            [0.3, 0.4, 0.2, 0.1, 0.7],
            [0.4, 0.3, 0.1, 0.6, 0.2],
            [0.5, 0.6, 0.7, 0.2, 0.1],
        ],
        np.float32,
    )
    logits = table_logits(table, np.array([[2], [4]]))
    np.testing.assert_array_equal(logits, table[[[2], [4]]])
    close(probabilities(logits[0, 0]), [0.1880, 0.2077, 0.1701, 0.1539, 0.2804])
    close(probabilities(logits[1, 0]), [0.2111, 0.2333, 0.2578, 0.1564, 0.1415])
