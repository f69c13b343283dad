"""The notes' GPT lowers for TPUs and GPUs: nothing it does is possible on a CPU alone.

Lowering needs shapes only: no parameter is made and no accelerator is there.
"""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import export

from gptjax import config, config_file, generate, models, optimizer, sharding, steps
from gptjax.batches import Batch

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
    buffer_BxL = shape((B, 300), jnp.int32)
    temperature = shape((), jnp.float32)
    run = jax.jit(functools.partial(generate.generate, model))
    exported = lowered(run, state.params, buffer_BxL, INT, INT, key, temperature)
    assert exported.out_avals[0].shape == (B, 300)
