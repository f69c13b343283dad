"""Compare runs: one table, one picture.

    python -m gptjax.compare --workdirs=runs/bigram,runs/gpt-small
    python -m gptjax.compare --workdirs="runs/*" --markdown
    python -m gptjax.compare --ladder

In: the folders of trained runs; with --ladder it trains the rungs of configs/ladder.py first, or
goes on where it stopped. Out: val loss with its standard error, what each run gained over the one
before, parameters, FLOPs, seconds and a sample; the table as Markdown and CSV and a picture of
all curves are written beside.
"""

from __future__ import annotations

import collections
import dataclasses
import glob
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from gptjax import train
from gptjax.checkpoints import run as runs
from gptjax.checkpoints import store as checkpoint
from gptjax.cli import main as cli
from gptjax.config import files as config_file
from gptjax.config import parse as gptjax_config
from gptjax.data import splits as corpus
from gptjax.errors import UserError
from gptjax.evaluation import baselines as yardsticks
from gptjax.evaluation import flops
from gptjax.evaluation import run_table as comparison
from gptjax.evaluation.run_table import Line
from gptjax.monitoring import metrics
from gptjax.monitoring import plots as plot
from gptjax.monitoring.console import Terminal, shown
from gptjax.runtime import atomic_files as files
from gptjax.runtime import preemption as signals
from gptjax.training import experiment


def compare(
    workdirs: Sequence[Path], which: str | int, out: Path, terminal: Terminal
) -> tuple[list[Line], list[str]]:
    """Measure the runs and write compare.md, compare.csv and compare.png.

    Args:
      workdirs: of the runs, in the order of the table.
      which: checkpoint, see ``runs.open_run``.
      out: folder of the files, made if absent.
      terminal: is told of damaged checkpoints that were passed over.

    Returns:
      The lines of the table, baselines first, and what else there is to say.

    Raises:
      UserError: a folder without a run, or a corpus that is not there or not the trained one.
    """
    lines, notes, curves, last, beat = [], [], [], None, None
    opened = [runs.open_run(workdir, which) for workdir in workdirs]
    named = collections.Counter(run.config.name for run in opened)
    for workdir, run in zip(workdirs, opened, strict=True):
        for notice in run.notices:
            terminal.warn(f"{workdir}: {notice}")
        exp = experiment.of_run(run, workdir)
        blocks = yardsticks.block_losses(exp, run.params)
        mean, error = comparison.mean_and_error(blocks.nats, blocks.count)
        gained = comparison.gain(last, blocks) if last else None
        if beat is None:
            beat = yardsticks.baselines(exp)
        elif last.text != blocks.text:
            beat = {}  # two texts have no lines in common
        records, name = metrics.read(workdir / runs.METRICS), run.config.name
        lines.append(
            Line(
                name if named[name] == 1 else str(workdir),
                mean,
                error,
                *(gained or (None, None)),
                parameters=sum(leaf.size for leaf in jax.tree.leaves(run.params)),
                flops=flops.training_flops_per_token(run.model),
                seconds=(runs.summary(workdir) or {}).get("train_seconds"),
                sample=comparison.sample_line(metrics.last_sample(records)),
            )
        )
        found = {curve.label: curve for curve in plot.curves_of(records)}
        if plot.VAL in found:
            curves.append(dataclasses.replace(found[plot.VAL], label=lines[-1].name))
        if run.config.model.kind == "bigram" and not run.config.train.neighbours:
            mean, most = yardsticks.table_against_counts(exp, run.params)
            notes.append(
                f"{lines[-1].name}: the rows of its softmax are {mean:.4f} from the counts in "
                f"total variation (mean over the training text; the farthest {most:.4f})"
            )
        last = blocks
    if not beat:
        notes.append(
            "not all runs were asked for the same tokens of the same text: their losses do not "
            "compare, and neither gains nor lines to beat are shown"
        )
    lines = [Line(name, nats) for name, nats in beat.items()] + lines
    out.mkdir(parents=True, exist_ok=True)
    files.write_whole(out / "compare.md", (comparison.markdown_table(lines) + "\n").encode())
    files.write_whole(out / "compare.csv", comparison.csv_table(lines).encode())
    why_none = plot.loss_curves(out / "compare.png", curves, beat, "val loss of each run")
    written = f"written to {out}: compare.md, compare.csv"
    notes += [written, why_none] if why_none else [f"{written}, compare.png"]
    return lines, notes


def ladder(args: Any, terminal: Terminal) -> list[Path]:
    """Train the rungs of configs/ladder.py that are not trained yet; returns their folders."""
    path = config_file.find("ladder")
    if path is None:
        raise UserError("configs/ladder.py is not here: run this from a clone of the repository")
    known = runpy.run_path(str(path))["RUNGS"]
    names = [name for name in args.rungs.split(",") if name] or known
    for name in names:
        if name not in known:
            raise UserError(f"--rungs names {name!r}, which is none of {', '.join(known)}")
    if args.steps is not None and args.steps < 1:
        raise UserError(f"--steps={args.steps} must be at least 1")
    workdirs = []
    for i, name in enumerate(names, 1):
        settings = config_file.load(f"{path}:{name}")
        changed = []
        if args.seed is not None:
            settings.seed = args.seed
        if args.steps is not None:
            changed = ["train.steps"] if args.steps != settings.train.steps else []
            settings.train.steps = args.steps
            settings.train.eval_every = max(1, args.steps // 5)
        if args.data:
            settings.data.update({"name" if args.data in corpus.names() else "path": args.data})
        workdirs.append(Path(args.out or "runs/ladder") / name)
        terminal.note(f"rung {i} of {len(names)}: {name}")
        config = gptjax_config.from_dict(settings)
        train.fit(config, workdirs[-1], terminal, train.why_no_band(changed))
        terminal.note("")
    return workdirs


def main(args: Any) -> int:
    """Print the table of the runs, or of the ladder."""
    found: list[Path] = []
    unfinished: list[str] = []
    for name in filter(None, (part.strip() for part in args.workdirs.split(","))):
        name = os.path.expanduser(name)
        if not glob.has_magic(name):
            found.append(Path(name))
            continue
        # A pattern may name folders that hold no run; the runs stand worst first.
        matches = {m: runs.summary(Path(m)) for m in sorted(glob.glob(name))}
        done = {m: summary["best_val_nats"] for m, summary in matches.items() if summary}
        unfinished += [m for m in matches if m not in done and checkpoint.available(Path(m))]
        if not done:
            raise UserError(f"--workdirs: no finished run matches {name!r}")
        found += [Path(m) for m in sorted(done, key=lambda m: -done[m])]
    if bool(found) == args.ladder:
        raise UserError("name the runs to compare (--workdirs=runs/a,runs/b), or say --ladder")
    for flag in ("rungs", "steps", "data", "seed"):
        if getattr(args, flag) not in ("", None) and not args.ladder:
            raise UserError(f"--{flag} is of the rungs: say --ladder, or leave it out")
    # A table to be redirected stands alone on stdout.
    with Terminal(sys.stderr if args.markdown or args.csv else None) as terminal:
        if unfinished:
            terminal.warn(f"not finished, so left out: {', '.join(unfinished)}")
        try:
            if args.ladder:
                found = ladder(args, terminal)
        except signals.Stopped as stopped:
            terminal.note(str(stopped))
            return signals.CONTINUE_ME
        out = Path(args.out or ("runs/ladder" if args.ladder else "runs/compare"))
        lines, notes = compare(found, runs.which(args.checkpoint), out, terminal)
    if args.markdown or args.csv:
        print((comparison.csv_table if args.csv else comparison.markdown_table)(lines).rstrip())
        return 0
    for note in notes:
        print(note)
    print(shown(f"\n{comparison.text_table(lines)}"))
    return 0


FLAGS = [
    cli.Flag("workdirs", "", "folders of runs, commas between them; * stands for any"),
    cli.Flag("ladder", False, "train the rungs of configs/ladder.py, then compare them"),
    cli.Flag("rungs", "", "only these rungs, commas between them"),
    cli.Flag("steps", int, "steps of every rung; the file's when not set"),
    cli.Flag("data", "", "another text for the rungs: a corpus's name or a file's path"),
    cli.Flag("seed", int, "of the rungs; the file's when not set"),
    cli.Flag("out", "", "folder of the results (and rungs); runs/compare or runs/ladder"),
    cli.Flag("markdown", False, "print the table as Markdown"),
    cli.Flag("csv", False, "print the table as CSV"),
    cli.Flag("checkpoint", "best", "best, last or a step"),
]


if __name__ == "__main__":
    cli.run(main, about=__doc__, flags=FLAGS)
