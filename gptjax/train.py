"""Train a model of the notes on a text.

    python -m gptjax.train --config=configs/gpt.py
    python -m gptjax.train --config=configs/gpt.py --config.data.path=my.txt --workdir=runs/mine
    python -m gptjax.train --config=configs/bigram.py --show_batch

In: a config and a work folder. Out, in the folder: checkpoints, metrics.jsonl, loss.png and
summary.json. Started again on the same folder, it goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gptjax.checkpoints import store as checkpoint
from gptjax.cli import main as cli
from gptjax.config.parse import Config
from gptjax.data import batching as batches
from gptjax.monitoring.console import Terminal
from gptjax.runtime import preemption as signals
from gptjax.runtime.run_lock import lock
from gptjax.training import experiment, replay
from gptjax.training import resume as resumption
from gptjax.training import summary as report
from gptjax.training.trainer import Loop


def fit(config: Config, workdir: Path, terminal: Terminal, why_no_band: str = "") -> dict:
    """Train, evaluate, save and report one run, from wherever the folder has it.

    Args:
      config: the settings.
      workdir: the run's folder, made if absent.
      terminal: where the user looks.
      why_no_band: why ``config.expected`` does not apply, "" when it does.

    Returns:
      The contents of summary.json.

    Raises:
      UserError: the settings do not fit the data, the folder holds another run, the loss is not
        finite, or a checkpoint cannot be read or written.
      signals.Stopped: a signal came; all is saved.
    """
    exp = experiment.build(config)
    exp.tokenizer.encode(config.sample.prompt)  # an unknown character speaks up before any folder
    with (
        signals.watch() as stop,
        lock(workdir),
        checkpoint.Checkpoints(workdir, config.checkpoint) as checkpoints,
    ):
        bigram = report.count_bigram_nats(exp)
        loop = Loop(exp, workdir, terminal, checkpoints, bigram["val"], stop)
        try:
            report.first_page(loop)
            loop.run()
            return report.last_page(loop, bigram, why_no_band)
        finally:
            loop.close()


def why_no_band(overridden: Iterable[str]) -> str:
    """Why a file's expected band says nothing of a run with these fields changed, "" if it does."""
    # A band is one of a corpus, so naming another is covered; so is another seed. How often a run
    # looks up changes what it shows and not what it learns.
    free = {*resumption.FREE, "data.name", "seed", "train.eval_every", "train.eval_iters"}
    free -= {"train.steps"}
    changed = [path for path in overridden if not {path, path.split(".")[0]} & free]
    return f"settings differ from the file's ({', '.join(changed)})" if changed else ""


def show_batch(config: Config) -> None:
    """Print page 3's walk-through for the real data: every context of a row, and its target."""
    exp = experiment.build(config)
    rows, tok = exp.rows["train"], exp.tokenizer
    batch = batches.get_batches(rows, config.seed, "train", 0, 1, config.train.batch_size)
    x_BxT, y_BxT, w_BxT = (part[0] for part in batch)
    print(f"input shape: {x_BxT.shape}\ntarget shape: {y_BxT.shape}")
    print(f"input (xb):\n{x_BxT}\ntargets (yb):\n{y_BxT}\n-----")
    for t in range(x_BxT.shape[1]):
        if w_BxT[0, t]:
            context, target = x_BxT[0, : t + 1], int(y_BxT[0, t])
            print(
                f"when input is {context.tolist()} the target is {target}"
                f"   {tok.decode(context)!r} -> {tok.token_text(target)!r}"
            )


def main(args: Any) -> int:
    """Train, or print what was asked for instead."""
    if args.show_batch:
        show_batch(args.config)
        return 0
    workdir = Path(args.workdir or Path("runs") / args.config.name)
    if args.replay_step is not None:
        found = replay.replay(experiment.build(args.config), workdir, args.replay_step)
        print("\n".join(replay.lines(found)))
        return 0
    with Terminal() as terminal:
        try:
            fit(args.config, workdir, terminal, why_no_band(args.overridden))
        except signals.Stopped as stopped:
            terminal.note(str(stopped))
            return signals.CONTINUE_ME
    return 0


FLAGS = [
    cli.Flag("workdir", "", "folder of the run; runs/<name> when empty"),
    cli.Flag("replay_step", int, "look at this step of the run again: what is not finite"),
    cli.Flag("show_batch", False, "print page 3's contexts and targets of one row, and end"),
]

if __name__ == "__main__":
    cli.run(main, about=__doc__, flags=FLAGS, config=True)
