"""Tiny models, batches and states for the tests of one training step and of many in one loop."""

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.config.schema import OptimConfig
from gptjax.data.batching import Batch
from gptjax.models.bigram import BigramLanguageModel
from gptjax.models.gpt import GPTLanguageModel
from gptjax.models.mlp import MLPLanguageModel
from gptjax.training import optimizer
from gptjax.training.train_step import TrainState

K, B, T, V = 5, 6, 7, 11  # steps of a chunk, rows, time, vocabulary
TABLE = BigramLanguageModel(V)
MLP = MLPLanguageModel(V, block_size=2, n_embd=3, n_hidden=4)
GPT = GPTLanguageModel(V, block_size=8, n_embd=9, n_head=3, n_layer=1, dropout=0.25)
CONFIG = OptimConfig(learning_rate=0.01, warmup_steps=2)
ADAMW = optimizer.build(CONFIG)
SGD = optimizer.build(OptimConfig("sgd", clip_norm=0.0))
RATE = np.float32(0.5)
RATES = np.array([optimizer.schedule(CONFIG, K)(k) for k in range(K)], np.float32)


def random_batches(accumulate=1, n=K, seed=0):
    """Batches (n, A, B / A, T) whose rows count 1 to T places, so no two parts count the same."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, V, (2, n, B, T)).astype(np.int32)
    w = (np.arange(T) < np.resize([1, 7, 3, 6, 2, 4], (n, B))[..., None]).astype(np.float32)
    return Batch(*(a.reshape(n, accumulate, -1, T) for a in (x, y, w)))


def one_batch():
    """The first of ``random_batches``, whole: (B, T)."""
    return Batch(*(a[0, 0] for a in random_batches()))


def fresh(random_params, model, tx, step=0):
    """A state at ``step`` with random parameters."""
    params = jax.tree.map(jnp.asarray, random_params(model, np.zeros((1, 1), np.int32)))
    zero = jnp.zeros((), jnp.int32)
    return TrainState(step=zero + step, params=params, opt_state=tx.init(params), skipped=zero + 0)
