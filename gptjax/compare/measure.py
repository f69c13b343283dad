"""Runs measured side by side: exact losses on val, gains over a baseline, what tells them apart.

In: the folders of trained runs. Out: a ``run_table.Table``, and the curves of its picture.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gptjax.checkpoints import directory, mirror
from gptjax.checkpoints import run as runs
from gptjax.checkpoints.run import Run
from gptjax.compare import RUNG_BEFORE
from gptjax.config import schema
from gptjax.data.dataset import Split
from gptjax.errors import UserError, did_you_mean
from gptjax.evaluation import baselines, loss_eval, run_table
from gptjax.evaluation.flops import training_flops_per_token
from gptjax.evaluation.run_table import Blocks, Line, Table
from gptjax.monitoring import metrics, plots
from gptjax.monitoring.console import Terminal
from gptjax.runtime.atomic_files import write_whole
from gptjax.training import experiment, resume

# Settings in which two runs of one model and one training may differ; steps have their own column.
_BESIDE = {*resume.FREE, "seed", "train.eval_every", "train.eval_iters"} - {"data.path"}


@dataclasses.dataclass(frozen=True)
class Measured:
    """A run beside its losses: on val, in blocks; those of the baselines; what its text says."""

    name: str
    workdir: Path
    run: Run
    line: Line
    val: Split
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
    def same_text(self) -> tuple[Any, ...] | None:
        """What runs share that are asked for one text, whatever their tokens; None: unknown."""
        if not self.val.n_bytes or not self.run.data:
            return None
        config, is_items = self.run.config, self.run.items  # which the seed deals out
        dealt = (config.seed, config.data.split) if is_items else ()
        return (self.run.data["sha256"], is_items, *dealt)

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
    lines, val = _lines(found, _before(found, over)), found[0].val
    notes = [note for one in found for note in one.notes]
    if len({one.blocks.text for one in found}) == 1:
        simpler = found[0].simpler
        losses = {name: run_table.mean_and_error(simpler[name]) for name in baselines.NAMES}
        lines[:0] = [
            Line("baseline", name, *loss, loss_eval.bits_per(val.n_bytes, loss[0], val))
            for name, loss in losses.items()
        ]
    else:
        one_text = None not in (texts := {one.same_text for one in found}) and len(texts) == 1
        how = "bits per byte do, and" if one_text else "and"
        notes.append(
            "not all runs learnt from the same tokens and were asked for the same: their losses "
            f"per token do not compare, {how} no gain of one over another is shown"
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
    text, val = baselines.text_hash(exp.splits, run.tokenizer), exp.splits["val"]
    blocks = baselines.block_losses(exp.evaluator, run.params, val, told, text)
    if text not in known:
        known[text] = baselines.baselines(exp.splits, run.tokenizer.vocab_size, text)
    summary, notes = runs.summary(workdir) or {}, []
    speed, loss = summary.get("tokens_per_second"), run_table.mean_and_error(blocks)
    line = Line(
        "run",
        name,
        *loss,
        bits_per_byte=loss_eval.bits_per(val.n_bytes, loss[0], val),
        folder=str(workdir),
        seed=run.config.seed,
        steps=summary.get("steps", directory.last(workdir)),
        best_step=directory.best(workdir),
        step=run.step,
        parameters=run.n_parameters,
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
    return Measured(name, workdir, run, line, val, blocks, known[text], records, notes)


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


def named_runs(workdirs: str, which: str | int = "best") -> tuple[list[Path], list[str]]:
    """Folders as listed, the finished runs of a pattern by name, 2 before 10; its unfinished.

    ``which``: the checkpoint that will be asked for; a URL's run is fetched with it.
    """
    found, unfinished = [], []
    for name in map(os.path.expanduser, filter(None, map(str.strip, workdirs.split(",")))):
        if not glob.has_magic(name):
            found.append(mirror.reading(name, which, ("params",)))
            continue
        by_name = sorted(glob.glob(name), key=lambda m: re.sub(r"\d+", lambda d: d[0].zfill(20), m))
        done = [match for match in by_name if runs.summary(Path(match))]
        if not done:
            raise UserError(f"--workdirs: no finished run matches {name!r}")
        found += map(Path, done)
        unfinished += [m for m in by_name if m not in done and directory.available(Path(m))]
    return found, unfinished


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
