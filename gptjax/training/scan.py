"""One step of learning, and many of them in one compiled loop.

In: a model, an optax chain, a ``TrainState`` and batches. Out: the next state, and what happened
in each step. All of it is pure: the state goes in, is given up (donated) and comes back changed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from gptjax.data.batching import Batch
from gptjax.errors import UserError
from gptjax.models.loss import cross_entropy


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long to learn, from how much at a time, and how often to look up."""

    steps: Annotated[int, "updates of the parameters; 0 evaluates the fresh model"] = 2000
    batch_size: Annotated[int, "rows of a step, over all devices and parts"] = 16
    accumulate: Annotated[int, "parts a batch is done in, to save memory; same result"] = 1
    window: Annotated[int, "predictions of a row; 0: model.block_size, or a whole item"] = 0
    neighbours: Annotated[int, "skip-gram: predict words up to this far on both sides; 0: next"] = 0
    eval_every: Annotated[int, "steps between evaluations; 0 means only at the end"] = 250
    eval_iters: Annotated[int, "random batches of each estimate of the loss"] = 20
    chunk_steps: Annotated[int, "most steps of one compiled loop"] = 100
    skip_nonfinite: Annotated[int, "bad steps to pass over; 0 stops at the first"] = 0

    def __post_init__(self):
        for name in ("steps", "window", "neighbours", "eval_every", "skip_nonfinite"):
            if getattr(self, name) < 0:
                raise UserError(f"train.{name}={getattr(self, name)} must not be negative")
        for name in ("batch_size", "accumulate", "eval_iters", "chunk_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"train.{name}={getattr(self, name)} must be at least 1")
        for name in ("batch_size", "window", "neighbours", "eval_iters", "chunk_steps"):
            if getattr(self, name) > 2**20:
                raise UserError(f"train.{name}={getattr(self, name)} must be at most {2**20:,}")
        if self.steps >= 2**31:  # they are counted in an int32
            raise UserError(f"train.steps={self.steps} must be at most {2**31 - 1:,}")


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


def init_state(model: nn.Module, tx: optax.GradientTransformation, seed: int) -> TrainState:
    """Fresh parameters and optimizer memory at step 0; the seed alone decides them."""
    params = model.init(jax.random.key(seed), jnp.zeros((1, 1), jnp.int32))["params"]
    # Two zeros, not one twice: a buffer can be donated only once.
    step, skipped = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
    return TrainState(step=step, params=params, opt_state=tx.init(params), skipped=skipped)


def loss_and_grads(
    model: nn.Module, params: Any, batch: Batch, dropout_key: jax.Array
) -> tuple[jax.Array, Any]:
    """The mean loss of a batch done in A parts, and its gradients.

    Args:
      model: any of the models.
      params: its parameters.
      batch: arrays (A, B / A, T); A = 1 is the plain case.
      dropout_key: of this step; each part folds its number in.

    Returns:
      The mean over all counted places, in nats, and its gradients. They are those of the whole
      batch: the parts add up sums, and the count divides once at the end.
    """

    def nats(params, part, key):
        logits = model.apply({"params": params}, part.x, train=True, rngs={"dropout": key})
        return cross_entropy(logits, part.y, part.w)

    def add(total, numbered):
        i, part = numbered
        key = jax.random.fold_in(dropout_key, i)
        return jax.tree.map(
            jnp.add, total, jax.value_and_grad(nats, has_aux=True)(params, part, key)
        ), None

    zero = ((jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, params))
    numbers = jnp.arange(batch.x.shape[0])
    ((loss_sum, count), grads), _ = jax.lax.scan(add, zero, (numbers, batch))
    return loss_sum / count, jax.tree.map(lambda g: g / count, grads)


def train_step(
    model: nn.Module,
    tx: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    skip_limit: int = 0,
) -> tuple[TrainState, StepMetrics]:
    """Page 7's loop body: loss, gradients, update.

    Args:
      model: any of the models.
      tx: the update rule.
      state: before the step.
      batch: arrays (A, B / A, T).
      key: of the run's dropout; the step's number is folded in.
      skip_limit: bad steps to pass over. A step whose loss or gradients are not finite changes
        no parameter; within the limit the run goes on to the next batch, past it the state stays
        as it is, step number included, and no later step of the chunk runs.

    Returns:
      The state after the step, and what the step saw.
    """
    step_key = jax.random.fold_in(key, state.step)
    loss, grads = loss_and_grads(model, state.params, batch, step_key)
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

    def update(state):
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state, state.skipped)

    def pass_over(state):
        allowed = (state.skipped < skip_limit).astype(jnp.int32)
        return state.replace(step=state.step + allowed, skipped=state.skipped + allowed)

    state = jax.lax.cond(finite, update, pass_over, state)
    return state, StepMetrics(loss, grad_norm, finite)


def train_chunk(
    model: nn.Module,
    tx: optax.GradientTransformation,
    skip_limit: int,
    state: TrainState,
    batches: Batch,
    n: jax.Array,
    key: jax.Array,
) -> tuple[TrainState, StepMetrics]:
    """Many steps in one ``lax.scan``: a third quicker on a CPU than a call per step.

    Args:
      model, tx, skip_limit: as for ``train_step``.
      state: before the chunk.
      batches: arrays (K, A, B / A, T), one entry per step.
      n: how many of the K entries to run. Whatever n, the compiled program is the same, so that
        a run may stop anywhere and continue to the same bits.
      key: of the run's dropout.

    Returns:
      The state after n steps (fewer when a bad step stopped it), and metrics of shape (K,), in
      which a step that did not run is not finite and has loss 0.
    """
    end = state.step + n

    def one(state, numbered):
        i, batch = numbered
        # A stopped state no longer advances: its number falls behind that of the entry.
        runs = (i < n) & (state.step == end - n + i)
        idle = StepMetrics(jnp.zeros(()), jnp.zeros(()), jnp.zeros((), bool))
        return jax.lax.cond(
            runs,
            lambda state: train_step(model, tx, state, batch, key, skip_limit),
            lambda state: (state, idle),
            state,
        )

    numbers = jnp.arange(batches.x.shape[0])
    return jax.lax.scan(one, state, (numbers, batches))


def eval_chunk(model: nn.Module, params: Any, batches: Batch) -> tuple[jax.Array, jax.Array]:
    """Loss of many batches with dropout off: sums of nats (K,) and counts (K,) for (K, B, T)."""

    def one(batch):
        logits = model.apply({"params": params}, batch.x, train=False)
        return cross_entropy(logits, batch.y, batch.w)

    return jax.lax.map(one, batches)


def jitted(model, tx, skip_limit: int, out_sharding) -> tuple[Callable, Callable]:
    """Compile-once forms of ``train_chunk`` (its state is donated) and ``eval_chunk``."""
    chunk = functools.partial(train_chunk, model, tx, skip_limit)
    chunk = jax.jit(chunk, donate_argnums=0, out_shardings=out_sharding)
    return chunk, jax.jit(functools.partial(eval_chunk, model), out_shardings=out_sharding)


def first_nonfinite(tree: Any) -> str:
    """The path of the first leaf that holds a NaN or an infinity, "" when all are finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        # On the host: eager jax would compile for each shape.
        if not np.isfinite(np.asarray(leaf)).all():
            return "/".join(entry.key for entry in path)
    return ""
