"""Numbers that are not finite: which parameter or gradient it is, and one step looked at again.

In: an ``Experiment`` and a state, or the folder of a run and the number of a step. Out: what is
wrong there. Batches are a function of the step: any step after a kept checkpoint can be had.
"""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gptjax.checkpoints import directory, pytree
from gptjax.errors import UserError
from gptjax.runtime.pace import Busy, pieces
from gptjax.training import resume, scan
from gptjax.training.experiment import Experiment
from gptjax.training.train_step import TrainState


def first_nonfinite(tree: Any) -> str:
    """The path of the first leaf that holds a NaN or an infinity, "" when all are finite."""
    # On the host, where eager jax would compile for each shape; of several processes each looks
    # at what it has.
    for path, leaf in pytree.flat(tree).items():
        if not all(np.isfinite(part).all() for part in pytree.own_parts(leaf)):
            return path
    return ""


def judge(exp: Experiment, state: TrainState, loss_nats: float) -> tuple[str, bool]:
    """Why the step after ``state``, of this loss, stops the run, and whether to keep ``state``."""
    if name := first_nonfinite(state.params):
        return f"parameter {name} is not finite", False
    _, grads, _ = _look_at(exp, state)
    if name := first_nonfinite(grads):
        return f"the gradient of {name} is not finite", True
    return "the norm overflows" if math.isfinite(loss_nats) else "the gradients are finite", True


def _look_at(exp: Experiment, state: TrainState) -> tuple[float, Any, np.ndarray]:
    """Loss, gradients and inputs (rows, T) of the step after ``state``."""
    batches, _ = exp.chunk_inputs(int(state.step), 1)
    batch = jax.tree.map(lambda array: array[0], batches)
    key = jax.random.fold_in(exp.dropout_key, state.step)

    @jax.jit
    def sums(params, batch, key):
        trained, frozen = exp.tuning.split(params)
        return scan.in_parts(exp.tuning.beside(exp.model, frozen), trained, batch, key)

    (nats, count), grads = sums(state.params, batch, key)
    grads = jax.tree.map(lambda grad: grad / count, grads)
    return float(nats / count), grads, exp.placement.fetch(batch.x).reshape(-1, batch.x.shape[-1])


@dataclasses.dataclass(frozen=True)
class Replay:
    """What a step did."""

    step: int
    from_step: int  # the checkpoint it was reached from; 0 may be the beginning
    loss_nats: float
    params: dict[str, np.ndarray]  # just before the step
    grads: dict[str, np.ndarray]
    texts: list[str]  # the first rows of its batch
    notes: list[str]


def replay(exp: Experiment, workdir: Path, step: int, busy: Busy = None) -> Replay:
    """Go on from the last checkpoint at or before ``step`` (updates made before it), and look.

    ``busy`` is told (done, total) steps on the way there.

    Raises:
      UserError: there is no run, train.steps end before, or a step before this one stops it.
    """
    steps, there = exp.config.train.steps, directory.available(workdir)
    if not 0 <= step < max(steps, 1):
        raise UserError(f"--replay_step={step} must be at least 0 and below train.steps={steps}")
    if not there:
        raise UserError(f"{workdir} holds no run: name the --workdir of the one to replay")
    state, notes = _state_before(exp, workdir, [saved for saved in there if saved <= step])
    if step > there[-1]:
        notes.append(
            f"the last checkpoint is of step {there[-1]}: whether the run came to step {step} is "
            "not known here"
        )
    begin = int(state.step)
    steady = jax.process_count() > 1
    for first, end in pieces(step - begin, 1, exp.config.train.chunk_steps, steady):
        at, n = begin + first, end - first
        state, _ = exp.train_chunk(state, *exp.chunk_inputs(at, n), n, exp.dropout_key)
        if (reached := int(state.step)) < at + n:
            raise UserError(
                f"step {reached} is not finite and comes before {step}: --replay_step={reached} "
                "looks at it, --config.train.skip_nonfinite=10 passes over up to 10"
            )
        if busy:
            busy(end, step - begin)
    loss, grads, rows = _look_at(exp, state)
    texts = [exp.tokenizer.decode(row) for row in rows[:3]]
    params, grads = pytree.on_host(state.params), pytree.on_host(grads)
    return Replay(step, begin, loss, params, grads, texts, notes)


def _state_before(exp: Experiment, workdir: Path, before: list[int]) -> tuple[TrainState, list]:
    """The state of the newest sound checkpoint of these steps, else the beginning."""
    notes: list[str] = []
    for saved in before[::-1]:
        try:
            state, _, changes = resume.restore(exp, workdir, saved)
            return state, notes + changes
        except UserError as error:
            if saved == before[0]:
                raise
            notes.append(f"{error}; the one before it is tried")  # damage, or the last one says it
    resume.restore(exp, workdir)  # refuses other settings
    return exp.init_state(), notes


def norm_and_bad(array: np.ndarray) -> tuple[float, int]:
    """The norm of an array's finite entries, and how many are not."""
    values = array.astype(np.float64)
    finite = np.isfinite(values)
    return float(np.sqrt(np.square(values[finite]).sum())), int((~finite).sum())


def lines(found: Replay) -> Iterator[str]:
    """A ``Replay`` as the lines of a table."""
    yield from found.notes
    yield f"step {found.step:,}, from step {found.from_step:,}: loss {found.loss_nats:.4f} nats"
    width, n_params, n_grads = max(map(len, found.params)), 0, 0
    yield f"{'parameter':<{width}}  {'norm':>10}  {'gradient':>10}  not finite (gradient) of"
    for name, array in found.params.items():
        grad = found.grads.get(name, np.zeros(0))  # of a frozen one there is none
        (norm, bad), (grad_norm, grad_bad) = map(norm_and_bad, (array, grad))
        n_params, n_grads = n_params + (bad > 0), n_grads + (grad_bad > 0)
        of = f"{bad:,} ({grad_bad:,}) of {array.size:,}"
        yield f"{name:<{width}}  {norm:>10.4g}  {grad_norm:>10.4g}  {of}"
    verdict = "finite" if np.isfinite(found.loss_nats) else "not finite"
    yield (
        f"the loss is {verdict}; of {len(found.params)} parameters {n_params} and of their "
        f"gradients {n_grads} hold values that are not finite"
    )
    yield from (f"  read {text!r}" for text in found.texts)
