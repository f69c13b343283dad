"""One contract holds for every model: shapes, who sees whom, parameter counts, the first loss.

B batch, T time, C channels, H heads, K head size, V vocabulary: all different, so that a
transposed axis cannot pass.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import models
from gptjax.config.schema import MODELS, SLIDING_MODELS, ModelConfig
from gptjax.errors import UserError
from gptjax.models.loss import cross_entropy

B, T, BLOCK, V, C, H = 2, 5, 8, 13, 12, 3
START = V - 1
KINDS = ("bigram", "bigram_embed", "mlp", "gpt")
X = np.random.default_rng(1).permutation(B * T).reshape(B, T)  # no token twice


def build(kind, **changes):
    sizes = {"block_size": BLOCK, "n_layer": 2, "n_head": H, "n_embd": C, "n_hidden": 17}
    if kind == "ngram":
        sizes["block_size"] = 2  # its table has V ** block_size rows
    return models.build(ModelConfig(kind, **sizes | changes), V, START)


def test_a_table_of_pairs_beyond_all_memory_is_refused_with_its_size():
    assert models.build(ModelConfig("bigram"), 2**14).vocab_size == 2**14
    with pytest.raises(UserError, match="50,257 x 50,257 tokens, and 268,435,456 entries"):
        models.build(ModelConfig("bigram"), 50_257)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("length", [1, T, BLOCK])
def test_logits_have_a_score_per_row_place_and_token(kind, length):
    model = build(kind)
    x_BxT = jax.ShapeDtypeStruct((B, length), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x_BxT)
    logits_BxTxV = jax.eval_shape(model.apply, variables, x_BxT)
    chex.assert_shape(logits_BxTxV, (B, length, V))
    assert logits_BxTxV.dtype == jnp.float32
    assert set(variables) == {"params"}


@pytest.mark.parametrize(
    "kind, block_size, lookback",
    [
        ("bigram", 1, 0),
        ("bigram_embed", BLOCK, 0),
        ("ngram", 2, 1),
        ("mlp", BLOCK, BLOCK - 1),
        ("head", BLOCK, 0),
        ("multihead", BLOCK, 0),
        ("ffwd", BLOCK, 0),
        ("gpt", BLOCK, 0),
    ],
)
def test_a_model_says_how_far_it_looks(kind, block_size, lookback):
    model = build(kind)
    assert (model.block_size, model.lookback) == (block_size, lookback)
    # Checked before a model is built, so the config knows it too.
    assert model.slides is (kind in SLIDING_MODELS)


def who_sees_whom(model, params):
    """Whether the logits at place i move with the embedding at place j, for all places of X.

    Every place holds a token of its own, so a row of the table is one place's embedding.
    """
    # A random mixture of the logits: a plain sum could cancel.
    mixture_V = np.random.default_rng(2).normal(size=V)

    def mixed(table):
        ours = params | {"token_embedding_table": {"embedding": table}}
        return (model.apply({"params": ours}, X) @ mixture_V).reshape(-1)

    jacobian = jax.jit(jax.jacrev(mixed))(params["token_embedding_table"]["embedding"])
    chex.assert_tree_all_finite(jacobian)
    return np.abs(jacobian[:, X.reshape(-1)]).max(-1) != 0


@pytest.mark.parametrize(
    "kind, reach", [("bigram", 1), ("bigram_embed", 1), ("mlp", 3), ("gpt", T)]
)
def test_a_place_sees_itself_and_the_past_of_its_row_and_no_other(kind, reach, random_params):
    # The MLP looks back exactly block_size tokens; the GPT's block is longer than the row.
    model = build(kind, block_size=3) if kind == "mlp" else build(kind)
    t, s = np.mgrid[:T, :T]
    expected = np.kron(np.eye(B, dtype=bool), (s <= t) & (t - s < reach))
    np.testing.assert_array_equal(who_sees_whom(model, random_params(model, X)), expected)


@pytest.mark.parametrize("kind", MODELS)
def test_dropout_is_off_unless_training(kind):
    def program(dropout):
        # No key is given: a model that drew anything would ask for one.
        model = build(kind, dropout=dropout)
        params = jax.eval_shape(model.init, jax.random.key(0), X)
        return str(jax.make_jaxpr(model.apply)(params, X))

    assert program(0.3) == program(0.0)


def count(shape_tree):
    return sum(leaf.size for leaf in jax.tree.leaves(shape_tree))


@pytest.mark.parametrize(
    "config, vocab_size, expected",
    [
        (ModelConfig("bigram"), 65, 4_225),
        (ModelConfig("gpt", block_size=32, n_layer=4, n_head=4, n_embd=64), 65, 209_729),
        (ModelConfig("gpt", block_size=256, n_layer=6, n_head=6, n_embd=384), 65, 10_788_929),
        (ModelConfig("mlp", block_size=3, n_layer=1, n_embd=10, n_hidden=200), 27, 11_897),
        # The lecture's bigram with two tables: 65 x 32 + 8 x 32 + 32 x 65 + 65.
        (ModelConfig("bigram_embed", block_size=8, n_embd=32), 65, 4_481),
    ],
)
def test_parameters_are_as_many_as_published(config, vocab_size, expected):
    x_BxT = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    model = models.build(config, vocab_size)
    params = jax.eval_shape(model.init, jax.random.key(0), x_BxT)["params"]
    assert count(params) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_loss_is_near_that_of_a_uniform_guess(kind):
    model, rng = build(kind, n_layer=1), np.random.default_rng(0)
    x_BxT, y_BxT = rng.integers(0, V, (2, 64, BLOCK))

    @jax.jit
    def loss(key):
        logits = model.apply(model.init(key, x_BxT), x_BxT)
        return cross_entropy(logits, y_BxT, jnp.ones(y_BxT.shape))[0] / y_BxT.size

    # N(0, 1) scores cost half a nat: E ln(mean exp z) = 1/2, a little less for 13 tokens.
    expected = np.log(V) + (0.45 if kind == "bigram" else 0)
    assert abs(loss(jax.random.key(0)) - expected) < (0.2 if kind == "bigram" else 0.05)


def test_build_passes_every_size_on():
    model = build("gpt", dropout=0.1, activation="gelu", tie_lm_head=True, scale_residual=True)
    sizes = {"block_size": BLOCK, "n_layer": 2, "n_head": H, "n_embd": C, "vocab_size": V}
    rest = {"dropout": 0.1, "activation": "gelu", "tie_lm_head": True, "scale_residual": True}
    rest |= {"qkv_bias": False, "lm_head_bias": True}
    assert {name: getattr(model, name) for name in sizes | rest} == sizes | rest
    assert (
        build("gpt", qkv_bias=True).qkv_bias and not build("gpt", lm_head_bias=False).lm_head_bias
    )
    model = build("mlp")
    assert (model.vocab_size, model.n_hidden, model.n_layer, model.n_embd) == (V, 17, 2, C)
    assert model.start_id == START
    model = build("ngram")
    assert (model.vocab_size, model.block_size, model.start_id) == (V, 2, START)
    model = build("ffwd", dropout=0.1, activation="gelu")
    assert (model.rung, model.vocab_size, model.block_size) == ("ffwd", V, BLOCK)
    assert (model.n_embd, model.n_head, model.dropout, model.activation) == (C, H, 0.1, "gelu")


def test_a_table_that_would_not_fit_is_refused():
    with pytest.raises(UserError, match=r"model.block_size=4 asks for a table of 65\^4 contexts"):
        models.build(ModelConfig("ngram", block_size=4), 65)
    with pytest.raises(UserError, match="and 33,554,432 entries are the most: set a smaller"):
        models.build(ModelConfig("ngram", block_size=2**20), 65)  # more digits than one can print
