"""Compare runs: one table, one picture.

    python -m gptjax.compare --workdirs=runs/bigram,runs/gpt-small
    python -m gptjax.compare --workdirs="runs/*" --markdown
    python -m gptjax.compare --ladder

In: the folders of trained runs; --ladder trains the rungs of configs/ladder.py first, or goes on.
Out: val loss with its standard error, what each run gained over the one before, parameters, FLOPs,
seconds and a sample; the table is written as Markdown and CSV too, and a picture of all curves.
"""

from __future__ import annotations

import dataclasses
import glob
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from gptjax.checkpoints import directory
from gptjax.checkpoints import run as runs
from gptjax.cli import main as cli
from gptjax.config import files, parse
from gptjax.config.schema import CORPORA
from gptjax.errors import UserError
from gptjax.evaluation import run_table
from gptjax.evaluation.baselines import baselines, block_losses, table_against_counts
from gptjax.evaluation.flops import training_flops_per_token
from gptjax.evaluation.run_table import Line
from gptjax.monitoring import metrics, plots
from gptjax.monitoring.console import Terminal, shown
from gptjax.runtime import preemption
from gptjax.runtime.atomic_files import write_whole
from gptjax.training import experiment
from gptjax.training.summary import why_no_band
from gptjax.training.trainer import fit


def compare(
    workdirs: Sequence[Path], which: str | int, terminal: Terminal
) -> tuple[list[Line], list[plots.Curve], list[str]]:
    """Measure the runs; ``terminal`` is told of damaged checkpoints.

    The lines of the table, those of baselines without an error; val curves; notes. UserError: a
    folder without a run, or a corpus that is not there or not the trained one.
    """
    lines, curves, notes, asked = [], [], [], []
    opened = [runs.open_run(workdir, which) for workdir in workdirs]
    names = [run.config.name for run in opened]
    for workdir, run in zip(workdirs, opened, strict=True):
        for notice in run.notices:
            terminal.warn(f"{workdir}: {notice}")
        exp, V = experiment.of_run(run, workdir), run.tokenizer.vocab_size
        asked.append(block_losses(exp.evaluator, run.params, exp.splits, run.tokenizer))
        gained = run_table.gain(*asked[-2:]) if len(asked) > 1 else None
        name = run.config.name if names.count(run.config.name) == 1 else str(workdir)
        records = metrics.read(workdir / runs.METRICS)
        lines.append(
            Line(
                name,
                *run_table.mean_and_error(asked[-1].nats, asked[-1].count),
                *(gained or (None, None)),
                parameters=sum(leaf.size for leaf in jax.tree.leaves(run.params)),
                flops=training_flops_per_token(run.model),
                seconds=(runs.summary(workdir) or {}).get("train_seconds"),
                sample=run_table.sample_line(metrics.last_sample(records)),
            )
        )
        val = [curve for curve in plots.curves_of(records) if curve.label == plots.VAL]
        curves += [dataclasses.replace(curve, label=name) for curve in val]
        if run.config.model.kind == "bigram" and run.config.predicts_next:
            add = run.config.model.add_count
            mean, most = table_against_counts(run.params, exp.splits["train"], V, add)
            notes.append(
                f"{name}: the rows of its softmax are {mean:.4f} from the counts in total "
                f"variation (mean over the training text; the farthest {most:.4f})"
            )
    if any(blocks.text != asked[0].text for blocks in asked):
        notes.append(
            "not all runs were asked for the same tokens of the same text: their losses do not "
            "compare, and neither gains nor baselines are shown"
        )
    else:
        lines[:0] = [Line(*named) for named in baselines(exp.splits, V).items()]
    return lines, curves, notes


def write(lines: Sequence[Line], curves: Sequence[plots.Curve], out: Path) -> str:
    """Write compare.md, compare.csv and compare.png into ``out``; returns what was written."""
    write_whole(out / "compare.md", (run_table.markdown_table(lines) + "\n").encode())
    write_whole(out / "compare.csv", run_table.csv_table(lines).encode())
    beaten = {line.name: line.val_nats for line in lines if line.error is None}
    why_none = plots.loss_curves(out / "compare.png", curves, beaten, "val loss of each run")
    picture = f"\n{why_none}" if why_none else ", compare.png"
    return f"written to {out}: compare.md, compare.csv{picture}"


def ladder(args: Any, terminal: Terminal) -> list[Path]:
    """Train the rungs of configs/ladder.py that are not trained yet; returns their folders."""
    path = files.find("ladder")
    if path is None:
        raise UserError("configs/ladder.py is not here: run this from a clone of the repository")
    known = runpy.run_path(str(path))["RUNGS"]
    names = [name for name in args.rungs.split(",") if name] or known
    if wrong := [name for name in names if name not in known]:
        raise UserError(f"--rungs names {wrong[0]!r}, which is none of {', '.join(known)}")
    if args.steps is not None and args.steps < 1:
        raise UserError(f"--steps={args.steps} must be at least 1")
    workdirs = [Path(args.out or "runs/ladder") / name for name in names]
    for i, (name, workdir) in enumerate(zip(names, workdirs, strict=True), 1):
        settings, changed = files.load(f"{path}:{name}"), []
        if args.seed is not None:
            settings.seed = args.seed
        if args.steps is not None:
            changed = ["train.steps"] if args.steps != settings.train.steps else []
            settings.train.update(steps=args.steps, eval_every=max(1, args.steps // 5))
        if args.data:
            settings.data.update({"name" if args.data in CORPORA else "path": args.data})
        terminal.note(f"rung {i} of {len(names)}: {name}")
        fit(parse.from_dict(settings), workdir, terminal, why_no_band(changed))
        terminal.note("")
    return workdirs


def named_runs(workdirs: str) -> tuple[list[Path], list[str]]:
    """Folders by name or pattern, of a pattern the finished runs, worst first; its unfinished."""
    found, unfinished = [], []
    for name in map(os.path.expanduser, filter(None, map(str.strip, workdirs.split(",")))):
        if not glob.has_magic(name):
            found.append(Path(name))
            continue
        matches = {m: runs.summary(Path(m)) for m in sorted(glob.glob(name))}
        done = {m: summary["best_val_nats"] for m, summary in matches.items() if summary}
        if not done:
            raise UserError(f"--workdirs: no finished run matches {name!r}")
        found += map(Path, sorted(done, key=lambda m: -done[m]))
        unfinished += [m for m in matches if m not in done and directory.available(Path(m))]
    return found, unfinished


def main(args: Any) -> int:
    """Print the table of the runs, or of the ladder."""
    found, unfinished = named_runs(args.workdirs)
    if bool(found) == args.ladder:
        raise UserError("name the runs to compare (--workdirs=runs/a,runs/b), or say --ladder")
    if args.markdown and args.csv:
        raise UserError("--markdown and --csv are two tables for one output: choose one")
    for flag in ("rungs", "steps", "data", "seed"):
        if getattr(args, flag) not in ("", None) and not args.ladder:
            raise UserError(f"--{flag} is of the rungs: say --ladder, or leave it out")
    # A table to be redirected stands alone on stdout.
    with Terminal(sys.stderr if args.markdown or args.csv else None) as terminal:
        if unfinished:
            terminal.warn(f"not finished, so left out: {', '.join(unfinished)}")
        try:
            found = ladder(args, terminal) if args.ladder else found
        except preemption.Stopped as stopped:
            terminal.note(str(stopped))
            return preemption.CONTINUE_ME
        lines, curves, notes = compare(found, runs.which(args.checkpoint), terminal)
    out = Path(args.out or f"runs/{'ladder' if args.ladder else 'compare'}")
    notes.append(write(lines, curves, out))
    if args.markdown or args.csv:
        table = run_table.csv_table if args.csv else run_table.markdown_table
        print(table(lines).rstrip())
    else:
        print("\n".join(notes))
        print(shown(f"\n{run_table.text_table(lines)}"))
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
