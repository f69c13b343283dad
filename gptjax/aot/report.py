"""A config on a target: all figures of it, and the screen that says them.

In: compiled programs. Out: a ``Report``, as JSON, as a page, or as a row of a table.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from gptjax.aot import programs
from gptjax.aot.programs import GIB, Compiled
from gptjax.aot.roofline import Change, Roofline, Step, changes, roofline
from gptjax.aot.targets import Target
from gptjax.bench import peaks
from gptjax.evaluation.flops import training_flops_per_token
from gptjax.models import gpt
from gptjax.models.fast.gpt_fast import FastGPT
from gptjax.runtime import fast_paths
from gptjax.training.experiment import Experiment, saved_bytes

DAY = 86_400
UNITS = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))


@dataclasses.dataclass(frozen=True)
class Report:
    """What is known of a config on a target."""

    title: str
    target: Target
    exp: Experiment
    compiled: dict[str, Compiled]
    tokens: int  # of a step
    model_flops: float  # of a step: the model's, however they are done
    changes: tuple[Change, ...] = ()

    @property
    def chip(self) -> peaks.Chip | None:
        """The maker's figures of a device, where they are known."""
        return peaks.chip(self.target.kind)

    @property
    def dtype(self) -> str:
        """What products read."""
        return getattr(self.exp.config.model, "compute_dtype", "float32").replace("auto", "float32")

    @property
    def n_devices(self) -> int:
        """Of the target."""
        return len(self.target.devices)

    def limits(self, what: str = "train") -> Roofline | None:
        """The roofline of a program; None where the device or the traffic is not known."""
        found = self.compiled.get(what)
        if self.chip is None or found is None:
            return None
        moved = found.traffic
        memory, links = (moved.memory, moved.link_bytes) if moved else (0.0, 0.0)
        return roofline(self.chip, self.dtype, found.flops / self.n_devices, memory, links)

    def share_of_peak(self, limits: Roofline) -> float:
        """The model's FLOPs over all that the devices could do in that time."""
        peak = 1e12 * (getattr(self.chip, self.dtype) or self.chip.float32)
        return self.model_flops / self.n_devices / peak / limits.seconds

    def missing(self, found: Compiled) -> float:
        """By how many bytes a program does not fit; 0: it fits, or nobody knows the memory."""
        if found.missing or self.chip is None:
            return found.missing
        return max(0.0, found.total - self.chip.memory_gib * GIB)


def make(
    title: str,
    exp: Experiment,
    compiled: dict[str, Compiled],
    target: Target,
) -> Report:
    """Put together what the programs say and what follows by formula."""
    T = programs.row_length(exp)
    tokens = exp.config.train.batch_size * exp.config.window(items=False)
    plain = exp.model
    if isinstance(plain, FastGPT):  # the products that are counted, whichever are made
        plain = gpt.twin(gpt.GPTLanguageModel, plain)
    flops = tokens * training_flops_per_token(plain)
    report = Report(title, target, exp, compiled, tokens, flops)
    train = compiled.get("train")
    if train is None or report.chip is None or train.traffic is None and not train.missing:
        return report
    found = changes(_step(exp, train, T), report.chip, report.dtype, exp.config.train.accumulate)
    return dataclasses.replace(report, changes=tuple(found))


def _step(exp: Experiment, train: Compiled, T: int) -> Step:
    c, memory, n = exp.config.train, train.memory, exp.placement.mesh.size
    rows = max(1, c.batch_size // c.accumulate // exp.placement.row_parts)
    fast, fsdp = isinstance(exp.model, FastGPT), exp.placement.mesh.shape["fsdp"]
    how = exp.abstract_state.params, rows, T, exp.model.lookback, exp.tuning
    saved = {
        remat: saved_bytes(exp.model.clone(remat=remat) if fast else exp.model, *how)
        for remat in (False, True)
    }
    # A block's values are there while they are computed again.
    saved[True] += max(0, saved[False] - saved[True]) // getattr(exp.model, "n_layer", 1)
    temporary = train.total - memory["parameters"] - memory["optimizer"] - memory["batches"]
    return Step(
        flops=train.flops / n,
        memory_bytes=train.traffic.memory if train.traffic else 0.0,
        link_bytes=train.traffic.link_bytes if train.traffic else 0.0,
        total=train.total,
        params=memory["parameters"],
        optimizer=memory["optimizer"],
        temporary=temporary,
        saved=saved[False],
        saved_by_remat=saved[True],
        remat=exp.model.remat if fast else None,
        parts=c.accumulate,
        rows=rows,
        copies=math.gcd(exp.placement.mesh.shape["data"], exp.config.model.n_embd // fsdp),
        fsdp=fsdp,
    )


def amount(n: float, of: str = "B") -> str:
    """A number of bytes or FLOPs in three digits or so: "1.81 GB", "312 MB"."""
    for prefix, unit in UNITS:
        if n >= unit:
            return f"{n / unit:,.{max(0, 2 - len(str(int(n / unit))) + 1)}f} {prefix}{of}"
    return f"{n:,.0f} {of}"


def page(report: Report) -> list[str]:
    """All of it on a screen."""
    exp, target, chip = report.exp, report.target, report.chip
    train = exp.config.train
    mesh = ", ".join(f"{axis} {n}" for axis, n in exp.placement.mesh.shape.items())
    has = f", {amount(chip.memory_gib * GIB)} each" if chip else ""
    rows = train.batch_size // train.accumulate
    lines = [
        f"{report.title} on {target.name.text}: {report.n_devices} x {target.kind}{has}",
        f"  mesh        {mesh}",
        f"  a step      {report.tokens:,} tokens: {train.batch_size:,} rows in "
        f"{train.accumulate} part{'s' * (train.accumulate > 1)}, "
        f"{rows // exp.placement.row_parts} rows of a part a device",
    ]
    if how := fast_paths.line(exp.config.model):
        lines.append(f"  computed    {how}")
    if not target.compiles:
        return lines + _lowered(report)
    lines += [_fits(report), "", *_memory_table(report)]
    if "train" in report.compiled:
        lines += ["", *_step_lines(report)]
    if report.changes:
        lines += ["", *_change_lines(report)]
    seconds = ", ".join(f"{c.what} {c.seconds:.0f} s" for c in report.compiled.values())
    return [*lines, "", f"compiled: {seconds}"]


def _lowered(report: Report) -> list[str]:
    names = " and ".join(", ".join(report.compiled).rsplit(", ", 1))
    line = f"lowered, not compiled: {names} can be written as programs of this GPU; what they need "
    lines = [line + "and move is known only where its compiler is, on a machine that has one"]
    for found in report.compiled.values():
        held = ", ".join(f"{what} {amount(n)}" for what, n in found.memory.items())
        lines.append(f"  {found.what:<12}arguments a device: {held}; {found.seconds:.1f} s")
    if limits := report.limits():
        train_flops = report.compiled["train"].flops
        lines.append(
            f"  products    {amount(train_flops, 'FLOP')} a step: not under "
            f"{1e3 * limits.compute:,.3g} ms at the peak in {report.dtype}"
        )
    return lines


def _fits(report: Report) -> str:
    short = {c.what: n for c in report.compiled.values() if (n := report.missing(c))}
    if short:
        what, n = max(short.items(), key=lambda item: item[1])
        of = max(report.compiled[what].memory.items(), key=lambda item: item[1])
        return f"does not fit: {what} lacks {amount(n)} a device; {amount(of[1])} are its {of[0]}"
    most = max(c.total for c in report.compiled.values())
    if report.chip is None:
        return f"needs {amount(most)} a device"
    return f"fits: {amount(most)} a device of {amount(report.chip.memory_gib * GIB)}"


def _memory_table(report: Report) -> list[str]:
    compiled = list(report.compiled.values())
    lines = [f"{'on each device':<36}" + "".join(f"{c.what:>12}" for c in compiled)]
    for name in dict.fromkeys(name for c in compiled for name in c.memory):
        cells = (amount(c.memory[name]) if name in c.memory else "" for c in compiled)
        lines.append(f"  {name:<34}" + "".join(f"{cell:>12}" for cell in cells))
    totals = "".join(f"{amount(c.total):>12}" for c in compiled)
    return [line.rstrip() for line in [*lines, f"  {'all':<34}{totals}"]]


def _step_lines(report: Report) -> list[str]:
    train, n = report.compiled["train"], report.n_devices
    done = train.flops / report.model_flops
    lines = [
        f"a step: {amount(report.model_flops, 'FLOP')} of the model, of which {done:.2f} x are "
        f"made: {amount(train.flops / n, 'FLOP')} a device"
    ]
    if train.traffic is None:
        why = "it is too large" if train.missing else "jaxlib cannot read libtpu's program"
        lines.append(f"  memory      what it moves is not known: {why}")
        if limits := report.limits():
            alone = f"{1e3 * limits.compute:,.3g} ms at the peak in {report.dtype}"
            lines.append(f"  roofline    products alone take {alone}")
        return lines
    lines.append(f"  memory      {amount(train.traffic.memory)} read and written a device")
    for kind, (calls, size, sent) in sorted(train.traffic.collectives.items()):
        lines.append(
            f"  links       {calls:,.0f} {kind}{'s' * (calls > 1)} of {amount(size)} in all: "
            f"{amount(sent)} sent by a device"
        )
    parts, params = report.exp.config.train.accumulate, train.memory["parameters"]
    summed = train.traffic.collectives.get("all-reduce", (0, 0.0, 0.0))[1]
    if parts > 1 and summed > 1.5 * params:
        lines.append(
            f"              gradients are summed over the devices in each of {parts} parts"
        )
    if unknown := train.traffic.unknown_loops:
        lines.append(f"  {unknown} loops of a length that the program does not say: counted once")
    if limits := report.limits():
        lines.append(
            f"  roofline    {_times(limits)}: at best {1e3 * limits.seconds:,.3g} ms, by "
            f"{limits.bound}"
        )
        lines.append(
            f"              {report.tokens / limits.seconds:,.0f} tokens/s, "
            f"{report.share_of_peak(limits):.0%} of the peak in FLOPs of the model"
        )
    for what in ("evaluation", "decode"):
        if what in report.compiled and (limits := report.limits(what)):
            of = "a token of one row" if what == "decode" else "a call"
            lines.append(f"  {what:<12}{of}: {_times(limits)}")
    return lines


def _times(limits: Roofline) -> str:
    parts = {"compute": limits.compute, "memory": limits.memory, "links": limits.links}
    return ", ".join(f"{name} {1e3 * seconds:,.3g} ms" for name, seconds in parts.items())


def _change_lines(report: Report) -> list[str]:
    lines = [f"{'what to change, and what it would give':<44}{'a device':>12}{'ms a step':>12}"]
    for change in report.changes:
        line = f"  {change.setting:<42}{amount(change.total):>12}"
        if limits := change.roofline:
            line += f"{1e3 * limits.seconds:>12,.3g} by {limits.bound}"
        lines.append(line + (" (compiled)" if change.compiled else " (about)"))
    return lines


def row(report: Report) -> dict[str, Any]:
    """The figures of training, flat: a line of a table."""
    train, limits = report.compiled["train"], report.limits()
    moved = train.traffic
    found = {
        "target": report.target.name.text,
        "devices": report.n_devices,
        "mesh": dict(report.exp.placement.mesh.shape),
        "accumulate": report.exp.config.train.accumulate,
        "bytes_per_device": train.total,
        "missing_bytes": report.missing(train),
        "compile_seconds": train.seconds,
        "memory_traffic_bytes": moved and moved.memory,
        "link_bytes": moved and moved.link_bytes,
        "roofline_seconds": limits.seconds if limits and moved else None,
        "bound": limits.bound if limits and moved else None,
    }
    if found["roofline_seconds"]:
        speed = report.tokens / limits.seconds
        found |= {"tokens_per_second": speed, "share_of_peak": report.share_of_peak(limits)}
        for billions in (10, 300):
            days = 1e9 * billions / speed / DAY
            found[f"days_{billions}b"] = days
            found[f"device_hours_{billions}b"] = 24 * days * report.n_devices
    return found


def to_json(report: Report) -> dict[str, Any]:
    """All figures; bytes are of one device, FLOPs of a step on all of them."""
    parts = {}
    for name, found in report.compiled.items():
        limits = report.limits(name) if found.traffic else None
        parts[name] = {
            "compile_seconds" if report.target.compiles else "lower_seconds": found.seconds,
            "flops": found.flops,
            "memory": found.memory,
            "missing_bytes": report.missing(found),
            "memory_traffic_bytes": found.traffic and found.traffic.memory,
            "collectives": {
                kind: {"calls": calls, "bytes": size, "sent_bytes": sent}
                for kind, (calls, size, sent) in (
                    found.traffic.collectives if found.traffic else {}
                ).items()
            },
            "roofline_seconds": limits and dataclasses.asdict(limits),
        }
    return {
        "config": report.title,
        "target": report.target.name.text,
        "device_kind": report.target.kind,
        "devices": report.n_devices,
        "mesh": dict(report.exp.placement.mesh.shape),
        "compiled": report.target.compiles,
        "tokens_per_step": report.tokens,
        "model_flops": report.model_flops,
        "programs": parts,
        "changes": [dataclasses.asdict(change) for change in report.changes],
    }


def with_compiled(report: Report, setting: str, other: Report) -> Report:
    """The report, and among its changes one that was compiled."""
    done = Change(setting, other.compiled["train"].total, other.limits(), compiled=True)
    kept = [change for change in report.changes if change.setting != setting]
    return dataclasses.replace(report, changes=(*kept, done))


COLUMNS = {  # of a table: name of the figure, unit, digits
    "GB/device": ("bytes_per_device", 1e9, 2),
    "memory GB": ("memory_traffic_bytes", 1e9, 1),
    "sent MB": ("link_bytes", 1e6, 1),
    "ms/step": ("roofline_seconds", 1e-3, 1),
    "tokens/s": ("tokens_per_second", 1, 0),
    "% of peak": ("share_of_peak", 0.01, 0),
    "days 10B": ("days_10b", 1, 2),
    "compile s": ("compile_seconds", 1, 0),
}
HEADS = f"{'target':<18}{'mesh':<14}{'parts':>6}" + "".join(f"{head:>12}" for head in COLUMNS)


def cells(found: dict[str, Any]) -> str:
    """A line of the table under ``HEADS``."""
    mesh = "x".join(map(str, found["mesh"].values()))
    shown = [f"{found['target']:<18}{mesh:<14}{found['accumulate']:>6}"]
    for name, unit, digits in COLUMNS.values():
        value = found.get(name)
        shown.append("" if value is None else f"{value / unit:,.{digits}f}")
    line = shown[0] + "".join(f"{cell:>12}" for cell in shown[1:])
    lacks = found["missing_bytes"]
    return f"{line}  lacks {lacks / 1e9:.1f} GB" if lacks else line.rstrip()
