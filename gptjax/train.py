"""Train a model of the notes on a text.

    python -m gptjax.train --config=configs/gpt.py
    python -m gptjax.train --config=configs/gpt.py --config.data.path=my.txt --workdir=runs/mine
    python -m gptjax.train --workdir=runs/mine                     # goes on, with its own config
    python -m gptjax.train --config=configs/gpt.py --init_from=runs/mine --workdir=runs/tuned
    python -m gptjax.train --config=configs/bigram.py --show_batch

In: a config and a work folder. Out, in the folder: checkpoints, metrics.jsonl (losses by step),
timing.jsonl (tokens and seconds by step), loss.png and summary.json. Started again on the same
folder, it goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptjax import report
from gptjax.cli import main as cli
from gptjax.config import ConfigDict, files, parse
from gptjax.config.schema import Config
from gptjax.errors import UserError
from gptjax.monitoring.console import Terminal
from gptjax.processes import cluster
from gptjax.runtime import preemption
from gptjax.runtime.object_store import is_remote

if TYPE_CHECKING:  # JAX takes seconds to import: what is about to happen is said before
    from gptjax.checkpoints.run import Run
    from gptjax.training.experiment import Experiment


def batch_lines(config: Config, workdir: str | Path, explicit: list[str]) -> Iterator[str]:
    """Page 3's walk-through for the real data: every context of a row, and its target."""
    with Terminal(sys.stderr) as terminal, terminal.doing("reading the corpus"):
        from gptjax.data.batching import get_batch
        from gptjax.training import experiment

        exp = experiment.build_to_train(config, workdir, explicit)
    tok = exp.tokenizer
    split = exp.splits["train"]
    x_BxT, y_BxT, w_BxT = get_batch(split, config.train.batch_size, config.seed)
    yield f"input shape: {x_BxT.shape}\ntarget shape: {y_BxT.shape}"
    yield f"input (xb):\n{x_BxT}\ntargets (yb):\n{y_BxT}\n-----"
    for t in w_BxT[0].nonzero()[0]:
        context, target = x_BxT[0, : split.lookback + t + 1], int(y_BxT[0, t])
        shown = f"{tok.decode(context)!r} -> {tok.token_text(target)!r}"
        yield f"when input is {context.tolist()} the target is {target}   {shown}"


def replay_lines(config: Config, workdir: str | Path, step: int) -> Iterator[str]:
    """What is not finite in a step of a run."""
    with Terminal(sys.stderr) as terminal, terminal.doing("replaying"):
        from gptjax.checkpoints import mirror
        from gptjax.training import experiment, nonfinite

        told = functools.partial(terminal.busy, f"replaying to step {step}")
        within = mirror.reading(workdir, "every")
        exp = experiment.build_to_train(config, workdir)
        found = nonfinite.replay(exp, within, step, told)
    yield from nonfinite.lines(found)


def show_sharding(config: Config, workdir: str | Path, explicit: list[str]) -> None:
    """Print what of each parameter a device has, and draw the largest; nothing is made."""
    with Terminal(sys.stderr) as terminal, terminal.doing("reading the corpus"):
        import jax

        from gptjax.monitoring import param_table
        from gptjax.runtime import devices
        from gptjax.training import experiment

        exp = experiment.build_to_train(config, workdir, explicit)
        params, needs = exp.abstract_state.params, exp.memory_needs()
    mesh = ", ".join(f"{axis} {size}" for axis, size in exp.placement.mesh.shape.items())
    print(f"{devices.device_line()}: {mesh}; a batch in {exp.placement.row_parts} parts")
    print("\n".join(param_table.sharding_lines(params)))
    print("bytes of each device: " + ", ".join(f"{what} {n:,}" for what, n in needs.items()))
    path, leaf = param_table.largest_matrix(params)
    print(f"{path} {leaf.shape}, by device:")
    jax.debug.visualize_sharding(leaf.shape, leaf.sharding)


def fit(
    config: Config,
    workdir: str | Path,
    terminal: Terminal,
    overridden: list[str],
    explicit: Collection[str] = (),
) -> Path:
    """``trainer.fit``, after saying what is trained.

    ``overridden``: fields that differ from the file; ``explicit``: those set beside it. Returns the
    run's folder, of a URL its copy.
    """
    terminal.title(config.title)
    with terminal.doing("starting JAX"):
        from gptjax.checkpoints import mirror
        from gptjax.training import summary, trainer
    with mirror.training(workdir, terminal) as within:

        def page(exp: Experiment) -> Any:
            if not config.train.report:
                return contextlib.nullcontext()
            return report.OfTraining(exp, within, workdir, terminal)

        no_band = summary.why_no_band(overridden)
        trainer.fit(config, within, terminal, no_band, explicit, page)
    return within


def train_from_python(
    config: str | Path | ConfigDict | Config,
    workdir: str | Path | None,
    overrides: Mapping[str, Any],
) -> Run:
    """What ``gptjax.train`` does; see there."""
    if isinstance(config, Config):
        settings = parse.settings_of(config)
    elif isinstance(config, ConfigDict):
        settings = copy.deepcopy(config)
    else:
        settings = files.load(str(config))
    changed = parse.override(settings, overrides)
    checked = parse.from_dict(settings)
    workdir = folder(checked, workdir)
    with Terminal() as terminal:
        try:
            within = fit(checked, workdir, terminal, changed, list(map(parse.find_path, overrides)))
        except preemption.Stopped as stopped:
            terminal.note(
                f"{stopped.signal} at step {stopped.step:,}: saved; call it again to go on"
            )
            by_hand = stopped.signal == "SIGINT"
            raise (KeyboardInterrupt if by_hand else SystemExit(preemption.CONTINUE_ME)) from None
    from gptjax.checkpoints.run import open_run

    return open_run(within)


def folder(config: Config, workdir: str | Path | None) -> str | Path:
    """Where a run lives, a folder or a URL; unless it is said: in runs/, by its name."""
    if workdir and is_remote(str(workdir)):
        return str(workdir)
    return Path(os.path.expanduser(workdir) if workdir else Path("runs") / config.name)


def saved_config(workdir: str) -> Config:
    """The config in the newest checkpoint of a run."""
    from gptjax.checkpoints import run

    return run.saved_config(workdir)


def begun_with(args: Any) -> tuple[Config, list[str]]:
    """The config with what ``--init_from`` says in it, and the fields that differ from the file."""
    config, init_from, path = args.config, args.init_from, "train.init_from"
    if init_from in (None, config.train.init_from):
        return config, args.overridden
    if path in args.flagged:
        raise UserError(
            f"--init_from={init_from} and --config.{path}={config.train.init_from} are two starts: "
            "give one of them"
        )
    train = dataclasses.replace(config.train, init_from=init_from)
    return dataclasses.replace(config, train=train), [*args.overridden, path]


def main(args: Any) -> int:
    """Train, or print what was asked for instead."""
    named = (args.coordinator, args.process_id, args.num_processes)
    with Terminal(sys.stderr) as terminal:
        waiting = terminal.doing("waiting for the other processes")
        cluster.start(*named, args.heartbeat_seconds, waiting=waiting)
    config, overridden = begun_with(args)
    workdir = folder(config, args.workdir)
    questions = {"show_batch": args.show_batch, "show_sharding": args.show_sharding}
    questions["replay_step"] = args.replay_step is not None
    asked = [name for name, on in questions.items() if on]
    if asked[1:]:
        raise UserError(f"--{asked[0]} and --{asked[1]} are two questions: ask one at a time")
    if args.show_batch:
        print("\n".join(batch_lines(config, workdir, args.flagged)))
    elif args.show_sharding:
        show_sharding(config, workdir, args.flagged)
    elif args.replay_step is not None:
        print("\n".join(replay_lines(config, workdir, args.replay_step)))
    else:
        with Terminal() as terminal:
            try:
                fit(config, workdir, terminal, overridden, args.flagged)
            except preemption.Stopped as stopped:
                terminal.note(str(stopped))
                return preemption.CONTINUE_ME
    return 0


FLAGS = [
    cli.Flag("workdir", "", "folder of the run, or gs://, s3://; runs/<name> when empty"),
    cli.Flag("init_from", str, "folder of the run to begin with: fine-tuning; see train.init_from"),
    cli.Flag("replay_step", int, "look at this step of the run again: what is not finite"),
    cli.Flag("show_batch", False, "print page 3's contexts and targets of one row, and end"),
    cli.Flag("show_sharding", False, "print which device has what of each parameter, and end"),
    cli.Flag(
        "coordinator",
        "",
        "of several processes: host:port of the first; SLURM, Open MPI and "
        "TPU slices tell it themselves",
    ),
    cli.Flag("process_id", int, "of several processes: which one this is, from 0"),
    cli.Flag("num_processes", int, "of several processes: how many there are"),
    cli.Flag(
        "heartbeat_seconds",
        cluster.HEARTBEAT_S,
        "after this silence of one all end, to be started again",
    ),
]

if __name__ == "__main__":
    cli.run(main, about=__doc__, flags=FLAGS, config=True, saved=saved_config)
