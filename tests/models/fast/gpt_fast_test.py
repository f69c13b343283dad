"""The quick GPT is the plain one: parameters, logits, gradients, causality; its dropout is one."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.models.fast import block_attention
from gptjax.models.fast.gpt_fast import FastGPT, FusedGPT
from gptjax.models.gpt import GPTLanguageModel, Head
from gptjax.models.loss import cross_entropy
from gptjax.models.precision import Precision

B, V, BLOCK, C, H, N = 3, 29, 150, 32, 4, 2  # K = 8; 150 is several blocks, the last a short one
HALF = Precision("bfloat16")
WAYS = [
    {},
    {"remat": True},
    {"scan_layers": True},
    {"remat": True, "scan_layers": True, "pad_vocab": 16},
    {"pad_vocab": 128, "tie_lm_head": True},
    {"activation": "gelu", "scale_residual": True},
    {"activation": "gelu_tanh", "qkv_bias": True, "lm_head_bias": False, "pad_vocab": 32},
]
TOKENS = np.random.default_rng(0).integers(0, V, (B, BLOCK + 1)).astype(np.int32)


def model(cls=GPTLanguageModel, **changes):
    return cls(V, BLOCK, C, H, N, **changes)


def of_base(changes):
    """The settings that the plain model has too."""
    return {n: v for n, v in changes.items() if n not in ("remat", "scan_layers", "pad_vocab")}


def nats(model, params, x, y, key=None):
    rngs = {"dropout": key} if key is not None else {}
    logits = model.apply({"params": params}, x, key is not None, rngs=rngs)
    total, count = cross_entropy(logits, y, jnp.ones(y.shape))
    return total / count


def logits_and_grads(model, params, length=BLOCK):
    x, y = TOKENS[:, :length], TOKENS[:, 1 : length + 1]
    grads = jax.jit(jax.grad(nats, 1), static_argnums=0)(model, params, x, y)
    return jax.jit(model.apply)({"params": params}, x), grads


def cosine(a, b):
    a, b = np.ravel(a).astype(np.float64), np.ravel(b).astype(np.float64)
    return a @ b / np.sqrt((a @ a) * (b @ b))


@pytest.mark.parametrize("changes", WAYS, ids=str)
@pytest.mark.parametrize("cls", [FastGPT, FusedGPT], ids=lambda cls: cls.__name__)
def test_logits_and_gradients_are_those_of_the_plain_model(cls, changes, random_params):
    plain = model(**of_base(changes))
    params = random_params(plain, TOKENS[:, :BLOCK])
    want, want_grads = logits_and_grads(plain, params)
    found, grads = logits_and_grads(model(cls, **changes), params)
    assert found.shape == (B, BLOCK, V)
    np.testing.assert_allclose(found, want, atol=2e-5 * np.abs(want).max())
    chex.assert_trees_all_close(grads, want_grads, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("length", [1, 2, 63, 127, 128, 129], ids=str)
def test_any_length_up_to_the_block_is_the_plain_models(length, random_params):
    params = random_params(model(), TOKENS[:, :BLOCK])
    want, want_grads = logits_and_grads(model(), params, length)
    found, grads = logits_and_grads(model(FastGPT), params, length)
    np.testing.assert_allclose(found, want, atol=2e-5 * np.abs(want).max())
    chex.assert_trees_all_close(grads, want_grads, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("cls", [GPTLanguageModel, FastGPT, FusedGPT], ids=lambda c: c.__name__)
@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
def test_in_bfloat16_gradients_point_where_those_of_float32_do(cls, storage, random_params):
    params = random_params(model(), TOKENS[:, :BLOCK])
    want, want_grads = logits_and_grads(model(), params)
    found, grads = logits_and_grads(model(cls, precision=Precision("bfloat16", storage)), params)
    np.testing.assert_allclose(found.astype(jnp.float32), want, atol=0.05 * np.abs(want).max())
    for (path, a), b in zip(
        jax.tree.leaves_with_path(grads), jax.tree.leaves(want_grads), strict=True
    ):
        assert a.dtype == b.dtype == jnp.float32
        assert cosine(a, b) > 0.99, jax.tree_util.keystr(path)


@pytest.mark.parametrize("changes", WAYS, ids=str)
def test_init_gives_the_parameters_of_the_plain_model_to_the_bit(changes):
    x, key = TOKENS[:1, :1], jax.random.key(3)
    plain = model(**of_base(changes)).init(key, x)
    chex.assert_trees_all_equal(model(FastGPT, **changes).init(key, x), plain)


@pytest.mark.parametrize("precision", [Precision(), HALF], ids=str)
def test_no_logit_depends_on_a_later_token(precision, random_params):
    params = random_params(model(), TOKENS[:, :BLOCK])
    fast = model(FastGPT, precision=precision)

    def at(embedded, t):
        return fast.apply({"params": params}, embedded, method=after_embedding)[0, t].sum()

    def after_embedding(self, x):
        for block in self.blocks:
            x = block(x)
        return self.logits(x)

    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, BLOCK, C)), jnp.float32)
    for t in (0, 63, 64, 100, BLOCK - 1):
        seen = np.abs(jax.jit(jax.grad(at))(x, t)[0]).sum(axis=1) > 0
        assert seen[: t + 1].all() and not seen[t + 1 :].any()


@pytest.mark.parametrize("tied", [False, True])
def test_while_training_the_padding_is_minus_infinity_and_the_loss_does_not_see_it(
    tied, random_params
):
    plain, fast = model(tie_lm_head=tied), model(FastGPT, tie_lm_head=tied, pad_vocab=16)
    params, x, y = random_params(plain, TOKENS[:, :9]), TOKENS[:, :9], TOKENS[:, 1:10]
    key = jax.random.key(0)  # of a dropout of nothing
    logits = fast.apply({"params": params}, x, train=True)
    assert logits.shape == (B, 9, 32) and np.all(logits[..., V:] == -np.inf)
    np.testing.assert_allclose(logits[..., :V], plain.apply({"params": params}, x), atol=1e-4)
    want, found = (jax.grad(nats, 1)(m, params, x, y, key) for m in (plain, fast))
    chex.assert_trees_all_close(found, want, atol=1e-6, rtol=1e-3)


# ---- dropout ----------------------------------------------------------------------------------


def test_dropout_keeps_its_share_and_keys_and_places_are_independent():
    place = jnp.arange(1_000_000, dtype=jnp.uint32)
    words = [jax.random.key_data(jax.random.fold_in(jax.random.key(0), i)) for i in range(4)]
    kept = np.stack([block_attention.keeps(word, 0.2, place) for word in words]).astype(float)
    # Of a million the share is within 0.002 of what is asked for, five standard errors.
    np.testing.assert_allclose(kept.mean(axis=1), 0.8, atol=0.002)
    apart = np.corrcoef(np.concatenate([kept, np.roll(kept, 1, axis=1), np.roll(kept, 64, axis=1)]))
    assert np.abs(apart - np.eye(12)).max() < 0.006


@pytest.mark.parametrize("changes", [{}, {"scan_layers": True, "remat": True}], ids=str)
def test_dropout_is_decided_by_its_key_and_is_off_without_train(changes, random_params):
    params = random_params(model(), TOKENS[:, :BLOCK])
    fast, x, y = model(FastGPT, dropout=0.3, **changes), TOKENS[:, :-1], TOKENS[:, 1:]
    one, same, other = (
        jax.jit(nats, static_argnums=0)(fast, params, x, y, jax.random.key(k)) for k in (1, 1, 2)
    )
    assert one == same != other
    assert jnp.isclose(nats(fast, params, x, y), nats(model(), params, x, y), rtol=1e-6)


def test_the_backward_pass_drops_what_the_forward_pass_dropped():
    G, T, K, rate = 2, 150, 8, 0.4
    q, k, v, g = (
        jnp.asarray(np.random.default_rng(i).normal(size=(G, T, K)), jnp.float32) for i in range(4)
    )
    key, number_G = jax.random.key_data(jax.random.key(5)), jnp.arange(G, dtype=jnp.uint32)

    def plain(q, k, v):
        """Head's lines, with the same places dropped."""
        scores = jnp.where(np.tril(np.ones((T, T), bool)), q @ k.swapaxes(1, 2) * K**-0.5, -jnp.inf)
        wei = jax.nn.softmax(scores)
        place = jnp.arange(wei.size, dtype=jnp.uint32).reshape(wei.shape)
        return block_attention.drop(wei, rate, key, place) @ v

    want, pull = jax.vjp(plain, q, k, v)
    found, fast_pull = jax.vjp(
        lambda *heads: block_attention.attend(Precision(), rate, *heads, key, number_G), q, k, v
    )
    np.testing.assert_allclose(found, want, atol=1e-5)
    chex.assert_trees_all_close(fast_pull(g), pull(g), atol=2e-5)


def test_fused_attention_refuses_to_drop_out_weights():
    fused = model(FusedGPT, dropout=0.1)
    params = model().init(jax.random.key(0), TOKENS[:1, :1])["params"]
    with pytest.raises(ValueError, match="cannot drop out attention weights"):
        nats(fused, params, TOKENS[:, :-1], TOKENS[:, 1:], jax.random.key(0))


def test_blocks_cover_every_place_once_and_the_head_of_the_notes_is_the_oracle(random_params):
    for T in (1, 127, 128, 150, 1024, 2047):
        ends = block_attention.blocks(Precision(), T)
        assert [begin for begin, _ in ends[1:]] == [end for _, end in ends[:-1]]
        assert ends[0][0] == 0 and ends[-1][1] == T
    head = Head(8, BLOCK)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(B, BLOCK, C)), jnp.float32)
    params = random_params(head, x)
    q, k, v = (x @ params[name]["kernel"] for name in ("query", "key", "value"))
    number_B = jnp.arange(B, dtype=jnp.uint32)
    found = block_attention.attend(Precision(), 0.0, q, k, v, jnp.zeros(2, jnp.uint32), number_B)
    np.testing.assert_allclose(found, head.apply({"params": params}, x), atol=1e-5)
