"""One step of learning, and the estimate of how far it has come: the notes' pages 7 and 8.

In: a model, an optax chain, a ``TrainState`` and a batch. Out: the next state, and what the step
saw. All of it is pure: the state goes in and comes back changed. What makes it quick and safe
(many steps in one loop, parts of a batch, bad steps) wraps it, in scan.py.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from gptjax.data.batching import Batch, get_batches
from gptjax.data.dataset import Split
from gptjax.evaluation.loss_eval import Evaluator
from gptjax.models.loss import cross_entropy, logits_of
from gptjax.runtime.pace import Busy
from gptjax.training.tuning import ALL, Tuning


@flax.struct.dataclass
class TrainState:
    """All that a run changes: the next step's number, parameters, optimizer memory, skips."""

    step: jax.Array
    params: Any
    opt_state: Any
    skipped: jax.Array


@flax.struct.dataclass
class StepMetrics:
    """What a step saw: mean loss in nats, norm of all gradients, whether both were finite."""

    loss_nats: jax.Array
    grad_norm: jax.Array
    finite: jax.Array


def init_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    seed: int,
    tuning: Tuning = ALL,
    params: Any = None,
) -> TrainState:
    """Fresh parameters (or those given) and optimizer memory at step 0; the seed decides them."""
    if params is None:
        params = model.init(jax.random.key(seed), jnp.zeros((1, 1), jnp.int32))["params"]
    params = tuning.begin(params, jax.random.fold_in(jax.random.key(seed), 3))
    opt_state = tx.init(tuning.split(params)[0])
    # Two zeros, not one twice: a buffer can be donated only once.
    step, skipped = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
    return TrainState(step=step, params=params, opt_state=opt_state, skipped=skipped)


def nats_of(model: nn.Module, params: Any, batch: Batch, dropout_key: jax.Array):
    """(Σ nats, count of places) of a batch (B, T), dropout on: what training makes smaller."""
    logits = logits_of(model, params, batch, train=True, dropout=dropout_key)
    return cross_entropy(logits, batch.y, batch.w)


def sum_and_grads(model: nn.Module, params: Any, batch: Batch, dropout_key: jax.Array):
    """((Σ nats, count of places), gradients of Σ nats) of a batch (B, T)."""
    nats = functools.partial(nats_of, model)
    return jax.value_and_grad(nats, has_aux=True)(params, batch, dropout_key)


def train_step(
    model: nn.Module,
    tx: optax.GradientTransformationExtraArgs,
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    learning_rate: jax.Array,
    sum_and_grads=sum_and_grads,
    guard=lambda finite, update, state: update(state),
) -> tuple[TrainState, StepMetrics]:
    """Page 7's loop body on a batch (B, T): loss, gradients, update.

    ``key`` is of the run's dropout: the step's number is folded in. ``sum_and_grads`` may be
    another way to the same sums, and ``guard`` may do without the update: see scan.py.
    """
    step_key = jax.random.fold_in(key, state.step)
    (nats, count), grads = sum_and_grads(model, state.params, batch, step_key)
    loss, grads = nats / count, jax.tree.map(lambda g: g / count, grads)
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

    def update(state: TrainState) -> TrainState:
        updates, opt_state = tx.update(
            grads, state.opt_state, state.params, learning_rate=learning_rate
        )
        params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state)

    return guard(finite, update, state), StepMetrics(loss, grad_norm, finite)


def estimate_loss(
    evaluator: Evaluator,
    params: Any,
    splits: Mapping[str, Split],
    eval_iters: int,
    seed: int,
    busy: Busy = None,
) -> dict[str, float]:
    """Page 8: the mean loss of ``eval_iters`` random batches of train and of val, dropout off.

    Nats per token. The batches are the same at every call: two estimates of one run differ by
    what was learnt between them. ``busy`` is told (done, total) after each part of them.
    """
    out, batch_size = {}, evaluator.batch_size
    for i, split in enumerate(("train", "val")):
        losses: list[float] = []

        def told(done, total, i=i, losses=losses):
            if busy:
                busy(i * eval_iters + len(losses) + done, 2 * eval_iters)

        while (k := len(losses)) < eval_iters:
            steps = range(k, min(k + evaluator.batches_of_a_call(splits[split]), eval_iters))
            batches = get_batches(splits[split], batch_size, seed, steps, f"eval_{split}")
            nats, count = evaluator.batch_sums(params, batches, told)
            losses += (nats / count).tolist()
        out[split] = float(np.mean(losses))
    return out
