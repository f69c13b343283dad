"""Compare runs: one table, one picture.
± is the standard error of the choice of validation text: how much the mean would differ, for this
model, on another text of this length; what another seed would change is not in it.

    python -m gptjax.compare --workdirs=runs/bigram,runs/gpt-small
    python -m gptjax.compare --workdirs="runs/*" --baseline="count bigram" --markdown
    python -m gptjax.compare --ladder

In: the folders of trained runs; --ladder trains the rungs of configs/ladder.py first, or goes on.
Out: val losses, what each run gained over a baseline, the mean of runs that differ in the seed
alone, settings that differ, parameters, FLOPs, seconds and samples; the table is written as
Markdown, CSV and JSON too, and a picture of all curves.
"""

from __future__ import annotations

import glob
import runpy
import sys
from pathlib import Path
from typing import Any

from gptjax.cli import main as cli
from gptjax.compare import RUNG_BEFORE
from gptjax.config import files, parse
from gptjax.config.schema import CORPORA
from gptjax.errors import UserError
from gptjax.monitoring.console import Terminal, shown
from gptjax.runtime import preemption


def ladder(args: Any, terminal: Terminal) -> list[Path]:
    """Train the rungs of configs/ladder.py that are not trained yet; returns their folders."""
    from gptjax.training.summary import why_no_band
    from gptjax.training.trainer import fit

    path = files.find("ladder")
    if path is None:
        raise UserError("configs/ladder.py is not here: install gptjax anew")
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


def main(args: Any) -> int:
    """Print the table of the runs, or of the ladder."""
    if bool(args.workdirs.strip(", ")) == args.ladder:
        raise UserError("name the runs to compare (--workdirs=runs/a,runs/b), or say --ladder")
    forms = [form for form in ("markdown", "csv", "json") if getattr(args, form)]
    if len(forms) > 1:
        raise UserError(f"--{forms[0]} and --{forms[1]} are two tables for one output: choose one")
    for flag in ("rungs", "steps", "data", "seed"):
        if getattr(args, flag) not in ("", None) and not args.ladder:
            raise UserError(f"--{flag} is of the rungs: say --ladder, or leave it out")
    # What a pattern finds has no first that somebody chose.
    first_is_pattern = glob.has_magic(args.workdirs.split(",")[0])
    default = RUNG_BEFORE if args.ladder else "count bigram" if first_is_pattern else ""
    # A table to be redirected stands alone on stdout.
    with Terminal(sys.stderr if forms else None) as terminal:
        with terminal.doing("starting JAX"):
            from gptjax.checkpoints.run import which
            from gptjax.compare import measure
            from gptjax.monitoring import metrics
        checkpoint = which(args.checkpoint)
        found, unfinished = measure.named_runs(args.workdirs, checkpoint)
        if unfinished:
            terminal.warn(f"not finished, so left out: {', '.join(unfinished)}")
        try:
            found = ladder(args, terminal) if args.ladder else found
        except preemption.Stopped as stopped:
            terminal.note(str(stopped))
            return preemption.CONTINUE_ME
        baseline = args.baseline or default
        with terminal.doing("comparing"):
            table, curves = measure.compare(found, checkpoint, terminal, baseline)
        out = Path(args.out or f"runs/{'ladder' if args.ladder else 'compare'}")
        with terminal.doing("drawing compare.png"):
            rungs = [path.name for path in found] if args.ladder else []
            written = measure.write(table, curves, out, rungs)
    if args.json:
        print(metrics.to_json(table.json()).decode().rstrip())
    elif forms:
        print((table.csv() if args.csv else table.markdown()).rstrip())
    else:
        print("\n".join([*table.notes, written]))
        print(shown(f"\n{table.text()}"))
    return 0


FLAGS = [
    cli.Flag(
        "workdirs",
        "",
        "folders (* stands for any), gs:// or s3:// of runs, commas between them",
    ),
    cli.Flag("ladder", False, "train the rungs of configs/ladder.py, then compare them"),
    cli.Flag("rungs", "", "only these rungs, commas between them"),
    cli.Flag("steps", int, "steps of every rung; the file's when not set"),
    cli.Flag("data", "", "another text for the rungs: a corpus's name or a file's path"),
    cli.Flag("seed", int, "of the rungs; the file's when not set"),
    cli.Flag(
        "baseline",
        "",
        "what gains are measured against: a run, count bigram, unigram or uniform; the first run "
        "when empty, count bigram where a * found it, of --ladder the rung before",
    ),
    cli.Flag("out", "", "folder of the results (and rungs); runs/compare or runs/ladder"),
    cli.Flag("markdown", False, "print the table as Markdown"),
    cli.Flag("csv", False, "print the table as CSV: plain numbers, no samples"),
    cli.Flag("json", False, "print everything as JSON"),
    cli.Flag("checkpoint", "best", "best, last or a step"),
]

if __name__ == "__main__":
    cli.run(main, about=__doc__, flags=FLAGS)
