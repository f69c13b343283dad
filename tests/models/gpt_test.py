"""The GPT is the notes' formulas: every module against plain numpy, in float64.

B batch, T time, C channels, H heads, K head size, F width inside the feed-forward, V vocabulary:
all different, so that a transposed axis cannot pass.
"""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gptjax.models.gpt import Block, FeedForward, GPTLanguageModel, Head, MultiHeadAttention

B, T, BLOCK, C, H, K, V, N = 2, 5, 8, 12, 3, 4, 13, 2
F, P = 4 * C, 0.25  # P: what dropout drops
X = np.random.default_rng(0).normal(size=(B, T, C)).astype(np.float32)
TOKENS = np.random.default_rng(1).integers(0, V, (B, T))


def apply(module, params, *inputs, **settings):
    """One compiled call of a module; ``settings`` are fixed, but for the key of dropout."""
    rngs = {"dropout": settings.pop("key", None)}
    run = functools.partial(module.apply, **settings)
    return jax.jit(lambda params, rngs, *inputs: run({"params": params}, *inputs, rngs=rngs))(
        params, rngs if rngs["dropout"] is not None else {}, *inputs
    )


# ---- the formulas, in plain numpy -------------------------------------------------------------


def softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def layer_norm(p, x):
    spread = np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return (x - x.mean(-1, keepdims=True)) / spread * p["scale"] + p["bias"]


def dense(p, x):
    return x @ p["kernel"] + p.get("bias", 0)


def head(p, x):
    """Page 9: one row and one token at a time, over the tokens up to it."""
    q, k, v = (dense(p[name], x) for name in ("query", "key", "value"))
    out = np.zeros(v.shape)
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            wei = softmax(k[b, : t + 1] @ q[b, t] / math.sqrt(q.shape[-1]))
            out[b, t] = wei @ v[b, : t + 1]
    return out


def multi_head(p, x):
    one = [jax.tree.map(lambda leaf, h=h: leaf[h], p["heads"]) for h in range(H)]
    return dense(p["proj"], np.concatenate([head(p_h, x) for p_h in one], axis=-1))


def feed_forward(p, x):
    return dense(p["proj"], np.maximum(dense(p["fc"], x), 0))


def block(p, x):
    x = x + multi_head(p["sa"], layer_norm(p["ln1"], x))
    return x + feed_forward(p["ffwd"], layer_norm(p["ln2"], x))


def gpt(p, tokens):
    """Page 10, diagrams 1 and 3, in float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), p)
    table = p["token_embedding_table"]["embedding"]
    x = table[tokens] + p["position_embedding_table"]["embedding"][: tokens.shape[1]]
    for n in range(N):
        x = block(p[f"blocks_{n}"], x)
    x = layer_norm(p["ln_f"], x)
    return dense(p["lm_head"], x) if "lm_head" in p else x @ table.T


def model(**changes):
    return GPTLanguageModel(V, BLOCK, C, H, N, **changes)


# ---- shapes and formulas ----------------------------------------------------------------------


SELF = {"query": {"kernel": (C, K)}, "key": {"kernel": (C, K)}, "value": {"kernel": (C, K)}}
SA = {
    "heads": {name: {"kernel": (H, C, K)} for name in SELF},
    "proj": {"kernel": (H * K, C), "bias": (C,)},
}
FFWD = {"fc": {"kernel": (C, F), "bias": (F,)}, "proj": {"kernel": (F, C), "bias": (C,)}}
NORM = {"scale": (C,), "bias": (C,)}


@pytest.mark.parametrize(
    "module, shape, parameters",
    [
        (Head(K, BLOCK), (B, T, K), SELF),
        (MultiHeadAttention(H, K, BLOCK), (B, T, C), SA),
        (FeedForward(C), (B, T, C), FFWD),
        (Block(C, H, BLOCK), (B, T, C), {"ln1": NORM, "sa": SA, "ln2": NORM, "ffwd": FFWD}),
    ],
)
def test_shapes(module, shape, parameters):
    out, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), X)
    chex.assert_shape(out, shape)
    assert set(variables) == {"params"}
    assert jax.tree.map(lambda leaf: leaf.shape, variables["params"]) == parameters


@pytest.mark.parametrize(
    "module, formula",
    [
        (Head(K, BLOCK), head),
        (MultiHeadAttention(H, K, BLOCK), multi_head),
        (FeedForward(C), feed_forward),
        (Block(C, H, BLOCK), block),
    ],
)
@pytest.mark.parametrize("scale", [1, 1e-3])  # at 1e-3 a LayerNorm's epsilon is half of it
def test_a_module_is_its_formula(module, formula, scale, random_params):
    params = random_params(module, X)
    out = apply(module, params, scale * X)
    np.testing.assert_allclose(out, formula(params, scale * X), rtol=1e-3, atol=1e-5 * scale)


PHI = {  # Hendrycks and Gimpel 2016: of a normal distribution, and their approximation of it
    "gelu": lambda z: (1 + math.erf(z / math.sqrt(2))) / 2,
    "gelu_tanh": lambda z: (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2,
}


@pytest.mark.parametrize("name", PHI)
def test_gelu_is_the_one_with_erf_or_with_tanh(name, random_params):
    module = FeedForward(C, activation=name)
    params = random_params(module, X)
    x = dense(params["fc"], X)
    expected = dense(params["proj"], x * np.vectorize(PHI[name])(x))
    np.testing.assert_allclose(apply(module, params, X), expected, atol=2e-6)


OWN_HEAD = {"kernel": (C, V), "bias": (V,)}
FORMS = [
    ({}, OWN_HEAD, None),
    ({"tie_lm_head": True}, None, None),
    ({"lm_head_bias": False}, {"kernel": (C, V)}, None),
    ({"tie_lm_head": True, "qkv_bias": True}, None, (H, K)),  # GPT-2's, but for its GELU
]


@pytest.mark.parametrize("changes, lm_head, qkv_bias", FORMS)
def test_the_whole_model_is_its_formula(changes, lm_head, qkv_bias, random_params):
    changed = model(**changes)
    params = random_params(changed, TOKENS)
    shapes = jax.tree.map(np.shape, params)
    assert shapes.get("lm_head") == lm_head
    heads = shapes["blocks_0"]["sa"]["heads"]
    assert {heads[name].get("bias") for name in ("query", "key", "value")} == {qkv_bias}
    out = apply(changed, params, TOKENS)
    np.testing.assert_allclose(out, gpt(params, TOKENS), rtol=1e-4, atol=1e-5)


def test_vmapped_heads_are_single_heads_run_one_by_one(random_params):
    many, one = MultiHeadAttention(H, K, BLOCK), Head(K, BLOCK)
    params = random_params(many, X)
    outs = [
        apply(one, jax.tree.map(lambda leaf, h=h: leaf[h], params["heads"]), X) for h in range(H)
    ]
    expected = dense(params["proj"], np.concatenate(outs, axis=-1))
    np.testing.assert_allclose(apply(many, params, X), expected, rtol=1e-5, atol=1e-6)


# ---- attention's weights ----------------------------------------------------------------------


def revealed(head_size, length, seed=0):
    """A head whose values are the unit vectors of time: what it gives are its weights."""
    rng = np.random.default_rng(seed)
    x = np.concatenate(
        [rng.normal(size=(B, length, C)), np.tile(np.eye(length), (B, 1, 1))], axis=-1
    ).astype(np.float32)
    params = {n: rng.normal(0, 0.5, (C + length, head_size)) for n in ("query", "key", "value")}
    params["value"] = np.concatenate([np.zeros((C, head_size)), np.eye(length, head_size)])
    return {name: {"kernel": kernel.astype(np.float32)} for name, kernel in params.items()}, x


def test_each_token_deals_out_one_whole_among_itself_and_the_past():
    params, x = revealed(head_size=T + 2, length=T)
    wei_BxTxS = apply(Head(T + 2, BLOCK), params, x)[..., :T]
    np.testing.assert_allclose(wei_BxTxS.sum(-1), np.ones((B, T)), rtol=1e-6)
    np.testing.assert_array_equal(wei_BxTxS > 0, np.broadcast_to(np.tri(T) > 0, (B, T, T)))


def test_a_head_keeps_its_weights_only_when_asked():
    params, x = revealed(head_size=T + 2, length=T)
    head = Head(T + 2, BLOCK)
    assert isinstance(head.apply({"params": params}, x), jax.Array)
    out, kept = apply(head, params, x, mutable=["intermediates"])
    assert jax.tree.structure(kept) == jax.tree.structure({"intermediates": {"wei": (0,)}})
    np.testing.assert_array_equal(kept["intermediates"]["wei"][0], out[..., :T])


def test_every_head_of_every_block_keeps_its_weights_when_asked(random_params):
    ours = model(dropout=P)
    params = random_params(ours, TOKENS)
    _, kept = apply(ours, params, TOKENS, mutable=["intermediates"])
    assert set(kept) == {"intermediates"} and len(jax.tree.leaves(kept)) == N
    for n in range(N):
        (wei_HxBxTxS,) = kept["intermediates"][f"blocks_{n}"]["sa"]["heads"]["wei"]
        chex.assert_shape(wei_HxBxTxS, (H, B, T, T))
        np.testing.assert_allclose(wei_HxBxTxS.sum(-1), np.ones((H, B, T)), rtol=1e-6)
        past = np.broadcast_to(np.tri(T) > 0, (H, B, T, T))
        np.testing.assert_array_equal(wei_HxBxTxS > 0, past)


def test_training_does_not_know_that_weights_may_be_kept(monkeypatch):
    ours = model(dropout=P)

    def program():
        variables = jax.eval_shape(ours.init, jax.random.key(0), TOKENS)
        assert set(variables) == {"params"}

        def loss(params, key):
            logits = ours.apply({"params": params}, TOKENS, train=True, rngs={"dropout": key})
            return logits.sum()

        return str(jax.make_jaxpr(jax.grad(loss))(variables["params"], jax.random.key(0)))

    asked, with_it = [], program()
    monkeypatch.setattr(Head, "sow", lambda self, *args: asked.append(args[:2]))
    without = program()
    assert set(asked) == {("intermediates", "wei")}  # so that this test can fail
    assert with_it == without


def test_a_shorter_row_is_the_beginning_of_a_longer_one(random_params):
    ours, long = model(), np.random.default_rng(2).integers(0, V, (B, BLOCK))
    params = random_params(ours, long)
    whole, part = apply(ours, params, long), apply(ours, params, long[:, :T])
    np.testing.assert_allclose(part, whole[:, :T], rtol=1e-5, atol=1e-6)


def test_a_position_is_seen_from_itself_on(random_params):
    ours = model()
    params = random_params(ours, TOKENS)
    mixture_V = np.random.default_rng(2).normal(size=V)

    def mixed(table):
        logits = ours.apply({"params": params | {"position_embedding_table": table}}, TOKENS[:1])
        return logits[0] @ mixture_V

    jacobian = jax.jit(jax.jacrev(mixed))(params["position_embedding_table"])["embedding"]
    seen_TxBLOCK = np.abs(jacobian).max(-1) != 0
    np.testing.assert_array_equal(seen_TxBLOCK, np.tri(T, BLOCK) > 0)


# ---- dropout ----------------------------------------------------------------------------------


def near(share, expected, n):
    """Whether a share of n independent places is within five standard deviations."""
    return abs(share - expected) < 5 * math.sqrt(expected * (1 - expected) / n)


def test_dropout_in_a_head_falls_on_the_weights():
    length = 40
    params, x = revealed(length, length)
    plain = apply(Head(length, length), params, x)
    out = apply(Head(length, length, P), params, x, train=True, key=jax.random.key(0))
    kept = out != 0
    np.testing.assert_allclose(out[kept], (plain / (1 - P))[kept], rtol=1e-4)
    past = np.broadcast_to(np.tri(length) > 0, out.shape)
    assert near(np.mean(~kept[past]), P, past.sum())


def test_every_head_drops_weights_of_its_own(random_params):
    # One token a row gives itself the whole weight, and every value is 1: a head gives 1 / (1 - P)
    # or nothing. Each channel of the projection passes its own on, 9 higher.
    x = np.ones((1000, 1, C), np.float32)
    module = MultiHeadAttention(H, K, BLOCK, P)
    params = jax.tree.map(np.zeros_like, random_params(module, x))
    params["heads"]["value"]["kernel"] += 1 / C
    params["proj"] = {"kernel": np.eye(C, dtype=np.float32), "bias": np.full(C, 9, np.float32)}
    out = apply(module, params, x, train=True, key=jax.random.key(0))
    # Of a head's K channels the projection's dropout leaves at least one, nearly always.
    shown_BxH = np.asarray(out).reshape(-1, H, K).max(-1)
    dropped_BxH = np.isclose(shown_BxH, 9 / (1 - P))
    for h in range(H):
        assert near(dropped_BxH[:, h].mean(), P, len(x))
        together = dropped_BxH[:, h] & dropped_BxH[:, (h + 1) % H]
        assert near(together.mean(), P * P, len(x))


@pytest.mark.parametrize("module", [MultiHeadAttention(H, K, BLOCK, P), FeedForward(C, P)])
def test_dropout_after_a_projection_scales_what_is_left(module, random_params):
    # Kernels of 0 leave the bias alone: whatever came before, its dropout is not seen.
    x = np.zeros((B * 100, T, C), np.float32)
    params = jax.tree.map(np.zeros_like, random_params(module, x))
    params["proj"]["bias"] = np.arange(1, C + 1, dtype=np.float32)
    out = np.asarray(apply(module, params, x, train=True, key=jax.random.key(0)))
    kept = out != 0
    expected = np.broadcast_to(params["proj"]["bias"] / (1 - P), out.shape)
    np.testing.assert_allclose(out[kept], expected[kept], rtol=1e-6)
    assert near(np.mean(~kept), P, out.size)


def test_a_block_drops_at_the_three_sites_of_the_notes_and_nowhere_else():
    ours, sites = model(dropout=P), []

    def watch(call, args, kwargs, context):
        if isinstance(context.module, nn.Dropout):
            sites.append("/".join(context.module.path[:-1]))
            assert (context.module.rate, kwargs) == (P, {"deterministic": False})
        return call(*args, **kwargs)

    params = jax.eval_shape(ours.init, jax.random.key(0), TOKENS)
    run = functools.partial(ours.apply, train=True, rngs={"dropout": jax.random.key(0)})
    with nn.intercept_methods(watch):
        jax.eval_shape(run, params, TOKENS)
    parents = ("sa/heads", "sa", "ffwd")
    assert sorted(sites) == sorted(f"blocks_{n}/{parent}" for n in range(N) for parent in parents)


def test_the_key_alone_decides_what_is_dropped(random_params):
    ours = model(dropout=P)
    params = random_params(ours, TOKENS)
    run = jax.jit(
        lambda key: ours.apply({"params": params}, TOKENS, train=True, rngs={"dropout": key})
    )
    first, again, other = (run(jax.random.key(seed)) for seed in (1, 1, 2))
    chex.assert_trees_all_equal(first, again)
    assert np.abs(first - other).max() > 1e-2


# ---- how it starts ----------------------------------------------------------------------------


def test_it_starts_at_the_lectures_width():
    ours = GPTLanguageModel(101, 30, 40, 4, 1, scale_residual=True)
    params = jax.jit(ours.init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    residual = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        *_, module, name = (entry.key for entry in path)
        if name == "bias":
            assert not leaf.any()
        elif name == "scale":
            assert (leaf == 1).all()
        else:
            residual += module == "proj"
            std = 0.02 / math.sqrt(2) if module == "proj" else 0.02
            np.testing.assert_allclose(np.std(leaf), std, rtol=0.1)
            assert abs(np.mean(leaf)) < 5 * std / leaf.size**0.5
    assert residual == 2


def test_tying_saves_exactly_the_head():
    def count(tie):
        shapes = jax.eval_shape(model(tie_lm_head=tie).init, jax.random.key(0), TOKENS)
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    assert count(False) - count(True) == C * V + V


@pytest.mark.parametrize(
    "scale_residual, stds", [(False, {0.02}), (True, {0.02, 0.02 / math.sqrt(2 * N)})]
)
def test_residual_scaling_is_by_the_number_of_additions(scale_residual, stds, monkeypatch):
    seen, normal = set(), jax.nn.initializers.normal
    monkeypatch.setattr("flax.linen.initializers.normal", lambda std: seen.add(std) or normal(std))
    jax.eval_shape(model(scale_residual=scale_residual).init, jax.random.key(0), TOKENS)
    assert seen == stds
