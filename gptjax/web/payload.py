"""All that a page shows of a run, as JSON: facts once, and per checkpoint what moves with time.

In: a ``Context`` and a run. Out: {"name", "kind", "tokens", ..., "checkpoints": [{"step", panel:
values}], panel: facts}. Each panel's part is made by its own ``*_data`` file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from flax import linen as nn

import gptjax
from gptjax.checkpoints import directory
from gptjax.checkpoints.run import Run, open_run
from gptjax.evaluation.flops import forward_flops_per_token
from gptjax.runtime.pace import Busy
from gptjax.web.context import Context
from gptjax.web.embeddings_data import embeddings_data, embeddings_facts
from gptjax.web.layers_data import layers_data, layers_facts
from gptjax.web.lessons_data import lessons_data
from gptjax.web.run_data import diagrams_facts, run_facts, samples_facts
from gptjax.web.text_data import text_data

Part = Callable[[Run, Context], dict[str, Any] | None]
MOST_CHECKPOINTS = 12  # on the slider: first, best and last, and between them evenly
MOST_AT_END = 3  # of a training that has just ended: each takes half a second
# Panel -> what does not change with the checkpoint, and what does.
FACTS: dict[str, Part] = {
    "run": run_facts,
    "samples": samples_facts,
    "embeddings": embeddings_facts,
    "layers": layers_facts,
    "diagrams": diagrams_facts,
}
OF_CHECKPOINT: dict[str, Part] = {
    "text": text_data,
    "embeddings": embeddings_data,
    "layers": layers_data,
    "lessons": lessons_data,
}


def is_quick(model: nn.Module, call_flops: float) -> bool:
    """Whether a page of a model takes a second or two: one pass, and back, of a block or so.

    ``call_flops``: what the device does in half a second, as its ``Evaluator`` has it.
    """
    return 3 * model.block_size * forward_flops_per_token(model) <= call_flops / 2


def shown_steps(workdir: Path, best: int, most: int = MOST_CHECKPOINTS) -> list[int]:
    """The steps of the checkpoints that a page shows, rising; ``most`` is 3 or more."""
    steps = sorted(directory.available(workdir))
    if len(steps) <= most:
        return steps
    last = len(steps) - 1
    places = {round(i * last / (most - 1)) for i in range(most)}
    if best in steps and steps.index(best) not in places:  # in place of the one nearest to it
        at = steps.index(best)
        places.discard(min(places - {0, last}, key=lambda place: abs(place - at)))
        places.add(at)
    return [steps[place] for place in sorted(places)]


def checkpoint_data(run: Run, context: Context) -> dict[str, Any]:
    """What a page shows of one checkpoint."""
    parts = {name: make(run, context) for name, make in OF_CHECKPOINT.items()}
    return {"step": run.step, "val_nats": run.val_nats, **parts}


def page_data(
    run: Run,
    context: Context,
    steps: Iterable[int] = (),
    busy: Busy = None,
    made: Mapping[int, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The data of a run's page; ``steps``: checkpoints to show beside the run's own.

    ``made``: the ``checkpoint_data`` of steps that were looked at before, in the same context.
    """
    steps, made = sorted({*steps, run.step}), dict(made or {})
    if not made:
        context = dataclasses.replace(context, n_checkpoints=len(steps))
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
        if step not in made:
            at = run if step == run.step else open_run(context.workdir, step)
            made[step] = checkpoint_data(at, context)
        data["checkpoints"].append(made[step])
    return data
