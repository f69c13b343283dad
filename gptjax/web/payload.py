"""All that a page shows of a run, as JSON: facts once, and per checkpoint what moves with time.

In: a ``Context`` and a run. Out: {"name", "kind", "tokens", ..., "checkpoints": [{"step", panel:
values}], panel: facts}. Each panel's part is made by its own ``*_data`` file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gptjax
from gptjax.checkpoints import directory
from gptjax.checkpoints.run import Run, open_run
from gptjax.runtime.pace import Busy
from gptjax.web.context import Context
from gptjax.web.lessons_data import lessons_data
from gptjax.web.run_data import diagrams_facts, run_facts, samples_facts

Part = Callable[[Run, Context], dict[str, Any] | None]
MOST_CHECKPOINTS = 12  # on the slider: first, best and last, and between them evenly
FACTS: dict[str, Part] = {
    "run": run_facts,
    "samples": samples_facts,
    "diagrams": diagrams_facts,
}  # panel -> what does not change with the checkpoint
OF_CHECKPOINT: dict[str, Part] = {"lessons": lessons_data}  # panel -> what does


def shown_steps(workdir, best: int) -> list[int]:
    """The steps of the checkpoints that a page shows, rising."""
    steps = sorted(directory.available(workdir))
    if len(steps) <= MOST_CHECKPOINTS:
        return steps
    last = len(steps) - 1
    places = {round(i * last / (MOST_CHECKPOINTS - 1)) for i in range(MOST_CHECKPOINTS)}
    if best in steps and steps.index(best) not in places:  # in place of the one nearest to it
        at = steps.index(best)
        places.discard(min(places - {0, last}, key=lambda place: abs(place - at)))
        places.add(at)
    return [steps[place] for place in sorted(places)]


def page_data(
    run: Run, context: Context, steps: Iterable[int] = (), busy: Busy = None
) -> dict[str, Any]:
    """The data of a run's page; ``steps``: checkpoints to show beside the run's own."""
    steps = sorted({*steps, run.step})
    data: dict[str, Any] = {
        "version": gptjax.__version__,
        "name": run.config.name,
        "kind": run.config.model.kind,
        "items": run.items,
        "unit": run.tokenizer.unit,
        "tokens": [run.tokenizer.token_text(i) for i in range(run.tokenizer.vocab_size)],
        "step": run.step,
        "no_corpus": context.no_corpus,
        "checkpoints": [],
    }
    for name, make in FACTS.items():
        data[name] = make(run, context)
    for done, step in enumerate(steps):
        if busy:
            busy(done, len(steps))
        at = run if step == run.step else open_run(context.workdir, step)
        parts = {name: make(at, context) for name, make in OF_CHECKPOINT.items()}
        data["checkpoints"].append({"step": step, "val_nats": at.val_nats, **parts})
    return data
