"""Continuing a run where its folder has it: what must be the same, and what came back.

In: an ``Experiment`` and the folder of a run. Out: the saved state with the trainer's ``Progress``,
or a refusal that names every setting in which the two differ.
"""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from gptjax.checkpoints import run, store
from gptjax.config import schema
from gptjax.config.schema import Config
from gptjax.errors import UserError
from gptjax.training import optimizer
from gptjax.training.experiment import Experiment
from gptjax.training.train_step import TrainState

# Fields in which a run and its continuation may differ: none of them changes a number it has had.
# Of the text itself, whatever its data.path, the sha256 is compared.
FREE = ("name", "why", "expected", "checkpoint", "mesh", "sample", "train.steps")
FREE += ("train.chunk_steps", "train.skip_nonfinite", "train.tensorboard", "data.path")
FREE += ("train.report",)


@dataclasses.dataclass
class Progress:
    """What has to survive beside the state, so that a continued run writes the same lines."""

    evaluated: int = -1  # the last step that was
    best_step: int | None = None
    best_val_nats: float = float("inf")
    pending: list = dataclasses.field(default_factory=list)  # (loss, norm) since the last line
    train_seconds: float = 0.0  # of all chunks
    timed_steps: int = 0  # those that did not compile, and their seconds
    timed_seconds: float = 0.0
    gather_seconds: float = 0.0  # at most, for which the device waited for its batches
    evaluation_seconds: float = 0.0  # of estimates and samples
    checkpoint_seconds: float = 0.0  # for which the steps waited on checkpoints
    lines: int | None = None  # of metrics.jsonl; None: unknown

    @property
    def steps_per_second(self) -> float:
        """The speed of training without compiling; 0 before it is known."""
        return self.timed_steps / self.timed_seconds if self.timed_seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types; ``from_json`` undoes it."""
        said = dataclasses.asdict(self)
        best = {"step": said.pop("best_step"), "val_nats": said.pop("best_val_nats")}
        said["best"] = None if self.best_step is None else best
        said["timed"] = [said.pop("timed_steps"), said.pop("timed_seconds")]
        return said

    @classmethod
    def from_json(cls, said: Any) -> Self:
        """Undo ``to_json``, of earlier versions too; Lookup-, Type- or ValueError if it is none."""
        numbers = {name: said[name] for name in ("evaluated", "train_seconds")}
        numbers["timed_steps"], numbers["timed_seconds"] = said["timed"]
        for name in ("gather_seconds", "evaluation_seconds", "checkpoint_seconds"):
            numbers[name] = said.get(name, 0.0)
        if (best := said["best"]) is not None:
            numbers |= {"best_step": best["step"], "best_val_nats": best["val_nats"]}
        pending, lines = [[loss, norm] for loss, norm in said["pending"]], said.get("lines")
        sound = all(map(run.is_number, itertools.chain(numbers.values(), *pending)))
        if not sound or not (lines is None or (type(lines) is int and lines >= 0)):
            raise TypeError("its memory")
        return cls(**numbers, pending=pending, lines=lines)


def restore(
    exp: Experiment, workdir: Path, which: str | int = "last", warn: Callable = lambda line: None
) -> tuple[TrainState, Progress, list[str]]:
    """Read the newest sound checkpoint of a run (or a step's), and check that ``exp`` may go on.

    ``warn`` is told of damaged ones that were passed over.

    Returns:
      The state, the trainer's progress, and a line about each thing that changes from here on.

    Raises:
      UserError: other settings, another text, more steps than asked for, or damage everywhere.
    """
    _, meta = store.read_meta(workdir, which)
    saved, _ = _understand(workdir, meta)
    if differ := schema.differences(exp.config, saved.config, FREE):
        raise UserError(
            f"{workdir} holds a run with other settings: {'; '.join(differ)}: name another "
            "--workdir, or repeat its settings to continue it"
        )
    if saved.data["sha256"] != exp.corpus.sha256:
        raise UserError(
            f"{workdir} holds a run on another text (sha256 {saved.data['sha256'][:8]} then, "
            f"{exp.corpus.sha256[:8]} now): name another --workdir"
        )
    like = exp.abstract_state
    parts = {"params": like.params, "rest": like.replace(params=None)}
    restored = store.restore(workdir, which, parts)
    saved, progress = _understand(workdir, restored.meta)  # of an earlier step, if one is damaged
    if restored.step > (steps := exp.config.train.steps):
        raise UserError(
            f"{workdir} is at step {restored.step}, past train.steps={steps}: ask for more steps, "
            "or name another --workdir"
        )
    state = restored.tree["rest"].replace(params=restored.tree["params"])
    for notice in restored.notices:
        warn(notice)
    return state, progress, changed_schedule(exp.config, saved.config, restored.step)


def _understand(workdir: Path, meta: dict[str, Any]) -> tuple[run.Saved, Progress]:
    """What stands beside the arrays of a checkpoint, the trainer's progress included."""
    saved = run.understand(workdir, meta)
    if saved.data is None or "memory" not in meta:
        raise run.no_history(workdir)
    with run.refusing_other_versions(workdir):
        return saved, Progress.from_json(meta["memory"])


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
