"""The notes' GPT lowers for TPUs and GPUs: nothing it does is possible on a CPU alone.

Lowering needs shapes only: no parameter is made and no accelerator is there.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from gptjax import models
from gptjax.config import files
from gptjax.config.parse import from_dict
from gptjax.data.batching import Batch
from gptjax.evaluation import loss_eval
from gptjax.generation import decode
from gptjax.generation.generate import generate
from gptjax.generation.sampling import Chain, MinP, RepetitionPenalty, Temperature, TopK, TopP
from gptjax.models.fast.gpt_cached import CachedGPT
from gptjax.runtime.mesh_rules import Placement, make_mesh
from gptjax.training import optimizer
from gptjax.training.experiment import Experiment
from gptjax.training.train_step import init_state

V, B, K = 65, 2, 3  # the lecture's vocabulary; rows and steps do not change what is lowered
PLATFORMS = ("tpu", "cuda")
shape = jax.ShapeDtypeStruct
INT = shape((), jnp.int32)


@pytest.fixture(scope="module")
def lecture():
    """The lecture's model and update rule as an experiment, the shapes of its state, a key's."""
    config = from_dict(files.load("configs/gpt.py:lecture"))
    model, tx = models.build(config.model, V), optimizer.build(config.optim)
    place = Placement(make_mesh(devices=jax.devices()[:1]))
    exp = Experiment(config, None, None, model, tx, {}, place, loss_eval.Evaluator(model, B, K))
    state = jax.eval_shape(functools.partial(init_state, model, tx, 0))
    n_params = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert n_params == 10_788_929 and config.model.dropout == 0.2
    return exp, state, jax.eval_shape(lambda: jax.random.key(0))


def batch(*leading):
    places = (*leading, B, 256)
    ids = shape(places, jnp.int32)
    return Batch(ids, ids, shape(places, jnp.float32))


def lowered(function, *shapes, platforms=PLATFORMS):
    exported = export.export(function, platforms=platforms)(*shapes)
    assert exported.platforms == platforms
    return exported


def test_training_and_evaluation_lower_for_accelerators(lecture):
    exp, state, key = lecture
    exported = lowered(exp.train_chunk, state, batch(K, 1), shape((K,), jnp.float32), INT, key)
    after, seen = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    assert jax.tree.map(lambda a: a.shape, after) == jax.tree.map(lambda a: a.shape, state)
    assert seen.loss_nats.shape == (K,)
    forward = (loss_eval.forward, exp.model, loss_eval.row_sums, state.params, batch(K))
    (nats,) = lowered(*forward).out_avals
    assert nats.shape == (K, B)


def test_generation_lowers_for_accelerators(lecture):
    exp, state, _ = lecture
    prompts = [np.zeros(300, np.int32), np.zeros(7, np.int32)]  # one longer than the block
    keys_B = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), len(prompts)))
    model, params = (
        CachedGPT.of(exp.model),
        jax.eval_shape(CachedGPT.of(exp.model).prepare, state.params),
    )

    def start(params, keys_B):
        return decode.start(model, params, prompts, keys_B)

    read = lowered(jax.jit(start), params, keys_B)
    rows = jax.eval_shape(start, params, keys_B)
    assert [aval.shape for aval in read.out_avals] == [a.shape for a in jax.tree.leaves(rows)]
    rules = (RepetitionPenalty, Temperature, TopK, TopP, MinP)
    sampler = Chain(tuple(rule(shape((), jnp.float32)) for rule in rules))
    # The programs that advance() chooses between.
    for source in ("cache", "both", "window"):
        drawn = lowered(decode._draw_tokens, model, source, params, rows, sampler, INT, INT)
        assert [aval.shape for aval in drawn.out_avals] == [a.shape for a in jax.tree.leaves(rows)]
    lowered(decode._refill, model, params, rows)
    lowered(decode._keep_end, model.block_size + 1, rows)


def test_the_notes_generate_lowers_for_accelerators(lecture):
    exp, state, _ = lecture
    keys_B = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), B))
    idx = shape((B, 3), jnp.int32)
    (made,) = lowered(
        jax.jit(generate, static_argnums=(0, 3)), exp.model, state.params, idx, 100, keys_B
    ).out_avals
    assert made.shape == (B, 103)


@pytest.mark.parametrize(
    "how",
    [
        {"compute_dtype": "bfloat16", "storage_dtype": "bfloat16", "attention": "blocks"},
        {"compute_dtype": "bfloat16", "attention": "plain"},
        {"attention": "fused", "dropout": 0.0},
        {"attention": "blocks", "remat": True, "scan_layers": True, "pad_vocab": 128},
    ],
    ids=str,
)
def test_every_way_to_compute_a_gpt_lowers_for_accelerators(lecture, how):
    exp, state, key = lecture
    config = dataclasses.replace(exp.config, model=dataclasses.replace(exp.config.model, **how))
    model = models.build(config.model, V)
    other = dataclasses.replace(exp, config=config, model=model)
    chunk = (other.train_chunk, state, batch(K, 1), shape((K,), jnp.float32), INT, key)
    # A TPU's own kernel cannot be in one program with what a GPU runs.
    for platform in PLATFORMS:
        lowered(*chunk, platforms=(platform,))
        forward = (loss_eval.forward, model, loss_eval.row_sums, state.params, batch(K))
        lowered(*forward, platforms=(platform,))
    twin, params = CachedGPT.of(model), jax.eval_shape(CachedGPT.of(model).prepare, state.params)
    cache = jax.eval_shape(lambda: twin.empty_cache(B))
    read = jax.jit(lambda params, x, cache: twin.apply({"params": params}, x, cache, method="read"))
    lowered(read, params, shape((B, 1), jnp.int32), cache)
