"""GPT-2's sizes have GPT-2's parameters, to the number."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import models
from gptjax.aot import programs, targets
from gptjax.config import files
from gptjax.config.parse import from_dict
from gptjax.data.batching import Batch
from gptjax.errors import UserError

V = 50_257
OPENAI = {"124m": 124_439_808, "350m": 354_823_168, "774m": 774_030_080, "1558m": 1_557_611_200}
DOC = files.find("gpt2").read_text(encoding="utf-8")


@pytest.mark.parametrize("size", OPENAI)
def test_a_size_has_its_parameters(size):
    config = from_dict(files.load(f"gpt2:{size}"))
    model, c = models.build(config.model, V), config.model
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    n_params = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert n_params == OPENAI[size] and f"{n_params:,}" in DOC
    assert config.train.batch_size * c.block_size == 524_288
    assert c.remat and c.scan_layers and c.compute_dtype == "bfloat16"


def test_a_size_that_there_is_not_is_refused():
    with pytest.raises(UserError, match="124m, 350m, 774m, 1558m"):
        files.load("gpt2:125m")


@pytest.mark.skipif(not os.environ.get("GPTJAX_SLOW"), reason="minutes: GPTJAX_SLOW=1 runs it")
def test_a_step_of_124m_learns():
    """On 8 rows of 128 tokens in two parts: the second loss on the same batch is lower."""
    settings = files.load("gpt2:124m").unlock()
    settings.train.update(batch_size=8, accumulate=2, window=128, chunk_steps=2)
    target = targets.find(targets.parse("cpu:1"))
    exp = programs.experiment_of(from_dict(settings), V, target)
    ids = np.random.default_rng(0).integers(0, V, (1, 2, 4, 129)).astype(np.int32)
    twice = np.concatenate([ids, ids])
    batches = Batch(twice[..., :-1], twice[..., 1:], np.ones((2, 2, 4, 128), np.float32))
    rates = jnp.full(2, 1e-3)
    state, seen = exp.train_chunk(exp.init_state(), batches, rates, 2, exp.dropout_key)
    first, second = np.asarray(seen.loss_nats)
    assert seen.finite.all() and int(state.step) == 2
    assert abs(first - np.log(V)) < 0.3 and second < first - 0.1
