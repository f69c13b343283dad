"""Numbers that are not finite: a bad step is recorded, a bad end is explained, neither is saved.

In: a ``Loop`` in motion. Out: lines in its metrics.jsonl and on its terminal, or a ``UserError``
that names the step, the first bad parameter, and the checkpoint that is safe.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import jax

from gptjax.errors import UserError
from gptjax.training import scan as steps

if TYPE_CHECKING:
    from gptjax.training.trainer import Loop


def record(loop: Loop, loss_nats: float) -> None:
    """Note a step that was passed over; ``loop.step`` already counts it."""
    bad, what = loop.step - 1, "passed over"
    loop.write({"step": loop.step, "bad_step": bad, "bad_loss": str(loss_nats), "what": what})
    loop.terminal.warn(
        f"step {bad}: the loss ({loss_nats} nats) or a gradient is not finite: {what}; "
        f"--replay_step={bad} shows it"
    )


def refuse_to_save(loop: Loop) -> None:
    """Keep the checkpoints good.

    Raises:
      UserError: a parameter is not finite.
    """
    if name := steps.first_nonfinite(loop.state.params):
        raise UserError(
            f"step {loop.step}: parameter {name} is not finite, so it is not saved; the last good "
            f"checkpoint is of step {loop.last_safe()}: lower optim.learning_rate or "
            "optim.clip_norm, in another --workdir"
        )


def end_run(loop: Loop, loss_nats: float) -> None:
    """Name the step, the first bad parameter and what is safe, and end the run.

    Raises:
      UserError: always.
    """
    exp, state, limit = loop.exp, loop.state, loop.exp.config.train.skip_nonfinite + 10
    if name := steps.first_nonfinite(state.params):
        what = f"parameter {name} is not finite"
    else:
        batch = jax.tree.map(lambda a: a[0], exp.train_batches(loop.step, 1, 1))
        key = jax.random.fold_in(loop.key, state.step)
        grads = steps.loss_and_grads(exp.model, state.params, batch, key)[1]
        name = steps.first_nonfinite(grads)
        why = "the norm overflows" if math.isfinite(loss_nats) else "the gradients are finite"
        what = f"the gradient of {name} is not finite" if name else why
        loop.save()
    line = {"step": loop.step + 1, "bad_step": loop.step, "bad_loss": str(loss_nats)}
    loop.write(line | {"what": f"stopped: {what}"})
    raise UserError(
        f"step {loop.step}: loss {loss_nats} nats, {what}; the last good checkpoint is of step "
        f"{loop.last_safe()}: look with --replay_step={loop.step}, pass over up to {limit} such "
        f"steps with --config.train.skip_nonfinite={limit}, or lower optim.learning_rate in "
        "another --workdir"
    )
