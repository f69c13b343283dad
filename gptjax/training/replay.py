"""One step of a run again, looked at closely: which parameter or gradient is not finite, and why.

In: an ``Experiment``, the run's folder and the number of a step. Out: a ``Replay``; nothing is
written. Batches are a function of the step, so every step behind a kept checkpoint can be had.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gptjax.checkpoints import pytree as leaves
from gptjax.checkpoints import store as checkpoint
from gptjax.errors import UserError
from gptjax.training import resume as resumption
from gptjax.training import scan as steps
from gptjax.training.experiment import Experiment

ROWS_SHOWN = 3  # of the batch


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A parameter just before the step, and its gradient in it."""

    name: str
    size: int
    norm: float  # of the finite entries
    n_bad: int  # entries that are NaN or infinite
    grad_norm: float
    grad_n_bad: int


@dataclasses.dataclass(frozen=True)
class Replay:
    """What a step did."""

    step: int
    from_step: int  # the checkpoint it was reached from; 0 may be the beginning
    loss_nats: float
    parameters: list[Leaf]
    texts: list[str]  # rows of its batch
    notes: list[str]


def replay(exp: Experiment, workdir: Path, step: int) -> Replay:
    """Go on from the last checkpoint at or before ``step``, and look at that step.

    Args:
      exp: with the run's settings.
      workdir: the run's folder.
      step: updates that were made before it, as the run's message has it.

    Raises:
      UserError: there is no run, train.steps end before, or a step before this one stops it.
    """
    there = checkpoint.available(workdir)
    if not 0 <= step < max(exp.config.train.steps, 1):
        raise UserError(
            f"--replay_step={step} must be at least 0 and below train.steps="
            f"{exp.config.train.steps}"
        )
    if not there:
        raise UserError(f"{workdir} holds no run: name the --workdir of the one to replay")
    before = [saved for saved in there if saved <= step]
    notes = []
    for saved in before[::-1]:
        try:
            continued = resumption.take_up(exp, workdir, saved)
        except UserError as error:
            if saved == before[0]:
                raise
            notes.append(f"{error}; the one before it is tried")  # damage, or the last one says it
        else:
            state, notes = continued.state, notes + continued.notes
            break
    else:
        resumption.take_up(exp, workdir)  # refuses other settings
        state = exp.init_state()
    if step > there[-1]:
        notes.append(
            f"the last checkpoint is of step {there[-1]}: whether the run came to step {step} is "
            "not known here"
        )
    begin = int(state.step)
    state = _advance(exp, state, step)
    batch = jax.tree.map(lambda array: array[0], exp.train_batches(step, 1, 1))
    key = jax.random.fold_in(exp.dropout_key, step)
    loss, grads = jax.jit(steps.loss_and_grads, static_argnums=0)(
        exp.model, state.params, batch, key
    )
    rows = np.asarray(batch.x).reshape(-1, batch.x.shape[-1])[:ROWS_SHOWN]
    texts = [exp.tokenizer.decode(row) for row in rows]
    return Replay(step, begin, float(loss), list(_look(state.params, grads)), texts, notes)


def _advance(exp: Experiment, state: steps.TrainState, step: int) -> steps.TrainState:
    chunk, at = exp.config.train.chunk_steps, int(state.step)
    while at < step:
        n = min(chunk, step - at)
        state, _ = exp.train_chunk(state, exp.train_batches(at, n, chunk), n, exp.dropout_key)
        reached = int(state.step)
        if reached < at + n:
            raise UserError(
                f"step {reached} is not finite and comes before {step}: --replay_step={reached} "
                "looks at it, --config.train.skip_nonfinite=10 passes over up to 10"
            )
        at = reached
    return state


def _look(params: Any, grads: Any) -> Iterator[Leaf]:
    found = leaves.flat(grads)
    for name, leaf in leaves.flat(params).items():
        (norm, n_bad), (grad_norm, grad_n_bad) = map(_norm, (leaf, found[name]))
        yield Leaf(name, leaf.size, norm, n_bad, grad_norm, grad_n_bad)


def _norm(array: jax.Array) -> tuple[float, int]:
    values = np.asarray(array).astype(np.float64)
    finite = np.isfinite(values)
    return float(np.sqrt(np.square(values[finite]).sum())), int((~finite).sum())


def lines(found: Replay) -> Iterator[str]:
    """A ``Replay`` as the lines of a table."""
    yield from found.notes
    verdict = "finite" if np.isfinite(found.loss_nats) else "not finite"
    yield f"step {found.step:,}, from step {found.from_step:,}: loss {found.loss_nats:.4f} nats"
    width = max(len(leaf.name) for leaf in found.parameters)
    yield f"{'parameter':<{width}}  {'norm':>10}  {'gradient':>10}  not finite (gradient) of"
    for leaf in found.parameters:
        bad = f"{leaf.n_bad:,} ({leaf.grad_n_bad:,}) of {leaf.size:,}"
        yield f"{leaf.name:<{width}}  {leaf.norm:>10.4g}  {leaf.grad_norm:>10.4g}  {bad}"
    n_params = sum(leaf.n_bad > 0 for leaf in found.parameters)
    n_grads = sum(leaf.grad_n_bad > 0 for leaf in found.parameters)
    yield (
        f"the loss is {verdict}; of {len(found.parameters)} parameters {n_params} and of their "
        f"gradients {n_grads} hold values that are not finite"
    )
    for text in found.texts:
        yield f"  read {text!r}"
