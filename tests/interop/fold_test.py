"""The head's bias in ln_f and the kernel: the same logits for all that a LayerNorm can give."""

import numpy as np
import pytest

from gptjax.interop.fold import fold

C, V, N = 19, 31, 50


def make(seed, g=None):
    rng = np.random.default_rng(seed)
    sizes = {"g": (C,), "b": (C,), "W": (C, V), "c": (V,)}
    made = {name: rng.normal(0, 1, size).astype(np.float32) for name, size in sizes.items()}
    return made | ({} if g is None else {"g": np.asarray(g, np.float32)})


def normalised(n_channels):
    """What LayerNorm multiplies by its scale, in float32."""
    x = np.random.default_rng(7).normal(0, 3, (N, n_channels)).astype(np.float32)
    centred = x - x.mean(1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(1, keepdims=True) + np.float32(1e-5))


def difference(g, b, W, c):
    """The largest between logits before and after, beside the largest logit."""
    b_new, W_new = fold(g, b, W, c)
    assert (b_new.dtype, W_new.dtype, W_new.shape) == (np.float32, np.float32, W.shape)
    x = normalised(len(g))
    before, after = (x * g + b) @ W + c, (x * g + b_new) @ W_new
    return np.abs(before - after).max() / np.abs(before).max()


@pytest.mark.parametrize("seed", range(5))
def test_logits_stay_in_float32(seed):
    assert difference(**make(seed)) < 3e-6


FRESH = np.ones(C)
ONE_ZERO, ZEROS, TINY, HUGE, BELOW = (FRESH.copy() for _ in range(5))
ONE_ZERO[4], ZEROS[2:9], TINY[[3, 5]], HUGE[6], BELOW[1] = 0, 0, 1e-12, 1e6, -1e-3


@pytest.mark.parametrize("g", [FRESH, ONE_ZERO, ZEROS, 0 * FRESH, TINY, HUGE, BELOW, -FRESH])
def test_scales_that_are_0_or_nearly_lose_nothing(g):
    assert difference(**make(3, g)) < 3e-6


def test_what_it_adds_is_no_larger_than_the_bias_asks_for():
    made = make(5, FRESH)
    b, W = fold(**{"g_C": made["g"], "b_C": made["b"], "W_CxV": made["W"], "c_V": made["c"]})
    assert np.abs(b).max() < 10 and np.abs(W).max() < 10


def test_a_bias_of_zeros_changes_no_bit():
    made = make(2)
    b, W = fold(made["g"], made["b"], made["W"], np.zeros(V, np.float32))
    assert b is made["b"] and W is made["W"]


def test_one_channel_is_always_the_bias_alone():
    g, b, W = (np.full(shape, 2.0, np.float32) for shape in ((1,), (1,), (1, V)))
    assert difference(g, b, W, np.arange(V, dtype=np.float32)) < 1e-6
