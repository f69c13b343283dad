"""The update rule is AdamW as Loshchilov and Hutter write it, with the notes' settings."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gptjax import models
from gptjax.checkpoints import pytree
from gptjax.config.schema import ModelConfig, OptimConfig
from gptjax.training import optimizer

RNG = np.random.default_rng(0)
PARAMS = {
    "lm_head": {"kernel": RNG.normal(size=(3, 5)), "bias": RNG.normal(size=5)},
    "ln_f": {"scale": RNG.normal(size=3)},
    "token_embedding_table": {"embedding": RNG.normal(size=(7, 3))},
}
PARAMS = jax.tree.map(lambda p: p.astype(np.float32), PARAMS)


def random_grads(seed, size=1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: (size * rng.normal(size=p.shape)).astype(np.float32), PARAMS)


def after(config, grads, steps=100):
    """The parameters after one update per entry of ``grads``."""
    tx, rate = optimizer.build(config), optimizer.schedule(config, steps)

    @jax.jit
    def update(params, state, grads, rate):
        updates, state = tx.update(grads, state, params, learning_rate=rate)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, tx.init(PARAMS)
    for step, g in enumerate(grads):
        params, state = update(params, state, g, rate(step))
    return params


def norm(tree):
    return np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))


def close(ours, theirs, rtol=1e-5, atol=1e-7):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), ours, theirs)


# ---- what decays ------------------------------------------------------------------------------

BLOCK_DECAYS = {"sa/heads/key", "sa/heads/query", "sa/heads/value", "sa/proj", "ffwd/fc"}
BLOCK_DECAYS |= {"ffwd/proj"}
TABLES = {"token_embedding_table", "position_embedding_table"}
DECAYS = {
    "bigram": {"token_embedding_table"},
    "bigram_embed": TABLES | {"lm_head"},
    "mlp": {"token_embedding_table", "hidden_0", "hidden_1", "lm_head"},
    "gpt": TABLES | {"lm_head"} | {f"blocks_{n}/{name}" for n in (0, 1) for name in BLOCK_DECAYS},
}


@pytest.mark.parametrize("kind", DECAYS)
def test_kernels_and_embeddings_decay_and_nothing_else(kind):
    model = models.build(ModelConfig(kind, 8, n_layer=2, n_head=3, n_embd=12, n_hidden=5), 13)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    mask = optimizer.decay_mask(shapes)
    assert jax.tree.structure(mask) == jax.tree.structure(shapes)
    decays, stays = set(), set()
    for path, decayed in jax.tree_util.tree_leaves_with_path(mask):
        *module, name = (entry.key for entry in path)
        (decays if decayed else stays).add(("/".join(module), name))
    tables = {name for name in DECAYS[kind] if name in TABLES}
    assert decays == {(n, "embedding" if n in tables else "kernel") for n in DECAYS[kind]}
    assert {name for _, name in stays} <= {"bias", "scale"}


def test_weight_decay_is_times_the_rate_and_pulls_to_zero():
    config = OptimConfig(schedule="constant", learning_rate=0.1, weight_decay=0.25, clip_norm=0.0)
    params = after(config, [jax.tree.map(np.zeros_like, PARAMS)] * 2)
    kept = (1 - 0.1 * 0.25) ** 2
    np.testing.assert_allclose(
        params["lm_head"]["kernel"], kept * PARAMS["lm_head"]["kernel"], rtol=1e-6
    )
    table = PARAMS["token_embedding_table"]["embedding"]
    np.testing.assert_allclose(
        params["token_embedding_table"]["embedding"], kept * table, rtol=1e-6
    )
    np.testing.assert_array_equal(params["lm_head"]["bias"], PARAMS["lm_head"]["bias"])
    np.testing.assert_array_equal(params["ln_f"]["scale"], PARAMS["ln_f"]["scale"])


# ---- the rate ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, expected",
    [
        # Warm-up 10 of 110 steps: 1/11 of the peak, the peak, half-way down, the end and after.
        (
            {"warmup_steps": 10, "schedule": "cosine"},
            {0: 2 / 11, 1: 2 * 2 / 11, 9: 2 * 10 / 11, 10: 2, 60: 1.1, 110: 0.2, 500: 0.2},
        ),
        ({"warmup_steps": 10, "schedule": "constant"}, {0: 2 / 11, 10: 2, 60: 2, 110: 2}),
        ({"schedule": "cosine"}, {0: 2, 55: 1.1, 110: 0.2}),
        ({"schedule": "cosine", "final_fraction": 0.0}, {0: 2, 55: 1, 110: 0}),
        ({"schedule": "constant"}, {0: 2, 110: 2}),
        # A quarter of the way the half cosine has come down by (1 - cos(pi / 4)) / 2.
        ({"schedule": "cosine", "final_fraction": 0.5}, {27.5: 2 - (1 - 0.5**0.5) / 2, 110: 1}),
        ({"warmup_steps": 200, "schedule": "cosine"}, {0: 2 / 201, 109: 2 * 110 / 201}),
        ({"schedule": "step"}, {0: 2, 54: 2, 55: 0.2, 110: 0.2}),
        (
            {"schedule": "step", "warmup_steps": 10, "final_fraction": 0.25},
            {0: 2 / 11, 10: 2, 54: 2, 55: 0.5, 110: 0.5},
        ),
    ],
)
def test_the_rate_of_each_step(changes, expected):
    rate = optimizer.schedule(OptimConfig(learning_rate=2.0, **changes), steps=110)
    np.testing.assert_allclose(
        [rate(step) for step in expected], list(expected.values()), rtol=1e-5, atol=1e-7
    )


def test_a_run_of_no_steps_has_a_rate():
    assert np.isfinite(optimizer.schedule(OptimConfig(), steps=0)(0))


# ---- one update -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "clip_norm, size, expected", [(1.5, 5.0, 1.5), (1.5, 0.7, 0.7), (0.0, 5.0, 5.0)]
)
def test_gradients_longer_than_the_limit_are_scaled_down_together(clip_norm, size, expected):
    grads = random_grads(1)
    grads = jax.tree.map(lambda g: g * (size / norm(grads)).astype(np.float32), grads)
    config = OptimConfig("sgd", schedule="constant", learning_rate=1.0, clip_norm=clip_norm)
    moved = jax.tree.map(lambda a, b: a - b, PARAMS, after(config, [grads]))
    np.testing.assert_allclose(norm(moved), expected, rtol=1e-5)
    close(moved, jax.tree.map(lambda g: g * expected / size, grads), rtol=1e-4, atol=1e-6)


def adamw_by_hand(config, all_grads, rates):
    params = jax.tree.map(np.float64, PARAMS)
    m = v = jax.tree.map(np.zeros_like, params)
    decays = {"kernel": 1, "embedding": 1, "bias": 0, "scale": 0}
    for t, (grads, rate) in enumerate(zip(all_grads, rates, strict=True), 1):
        shrink = min(1, config.clip_norm / norm(grads))
        grads = jax.tree.map(lambda g, shrink=shrink: g * shrink, grads)
        m = jax.tree.map(lambda m, g: config.beta1 * m + (1 - config.beta1) * g, m, grads)
        v = jax.tree.map(lambda v, g: config.beta2 * v + (1 - config.beta2) * g * g, v, grads)

        def step(path, p, m, v, t=t, rate=rate):
            m_hat, v_hat = m / (1 - config.beta1**t), v / (1 - config.beta2**t)
            decay = config.weight_decay * decays[path[-1].key] * p
            return p - rate * (m_hat / (np.sqrt(v_hat) + config.eps) + decay)

        params = jax.tree_util.tree_map_with_path(step, params, m, v)
    return params


def test_adamw_is_the_papers():
    config = OptimConfig(
        learning_rate=0.01, warmup_steps=2, beta1=0.8, beta2=0.97, eps=1e-3, weight_decay=0.3
    )
    grads = [random_grads(seed, size) for seed, size in ((1, 0.01), (2, 2.0), (3, 0.1))]
    rates = [0.01 / 3, 0.02 / 3, 0.01]
    close(after(config, grads[:1]), adamw_by_hand(config, grads[:1], rates[:1]))
    close(after(config, grads), adamw_by_hand(config, grads, rates))


def test_sgd_has_no_memory_and_no_decay():
    config = OptimConfig(
        "sgd", schedule="constant", learning_rate=0.5, clip_norm=0.0, weight_decay=0.3
    )
    grads = [random_grads(1), random_grads(2)]
    expected = jax.tree.map(lambda p, a, b: p - 0.5 * (a + b), PARAMS, *grads)
    close(after(config, grads), expected, atol=1e-6)


def test_the_decay_is_pytorchs_not_optaxs():
    assert OptimConfig().weight_decay == 0.01
    assert {f.name for f in dataclasses.fields(OptimConfig)} >= {"beta1", "beta2", "eps"}


# ---- as optax has it --------------------------------------------------------------------------


def optax_own(config, steps):
    """The chain that optax makes of these settings, the schedule compiled into it."""
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    rate = optimizer.schedule(config, steps)
    if config.name == "sgd":
        return optax.chain(*clip, optax.sgd(rate))
    betas = {"b1": config.beta1, "b2": config.beta2, "eps": config.eps}
    decay = {"weight_decay": config.weight_decay, "mask": optimizer.decay_mask}
    return optax.chain(*clip, optax.adamw(rate, **betas, **decay))


KINDS = pytest.mark.parametrize(
    "config",
    [
        OptimConfig(learning_rate=0.01, warmup_steps=2),
        OptimConfig(clip_norm=0.0, weight_decay=0.0),
        OptimConfig("sgd", clip_norm=0.5, schedule="step"),
        OptimConfig("sgd", clip_norm=0.0),
    ],
    ids=["adamw", "adamw, no clipping", "sgd", "sgd, no clipping"],
)


@KINDS
def test_its_state_is_the_tree_that_optaxs_own_chain_saves(config):
    ours, theirs = (
        pytree.flat(jax.eval_shape(tx.init, PARAMS))
        for tx in (optimizer.build(config), optax_own(config, 9))
    )
    assert list(ours) == list(theirs) and any(path.endswith("/count") for path in ours)
    for path, leaf in ours.items():
        assert (leaf.shape, leaf.dtype) == (theirs[path].shape, theirs[path].dtype), path


@KINDS
def test_its_updates_are_those_of_optaxs_own_chain(config):
    ours, theirs, rate = (
        optimizer.build(config),
        optax_own(config, 3),
        optimizer.schedule(config, 3),
    )
    state, their_state = ours.init(PARAMS), theirs.init(PARAMS)
    update, their_update = jax.jit(ours.update), jax.jit(theirs.update)
    for step in range(3):
        grads = random_grads(step)
        updates, state = update(grads, state, PARAMS, learning_rate=rate(step))
        their_updates, their_state = their_update(grads, their_state, PARAMS)
        close(updates, their_updates, rtol=1e-6, atol=0)
        close(pytree.flat(state), pytree.flat(their_state), rtol=1e-6)
    counts = [leaf for path, leaf in pytree.flat(state).items() if path.endswith("/count")]
    assert {int(count) for count in counts} == {3}


def test_the_rate_is_handed_in_and_compiled_once():
    config = OptimConfig("sgd", clip_norm=0.0)
    tx, grads = optimizer.build(config), random_grads(1)
    update = jax.jit(functools.partial(tx.update, grads, tx.init(PARAMS), PARAMS))
    for rate in (0.5, 2.0):
        updates, _ = update(learning_rate=np.float32(rate))
        close(updates, jax.tree.map(lambda g, rate=rate: -rate * g, grads), rtol=1e-6)
    assert update._cache_size() == 1
    with pytest.raises(TypeError, match="learning_rate"):
        tx.update(grads, tx.init(PARAMS), PARAMS)
