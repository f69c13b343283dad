"""The product in bfloat16: sums in float32, gradients near those of float32, whatever the axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gptjax.models.precision import Precision

M, C, F = 22, 48, 80  # rows, channels, features; 22 is divisible by 2 alone
HALF = Precision("bfloat16")


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def layer(precision):
    return nn.Dense(F, dot_general=precision.dense)


def cosine(a, b):
    a, b = np.ravel(a).astype(np.float64), np.ravel(b).astype(np.float64)
    return a @ b / np.sqrt((a @ a) * (b @ b))


def test_in_float32_it_is_the_plain_product_to_the_bit():
    x, params = normal(2, M, C), {"params": {"kernel": normal(C, F, seed=1), "bias": normal(F)}}
    np.testing.assert_array_equal(layer(Precision()).apply(params, x), nn.Dense(F).apply(params, x))
    np.testing.assert_array_equal(Precision().matmul(x, normal(C, F)), x @ normal(C, F))


@pytest.mark.parametrize("rows", [1, 7, 22, 64], ids=str)
def test_inputs_are_rounded_and_sums_are_not(rows):
    x, kernel = normal(rows, C), normal(C, F, seed=1)
    rounded = (a.astype(jnp.bfloat16).astype(jnp.float32) for a in (x, kernel))
    found = layer(HALF).apply({"params": {"kernel": kernel, "bias": jnp.zeros(F)}}, x)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.matmul(*rounded), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 7, 22, 64], ids=str)
@pytest.mark.parametrize("precision", [HALF, Precision("bfloat16", "bfloat16")], ids=str)
def test_gradients_point_where_those_of_float32_do(rows, precision):
    x, params = normal(3, rows, C), {"kernel": normal(C, F, seed=1), "bias": normal(F, seed=2)}
    g = normal(3, rows, F, seed=3)

    def loss(precision, x, params):
        return jnp.sum(layer(precision).apply({"params": params}, x) * g)

    want = jax.grad(loss, (1, 2))(Precision(), x, params)
    found = jax.jit(jax.grad(loss, (1, 2)), static_argnums=0)(precision, x, params)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype and cosine(a, b) > 0.9999


def test_a_product_of_heads_has_the_gradients_of_both_sides():
    a, b, g = normal(2, 5, 11, 7), normal(2, 5, 7, 13, seed=1), normal(2, 5, 11, 13, seed=2)
    found, pull = jax.vjp(HALF.matmul, a, b)
    want, plain = jax.vjp(jnp.matmul, a, b)
    np.testing.assert_allclose(found, want, atol=0.1)
    for one, other in zip(pull(g), plain(g), strict=True):
        assert one.shape == other.shape and cosine(one, other) > 0.9999


def test_what_is_stored_has_the_dtype_of_storage_and_float32_weights_keep_theirs():
    stored = Precision("bfloat16", "bfloat16")
    x, kernel = normal(M, C).astype(jnp.bfloat16), normal(C, F)
    out, pull = jax.vjp(lambda x, w: stored.dense(x, w), x, kernel)
    dx, dw = pull(jnp.ones((M, F), jnp.bfloat16))
    assert (out.dtype, dx.dtype, dw.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)


def test_the_weight_gradient_is_one_product_on_any_platform():
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((64, C), (C, F))]

    def loss(x, w):
        return HALF.dense(x, w).sum()

    for platform in ("tpu", "cuda", "cpu"):
        lowered = jax.jit(jax.grad(loss, 1)).trace(*shapes).lower(lowering_platforms=(platform,))
        assert lowered.as_text().count("dot_general") == 1
