"""Taking a run up where its folder has it: what must be the same, and what came back.

In: an ``Experiment`` and the folder of a run. Out: the saved state with its memory, or a refusal
that names every setting in which the two differ. Nothing is written here.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from gptjax.checkpoints import run as runs
from gptjax.checkpoints import store as checkpoint
from gptjax.config import parse as gptjax_config
from gptjax.config.parse import Config
from gptjax.errors import UserError
from gptjax.training import optimizer
from gptjax.training.experiment import Experiment
from gptjax.training.scan import TrainState

# Fields in which a run and its continuation may differ: none of them changes a number it has had.
FREE = ("name", "why", "expected", "checkpoint", "sample", "train.steps", "train.chunk_steps")
FREE += ("train.skip_nonfinite", "data.path")  # of the text itself the sha256 is compared


@dataclasses.dataclass(frozen=True)
class Resumed:
    """A run as its folder had it."""

    state: TrainState
    memory: dict[str, Any]
    warnings: list[str]  # checkpoints that were damaged and passed over
    notes: list[str]  # what changes from here on


def take_up(exp: Experiment, workdir: Path, which: str | int = "last") -> Resumed:
    """Read the newest sound checkpoint of a run, and check that ``exp`` may go on from it.

    Args:
      exp: what is to go on.
      workdir: the run's folder, with at least one checkpoint.
      which: "last" or a step.

    Raises:
      UserError: other settings, another text, more steps than asked for, or damage everywhere.
    """
    _, meta = checkpoint.read_meta(workdir, which)
    saved = runs.understand(workdir, meta)
    if differ := gptjax_config.differences(exp.config, saved.config, FREE):
        raise UserError(
            f"{workdir} holds a run with other settings: {'; '.join(differ)}: name another "
            "--workdir, or repeat its settings to continue it"
        )
    if saved.data["sha256"] != exp.corpus.sha256:
        raise UserError(
            f"{workdir} holds a run on another text (sha256 {saved.data['sha256'][:8]} then, "
            f"{exp.corpus.sha256[:8]} now): name another --workdir"
        )
    like = exp.abstract_state()
    restored = checkpoint.restore(
        workdir, which, {"params": like.params, "rest": like.replace(params=None)}
    )
    saved = runs.understand(workdir, restored.meta)  # of an earlier step, if the last is damaged
    steps = exp.config.train.steps
    if restored.step > steps:
        raise UserError(
            f"{workdir} is at step {restored.step}, past train.steps={steps}: ask for more steps, "
            "or name another --workdir"
        )
    state = restored.tree["rest"].replace(params=restored.tree["params"])
    notes = changed_schedule(exp.config, saved.config, restored.step)
    return Resumed(state, saved.memory, restored.notices, notes)


def changed_schedule(ours: Config, theirs: Config, step: int) -> list[str]:
    """One line if another train.steps means another learning rate from ``step`` on."""
    before, now = theirs.train.steps, ours.train.steps
    if before == now or step == now or ours.optim.schedule == "constant":
        return []
    rates = [float(optimizer.schedule(ours.optim, n)(min(step, n))) for n in (before, now)]
    return [
        f"train.steps was {before:,} and is {now:,}: the {ours.optim.schedule} ends there now, so "
        f"the learning rate goes on at {rates[1]:.3g} where it was {rates[0]:.3g}; a run of "
        f"{now:,} steps from the start would differ"
    ]
