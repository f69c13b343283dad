"""Measure how fast this machine trains, writes and begins, and beside it what others use.

    python -m gptjax.bench train --only=4/4/128
    python -m gptjax.bench train --peers --repeats=7 --json
    python -m gptjax.bench train --cost
    python -m gptjax.bench generate --peers
    python -m gptjax.bench startup

In: nothing but this machine. Out: medians of repeats that are interleaved (A B A B), so that what
else the machine does falls on all alike; a table, or a line of JSON. Sizes are n_layer/n_head/
n_embd. Peers need PyTorch.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from gptjax.cli import main as cli
from gptjax.config.schema import Config
from gptjax.errors import UserError, did_you_mean
from gptjax.monitoring.console import Terminal
from gptjax.runtime import compilation_cache

Report = dict[str, Any]
Say = Callable[[str], None]
COLUMNS = {  # of a training step: name, unit, digits
    "tokens/s": ("tokens_per_second", 1, 0),
    "GFLOP/s": ("flops_per_second", 1e9, 1),
    "% of peak": ("share_of_peak", 0.01, 0),
    "compile s": ("compile_seconds", 1, 1),
    "MB": ("memory_bytes", 1e6, 0),
}


def main(args: Any) -> int:
    """Measure, and print what was found."""
    check(args)
    with Terminal(sys.stderr if args.json else None) as terminal:
        with terminal.doing("starting JAX"):
            import jax

            from gptjax.bench import peers
            from gptjax.runtime import devices

            report = {
                "device": devices.device_line(),
                # What else runs: over 1 per core, the figures are those of a share of the machine.
                "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
                "repeats": args.repeats,
                "versions": {"jax": jax.__version__} | (peers.versions() if args.peers else {}),
            }
        say = (lambda text: None) if args.json else terminal.note
        say(f"{report['device']}; load {report['load_average']}; {args.repeats} repeats")
        report |= MEASURES[args.what[0]](args, terminal, say)
    if args.json:
        print(json.dumps(report))
    return 0


def check(args: Any) -> None:
    """Refuse what cannot be measured, before anything is imported."""
    what = " ".join(args.what)
    if what not in MEASURES:
        near = did_you_mean(what, MEASURES)
        raise UserError(f"{what!r} is nothing to measure{near}: try {', '.join(MEASURES)}")
    if args.repeats < 1:
        raise UserError(f"--repeats={args.repeats} must be 1 or more")
    if what != "train" and (args.only or args.cost):
        raise UserError(f"--{'only' if args.only else 'cost'} is of bench train: leave it out")
    if args.peers and (what == "startup" or args.cost):
        raise UserError("--peers train and generate: leave it out here")
    if args.only and args.cost:
        raise UserError("--only chooses works and --cost measures none of them: give one")


def measure_generate(args: Any, terminal: Terminal, say: Say) -> Report:
    """New tokens per second, and the cost of a cached token by its place."""
    from gptjax.bench import generate

    results = []
    say(f"\n{'new tokens/s':<36}{'median':>9}{'slowest':>9}{'fastest':>9}")
    for work in generate.WORKS:
        lines = generate.measure(work, args.repeats, args.peers, _told(terminal, str(work)))
        results += lines
        say("\n".join([str(work), *map(_speeds, lines)]))
    cost = generate.cost_by_position(generate.WORKS[0], args.repeats)
    shown = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in cost.items())
    say(f"a cached token: {shown}")
    return {"results": results, "cost_by_position": cost}


def _speeds(line: Report) -> str:
    who = line["who"] if line["times_as_fast"] else f"gptjax --window={line['who']}"
    speeds = "".join(f"{line[name]:>9.1f}" for name in ("tokens_per_second", "slowest", "fastest"))
    times = [f"{window} is {times:.1f} x" for window, times in line["times_as_fast"].items()]
    return f"  {who:<34}{speeds}  {', '.join(times)}".rstrip()


def measure_train(args: Any, terminal: Terminal, say: Say) -> Report:
    """ms per step of each work, or how it grows with the sizes."""
    from gptjax.bench import peaks, train

    compilation_cache.switch(False)  # what it would spare is measured
    if args.cost:
        return measure_cost(args, terminal, say)
    works = [work for work in train.WORKS if args.only in str(work)]
    if not works:
        names = "; ".join(map(str, train.WORKS))
        raise UserError(f"--only={args.only!r} is in the name of no work: {names}")
    with terminal.doing("the largest products"):
        found = {dtype: peaks.find(dtype, args.peers) for dtype in peaks.dtypes()}
    peak = {dtype: peak["flops_per_second"] for dtype, peak in found.items()}
    if "bfloat16" not in found:
        say("bfloat16 is left out: this device is not quick in it")
    for dtype, peak_of in found.items():
        flops = peak_of["flops_per_second"]
        say(f"peak {dtype}: {f'{flops / 1e9:,.0f} GFLOP/s, ' if flops else ''}{peak_of['source']}")
    heads = ("ms/step", "fastest", "slowest", *COLUMNS)
    say(f"\n{'':<28}{''.join(f'{head:>10}' for head in heads)}")
    results = []
    for work in works:
        told = _told(terminal, str(work))
        lines = train.measure(work, args.repeats, args.peers, peak, told, say)
        results += lines
        say("\n".join([str(work), *map(_step, lines)]))
    return {"peaks": found, "results": results}


def _step(line: Report) -> str:
    cells = [f"{ms:.4g}" for ms in line["ms_per_step"].values()]
    for name, unit, digits in COLUMNS.values():
        cells.append("" if line[name] is None else f"{line[name] / unit:,.{digits}f}")
    more = f"  {line['steps']:,} steps: {line['seconds']:.1f} s" if "steps" in line else ""
    if times := line["times_as_fast"]:
        best = min(times, key=times.__getitem__)  # the peer's best way counts
        more += f"  {times[best]:.2f} x {best}"
    return f"  {line['who']:<26}{''.join(f'{cell:>10}' for cell in cells)}{more}".rstrip()


def measure_cost(args: Any, terminal: Terminal, say: Say) -> Report:
    """How a step's cost grows with block, width and depth."""
    from gptjax.bench import train

    found = []
    for name in train.COSTS:
        for dtype in train.modes(Config()):
            found.append(train.cost(name, dtype, args.repeats, _told(terminal, name)))
            say(f"\n{name}, {dtype}: ms per step grow as its power {found[-1]['exponent']:.2f}")
            for row in found[-1]["rows"]:
                speed = f"{row['tokens_per_second']:>12,.0f} tokens/s"
                ms, size = row["ms_per_step"]["median"], row["memory_bytes"] / 1e6
                say(f"  {row['size']:>6}{ms:>10.1f} ms/step{speed}{size:>9,.0f} MB")
    return {"cost": found}


def measure_startup(args: Any, terminal: Terminal, say: Say) -> Report:
    """Seconds of whole processes."""
    from gptjax.bench import startup

    lines = startup.measure(args.repeats, _told(terminal, "startup"), terminal.warn)
    say(f"\n{'seconds':<40}{'median':>9}{'fastest':>9}{'slowest':>9}")
    for line in lines:
        say(f"{line['what']:<40}{''.join(f'{s:>9.2f}' for s in line['seconds'].values())}")
    return {"results": lines}


def _told(terminal: Terminal, work: str) -> Callable[[str, int, int], None]:
    return lambda what, done, total: terminal.busy(f"{work}: {what}", done, total)


MEASURES = {"train": measure_train, "generate": measure_generate, "startup": measure_startup}
FLAGS = [
    cli.Flag("repeats", 5, "measurements of each, interleaved; the median counts"),
    cli.Flag("peers", False, "measure PyTorch's on the same work too (and transformers')"),
    cli.Flag("only", "", "train: only works in whose name this stands, as 4/4/128 or dropout"),
    cli.Flag("cost", False, "train: how a step's cost grows with block, width and depth instead"),
    cli.Flag("json", False, "one line of JSON instead of a table"),
]

if __name__ == "__main__":
    cli.run(main, about=__doc__, flags=FLAGS, words="what")
