"""The notes' GPT lowers for TPUs and GPUs: nothing it does is possible on a CPU alone.

Lowering needs shapes only: no parameter is made and no accelerator is there.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from gptjax import config, config_file, decoding, models, optimizer, sharding, steps
from gptjax.batches import Batch
from gptjax.samplers import Chain, MinP, RepetitionPenalty, Temperature, TopK, TopP

V, B, K = 65, 2, 3  # the lecture's vocabulary; rows and steps do not change what is lowered
PLATFORMS = ("tpu", "cuda")
RULES = (RepetitionPenalty, Temperature, TopK, TopP, MinP)
shape = jax.ShapeDtypeStruct
INT = shape((), jnp.int32)


@pytest.fixture(scope="module")
def lecture():
    """The lecture's model and update rule, the shapes of its state, and a key's."""
    cfg = config.from_dict(config_file.load("configs/gpt.py:lecture"))
    model = models.build(cfg.model, V)
    tx = optimizer.build(cfg.optim, cfg.train.steps)
    state = jax.eval_shape(functools.partial(steps.init_state, model, tx, 0))
    n_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert n_params == 10_788_929 and cfg.model.dropout == 0.2
    return model, tx, state, jax.eval_shape(lambda: jax.random.key(0))


def batch(*leading):
    places = (*leading, B, 256)
    ids = shape(places, jnp.int32)
    return Batch(ids, ids, shape(places, jnp.float32))


def lowered(function, *shapes):
    exported = export.export(function, platforms=PLATFORMS)(*shapes)
    assert exported.platforms == PLATFORMS
    return exported


def test_training_and_evaluation_lower_for_accelerators(lecture):
    model, tx, state, key = lecture
    place = sharding.replicated(sharding.make_mesh(jax.devices()[:1]))
    chunk, evaluate = steps.jitted(model, tx, 0, place)
    exported = lowered(chunk, state, batch(K, 1), INT, key)
    after, seen = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    assert jax.tree.map(lambda a: a.shape, after) == jax.tree.map(lambda a: a.shape, state)
    assert seen.loss_nats.shape == (K,)
    nats, count = lowered(evaluate, state.params, batch(K)).out_avals
    assert nats.shape == count.shape == (K,)


@pytest.mark.parametrize("window", decoding.WINDOWS)
def test_generation_lowers_for_accelerators(window, lecture):
    model, _, state, key = lecture
    prompts = [np.zeros(300, np.int32), np.zeros(7, np.int32)]  # one longer than the block
    keys_B = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), len(prompts)))
    rows = jax.eval_shape(lambda keys_B: decoding.start(model, prompts, 100, keys_B), keys_B)

    def run(params, rows, rules, n, end_id):
        sampler = Chain(tuple(rule(number) for rule, number in zip(RULES, rules, strict=True)))
        size = decoding.bucket(300)
        return decoding.advance(model, window, size, params, rows, sampler, n, end_id)

    rules = [shape((), jnp.float32)] * len(RULES)
    for end_id in (None, INT):
        exported = lowered(jax.jit(run), state.params, rows, rules, INT, end_id)
        after = jax.tree.unflatten(exported.out_tree, exported.out_avals)
        assert jax.tree.map(lambda a: a.shape, after) == jax.tree.map(lambda a: a.shape, rows)
