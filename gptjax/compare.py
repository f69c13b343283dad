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

import dataclasses
import functools
import glob
import json
import os
import re
import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from gptjax.checkpoints import directory
from gptjax.checkpoints import run as runs
from gptjax.checkpoints.run import Run
from gptjax.cli import main as cli
from gptjax.config import files, parse, schema
from gptjax.config.schema import CORPORA
from gptjax.errors import UserError, did_you_mean
from gptjax.evaluation import baselines, run_table
from gptjax.evaluation.flops import training_flops_per_token
from gptjax.evaluation.run_table import Blocks, Line, Table
from gptjax.monitoring import metrics, plots
from gptjax.monitoring.console import Terminal, shown
from gptjax.runtime import preemption
from gptjax.runtime.atomic_files import write_whole
from gptjax.training import experiment, resume
from gptjax.training.summary import why_no_band
from gptjax.training.trainer import fit

RUNG_BEFORE = "the rung before"
# Settings in which two runs of one model and one training may differ; steps have their own column.
_BESIDE = {*resume.FREE, "seed", "train.eval_every", "train.eval_iters"} - {"data.path"}


@dataclasses.dataclass(frozen=True)
class Measured:
    """A run beside its losses: on val, in blocks; those of the baselines; what its text says."""

    name: str
    workdir: Path
    run: Run
    line: Line
    blocks: Blocks
    simpler: Mapping[str, Blocks]
    records: Sequence[Mapping[str, Any]]
    notes: Sequence[str]

    @property
    def settings(self) -> dict[str, Any]:
        """What may tell it from another run, by dotted path."""
        fields = schema.fields(self.run.config)
        return {f.path: f.value for f in fields if not {f.path, f.path.split(".")[0]} & _BESIDE}

    @property
    def setting(self) -> str:
        """What it has in common with the same training from another seed."""
        text = (self.run.data or {}).get("sha256")
        return json.dumps([self.settings | {"data.path": ""}, self.line.steps, text])


def compare(
    workdirs: Sequence[Path], which: str | int, terminal: Terminal, baseline: str = ""
) -> tuple[Table, list[plots.Curve]]:
    """Measure the runs; ``terminal`` is told of damaged checkpoints.

    ``baseline``: what a gain is measured against, a name in the table or a folder, ``RUNG_BEFORE``,
    or "" for the first run. UserError: an unknown one; a folder without a run; a corpus that is not
    there or not the trained one.
    """
    opened = [runs.open_run(workdir, which) for workdir in workdirs]
    names = _names(workdirs, opened)
    over = _baseline(names, workdirs, baseline)
    known: dict[str, Mapping[str, Blocks]] = {}  # by text: runs of one share its baselines
    found = []
    for workdir, run, name in zip(workdirs, opened, names, strict=True):
        for notice in run.notices:
            terminal.warn(f"{workdir}: {notice}")
        found.append(_measure(name, workdir, run, known, terminal))
    lines = _lines(found, _before(found, over))
    notes = [note for one in found for note in one.notes]
    if len({one.blocks.text for one in found}) == 1:
        simpler = found[0].simpler
        lines[:0] = [
            Line("baseline", n, *run_table.mean_and_error(simpler[n])) for n in baselines.NAMES
        ]
    else:
        notes.append(
            "not all runs learnt from the same tokens and were asked for the same: their losses do "
            "not compare, and no gain of one over another is shown"
        )
    over = over if any(line.gained is not None for line in lines) else ""
    said = which if isinstance(which, str) else f"step {which}"
    return Table(lines, over, said, notes), [curve for one in found for curve in _curves(one)]


def _names(workdirs: Sequence[Path], opened: Sequence[Run]) -> list[str]:
    """Of each run its config's name; of runs that share it their folders', or the whole paths."""
    names, folders = [run.config.name for run in opened], [workdir.name for workdir in workdirs]
    short = [f if names.count(n) > 1 else n for n, f in zip(names, folders, strict=True)]
    return [s if short.count(s) == 1 else str(w) for s, w in zip(short, workdirs, strict=True)]


def _measure(
    name: str, workdir: Path, run: Run, known: dict[str, Mapping[str, Blocks]], terminal: Terminal
) -> Measured:
    """The losses and figures of one run; ``known``: baselines by text, to add to."""
    exp, records = experiment.of_run(run, workdir), metrics.read(workdir / runs.METRICS)
    told = functools.partial(terminal.busy, f"{name}: exact loss over val")
    blocks = baselines.block_losses(exp.evaluator, run.params, exp.splits, run.tokenizer, busy=told)
    if blocks.text not in known:
        known[blocks.text] = baselines.baselines(exp.splits, run.tokenizer)
    summary, notes = runs.summary(workdir) or {}, []
    speed = summary.get("tokens_per_second")
    line = Line(
        "run",
        name,
        *run_table.mean_and_error(blocks),
        folder=str(workdir),
        seed=run.config.seed,
        steps=summary.get("steps", directory.last(workdir)),
        best_step=directory.best(workdir),
        step=run.step,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(run.params)),
        flops=training_flops_per_token(run.model),
        # Of a summary of any version: its speed was always that of the compiled steps.
        seconds=summary["steps"] * exp.tokens_per_step / speed if speed else None,
        sample=run_table.sample_line(metrics.last_sample(records)),
    )
    if run.config.model.kind == "bigram" and run.config.predicts_next:
        add, V = run.config.model.add_count, run.tokenizer.vocab_size
        mean, most = baselines.table_against_counts(run.params, exp.splits["train"], V, add)
        notes.append(
            f"{name}: the rows of its softmax are {mean:.4f} from the counts in total variation "
            f"(mean over the training text; the farthest {most:.4f})"
        )
    return Measured(name, workdir, run, line, blocks, known[blocks.text], records, notes)


def _baseline(names: Sequence[str], workdirs: Sequence[Path], asked: str) -> str:
    """What ``asked`` calls, a name or a folder, by its name in the table; "" is the first run."""
    by_folder = dict(zip(map(str, workdirs), names, strict=True))
    name = by_folder.get(str(Path(asked)), asked) if asked else names[0]
    known = [*names, *baselines.NAMES]
    if name not in known and name != RUNG_BEFORE:
        near = did_you_mean(asked, known, repr)
        raise UserError(f"--baseline={asked!r} is none of {', '.join(known)}{near}")
    return name


def _before(found: Sequence[Measured], over: str) -> list[Blocks | None]:
    """For each run the blocks that it is measured against, None for the baseline itself."""
    if over == RUNG_BEFORE:
        return [None, *(one.blocks for one in found[:-1])]
    if over in baselines.NAMES:
        return [one.simpler[over] for one in found]
    base = next(one for one in found if one.name == over)
    return [None if one is base else base.blocks for one in found]


def _lines(found: Sequence[Measured], before: Sequence[Blocks | None]) -> list[Line]:
    """A line for each run, and after the last of several seeds of one setting their mean."""
    settings = [one.settings for one in found]
    differ = [path for path in settings[0] if any(s[path] != settings[0][path] for s in settings)]
    if len({one.blocks.text for one in found}) == 1:  # one text, wherever its file lies
        differ = [path for path in differ if path != "data.path"]
    lines, alike = [], {}  # of a setting: by seed its first run's line, and its name
    for one, base in zip(found, before, strict=True):
        gained = run_table.gain(base, one.blocks) if base else None
        line = dataclasses.replace(one.line, settings={path: one.settings[path] for path in differ})
        if gained:
            line = dataclasses.replace(line, gained=gained[0], gained_error=gained[1])
        lines.append(line)
        alike.setdefault(one.setting, {}).setdefault(line.seed, (one.run.config.name, line))
    for seeds in alike.values():
        if len(seeds) > 1:
            names, runs_of_it = zip(*seeds.values(), strict=True)
            mean = run_table.mean_of_seeds(names[0], runs_of_it)
            lines.insert(lines.index(runs_of_it[-1]) + 1, mean)
    return lines


def _curves(one: Measured) -> list[plots.Curve]:
    """The estimates of val loss of a run, under its name, and its exact loss."""
    exact = ((one.run.step, one.line.val_nats),)
    val = [curve for curve in plots.curves_of(one.records) if curve.label == plots.VAL]
    return [dataclasses.replace(curve, label=one.name, exact=exact) for curve in val]


def write(table: Table, curves: Sequence[plots.Curve], out: Path, rungs: Sequence[str]) -> str:
    """Write the table (compare.md, .csv, .json) and its picture; returns what was written.

    ``rungs``: names of the runs, where each adds an idea to the one before; [] where they do not.
    """
    write_whole(out / "compare.md", (table.markdown() + "\n").encode())
    write_whole(out / "compare.csv", table.csv().encode())
    write_whole(out / "compare.json", metrics.to_json(table.json(), indent=2))
    beaten = {line.name: line.val_nats for line in table.lines if line.kind == "baseline"}
    own = [line.val_nats for line in table.lines if line.kind == "run"]
    steps = dict(zip(rungs, own, strict=True)) if rungs else {}
    why_none = plots.compare_curves(out / "compare.png", curves, beaten, steps)
    picture = f"\n{why_none}" if why_none else ", compare.png"
    return f"written to {out}: compare.md, compare.csv, compare.json{picture}"


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
    """Folders as listed, the finished runs of a pattern by name, 2 before 10; its unfinished."""
    found, unfinished = [], []
    for name in map(os.path.expanduser, filter(None, map(str.strip, workdirs.split(",")))):
        if not glob.has_magic(name):
            found.append(Path(name))
            continue
        by_name = sorted(glob.glob(name), key=lambda m: re.sub(r"\d+", lambda d: d[0].zfill(20), m))
        done = [match for match in by_name if runs.summary(Path(match))]
        if not done:
            raise UserError(f"--workdirs: no finished run matches {name!r}")
        found += map(Path, done)
        unfinished += [m for m in by_name if m not in done and directory.available(Path(m))]
    return found, unfinished


def main(args: Any) -> int:
    """Print the table of the runs, or of the ladder."""
    found, unfinished = named_runs(args.workdirs)
    if bool(found) == args.ladder:
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
        if unfinished:
            terminal.warn(f"not finished, so left out: {', '.join(unfinished)}")
        try:
            found = ladder(args, terminal) if args.ladder else found
        except preemption.Stopped as stopped:
            terminal.note(str(stopped))
            return preemption.CONTINUE_ME
        which = runs.which(args.checkpoint)
        table, curves = compare(found, which, terminal, args.baseline or default)
    out = Path(args.out or f"runs/{'ladder' if args.ladder else 'compare'}")
    written = write(table, curves, out, [path.name for path in found] if args.ladder else [])
    if args.json:
        print(metrics.to_json(table.json()).decode().rstrip())
    elif forms:
        print((table.csv() if args.csv else table.markdown()).rstrip())
    else:
        print("\n".join([*table.notes, written]))
        print(shown(f"\n{table.text()}"))
    return 0


FLAGS = [
    cli.Flag("workdirs", "", "folders of runs, commas between them; * stands for any"),
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
