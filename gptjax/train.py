"""Train a model of the notes on a text.

    python -m gptjax.train --config=configs/gpt.py
    python -m gptjax.train --config=configs/gpt.py --config.data.path=my.txt --workdir=runs/mine
    python -m gptjax.train --config=configs/bigram.py --show_batch

In: a config and a work folder. Out, in the folder: checkpoints, metrics.jsonl (losses by step),
timing.jsonl (tokens and seconds by step), loss.png and summary.json. Started again on the same
folder, it goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.cli import main as cli
from gptjax.data.batching import get_batch
from gptjax.errors import UserError
from gptjax.monitoring.console import Terminal
from gptjax.runtime import preemption
from gptjax.training import experiment, nonfinite
from gptjax.training.experiment import Experiment
from gptjax.training.summary import why_no_band
from gptjax.training.trainer import fit


def batch_lines(exp: Experiment) -> Iterator[str]:
    """Page 3's walk-through for the real data: every context of a row, and its target."""
    config, tok = exp.config, exp.tokenizer
    x_BxT, y_BxT, w_BxT = get_batch(exp.splits["train"], config.train.batch_size, config.seed)
    yield f"input shape: {x_BxT.shape}\ntarget shape: {y_BxT.shape}"
    yield f"input (xb):\n{x_BxT}\ntargets (yb):\n{y_BxT}\n-----"
    for t in np.flatnonzero(w_BxT[0]):
        context, target = x_BxT[0, : t + 1], int(y_BxT[0, t])
        shown = f"{tok.decode(context)!r} -> {tok.token_text(target)!r}"
        yield f"when input is {context.tolist()} the target is {target}   {shown}"


def main(args: Any) -> int:
    """Train, or print what was asked for instead."""
    workdir = Path(args.workdir or Path("runs") / args.config.name)
    if args.show_batch and args.replay_step is not None:
        raise UserError("--show_batch and --replay_step are two questions: ask one at a time")
    if args.show_batch:
        print("\n".join(batch_lines(experiment.build(args.config))))
    elif args.replay_step is not None:
        found = nonfinite.replay(experiment.build(args.config), workdir, args.replay_step)
        print("\n".join(nonfinite.lines(found)))
    else:
        with Terminal() as terminal:
            try:
                fit(args.config, workdir, terminal, why_no_band(args.overridden))
            except preemption.Stopped as stopped:
                terminal.note(str(stopped))
                return preemption.CONTINUE_ME
    return 0


FLAGS = [
    cli.Flag("workdir", "", "folder of the run; runs/<name> when empty"),
    cli.Flag("replay_step", int, "look at this step of the run again: what is not finite"),
    cli.Flag("show_batch", False, "print page 3's contexts and targets of one row, and end"),
]

if __name__ == "__main__":
    cli.run(main, about=__doc__, flags=FLAGS, config=True)
