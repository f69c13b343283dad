"""The loss is a sum of nats and a count, in float32, whatever comes in."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from gptjax.models import loss as models_loss
from gptjax.models.loss import cross_entropy, token_nats

B, T, V = 3, 5, 7
loss = jax.jit(cross_entropy)


def example(seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(B, T, V)).astype(np.float32) * 3
    y = rng.integers(0, V, (B, T)).astype(np.int32)
    w = rng.integers(0, 2, (B, T)).astype(np.float32)
    return logits, y, w


def by_hand(logits, y, w):
    """Place by place, in float64."""
    logits, total = np.asarray(logits, np.float64), 0.0
    for b in range(y.shape[0]):
        for t in range(y.shape[1]):
            p = np.exp(logits[b, t]) / np.exp(logits[b, t]).sum()
            total += -np.log(p[y[b, t]]) * w[b, t]
    return total


def test_it_is_the_sum_over_the_counted_places_and_their_count():
    logits, y, w = example()
    nats, count = loss(logits, y, w)
    chex.assert_shape((nats, count), ())
    assert nats.dtype == count.dtype == jnp.float32
    np.testing.assert_allclose(nats, by_hand(logits, y, w), rtol=1e-6)
    assert 0 < w.sum() < B * T
    assert count == w.sum()


def test_parts_add_up_to_the_whole():
    logits, y, w = example()
    whole = loss(logits, y, w)
    parts = [loss(logits[b : b + 1], y[b : b + 1], w[b : b + 1]) for b in range(B)]
    np.testing.assert_allclose(whole, np.sum(parts, axis=0), rtol=1e-6)


def test_a_place_of_weight_zero_changes_nothing():
    logits, y, w = example()
    other_logits, other_y, _ = example(seed=1)
    mixed_logits = np.where(w[..., None] > 0, logits, other_logits)
    mixed_y = np.where(w > 0, y, other_y)
    chex.assert_trees_all_equal(loss(logits, y, w), loss(mixed_logits, mixed_y, w))


def test_the_gradient_is_the_probabilities_minus_what_came():
    logits, y, w = example()
    grad = jax.grad(lambda logits: loss(logits, y, w)[0])(jnp.asarray(logits))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(grad, w[..., None] * (p - np.eye(V)[y]), atol=1e-6)


def test_huge_scores_stay_finite():
    logits = jnp.array([[[1e4, -1e4, 0.0]]])
    nats, _ = loss(logits, jnp.array([[1]]), jnp.ones((1, 1)))
    np.testing.assert_allclose(nats, 2e4)
    nats, _ = loss(logits, jnp.array([[0]]), jnp.ones((1, 1)))
    assert nats == 0


def test_half_precision_scores_are_summed_in_float32():
    # The scores keep 8 bits; what is made of them must not lose more.
    logits, y, _ = example()
    for b in range(B):
        w = np.zeros((B, T), np.float32)
        w[b, b] = 1  # one place, so that no error is averaged away
        rounded = jnp.asarray(logits, jnp.bfloat16)
        nats, count = loss(rounded, y, jnp.asarray(w, jnp.bfloat16))
        assert nats.dtype == count.dtype == jnp.float32
        np.testing.assert_allclose(nats, by_hand(rounded, y, w), rtol=1e-5)


def test_the_nats_of_each_place_are_what_is_summed():
    logits, y, w = example()
    nats_BxT = token_nats(jnp.asarray(logits, jnp.bfloat16), y)
    chex.assert_shape(nats_BxT, (B, T))
    assert nats_BxT.dtype == jnp.float32
    for b in range(B):
        for t in range(T):
            one = np.s_[b : b + 1, t : t + 1]
            expected = by_hand(jnp.asarray(logits, jnp.bfloat16)[one], y[one], np.ones((1, 1)))
            np.testing.assert_allclose(nats_BxT[b, t], expected, rtol=1e-5)
    np.testing.assert_allclose(np.sum(token_nats(logits, y) * w), loss(logits, y, w)[0], rtol=1e-6)


def test_what_a_tpu_computes_is_the_same_and_columns_of_minus_infinity_are_nothing():
    logits, y, _ = example()
    padded = np.pad(logits, ((0, 0), (0, 0), (0, 4)), constant_values=-np.inf)

    def nats_and_slope(nats, logits):
        weight = np.arange(1, 1 + y.size, dtype=np.float32).reshape(y.shape)
        return nats(logits, y), jax.grad(lambda logits: (nats(logits, y) * weight).sum())(logits)

    want, slope = nats_and_slope(token_nats, logits)
    for nats in (models_loss._by_mask, token_nats):
        for given in (logits, padded):
            found, grad = nats_and_slope(nats, given)
            np.testing.assert_allclose(found, want, rtol=1e-6)
            np.testing.assert_allclose(grad[..., :V], slope, rtol=1e-4, atol=1e-5)
            assert not grad[..., V:].any() and grad.shape == given.shape
