"""The notes' GPT lowers for TPUs and GPUs: nothing it does is possible on a CPU alone.

Lowering needs shapes only: no parameter is made and no accelerator is there.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from gptjax import models
from gptjax.config import files as config_file
from gptjax.config import parse as config
from gptjax.data.batching import Batch
from gptjax.generation import decode as decoding
from gptjax.generation.sampling import Chain, MinP, RepetitionPenalty, Temperature, TopK, TopP
from gptjax.runtime import sharding
from gptjax.training import optimizer
from gptjax.training import scan as steps

V, B, K = 65, 2, 3  # the lecture's vocabulary; rows and steps do not change what is lowered
PLATFORMS = ("tpu", "cuda")
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


def test_generation_lowers_for_accelerators(lecture):
    model, _, state, key = lecture
    prompts = [np.zeros(300, np.int32), np.zeros(7, np.int32)]  # one longer than the block
    keys_B = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), len(prompts)))
    params = jax.eval_shape(decoding.turn, state.params)

    def start(params, keys_B):
        return decoding.start(model, params, prompts, 100, keys_B)

    read = lowered(jax.jit(start), params, keys_B)
    rows = jax.eval_shape(start, params, keys_B)
    assert [aval.shape for aval in read.out_avals] == [a.shape for a in jax.tree.leaves(rows)]
    rules = (RepetitionPenalty, Temperature, TopK, TopP, MinP)
    sampler = Chain(tuple(rule(shape((), jnp.float32)) for rule in rules))
    # The programs that advance() chooses between.
    for source in ("cache", "both", "window"):
        drawn = lowered(decoding._draw, model, source, params, rows, sampler, INT, INT)
        assert [aval.shape for aval in drawn.out_avals] == [a.shape for a in jax.tree.leaves(rows)]
    lowered(decoding._refill, model, params, rows)
