"""Measure how fast text is made, on fresh weights, and beside it what others use for the same.

    python -m gptjax.bench generate
    python -m gptjax.bench generate --peers --repeats=7 --json

In: nothing but this machine. Out: medians of repeats that are interleaved (A B A B), so that what
else the machine does falls on all alike; a table, or a line of JSON. Peers need PyTorch.
"""

from __future__ import annotations

import functools
import json
import os
from typing import Any

import jax

from gptjax.bench import generate, peers
from gptjax.cli import main as cli
from gptjax.errors import UserError
from gptjax.runtime import devices


def main(args: Any) -> int:
    """Measure, and print what was found."""
    if args.what != ["generate"]:
        raise UserError(f"{' '.join(args.what)!r} is nothing to measure: try generate")
    if args.repeats < 1:
        raise UserError(f"--repeats={args.repeats} must be 1 or more")
    report: dict[str, Any] = {
        "device": devices.device_line(),
        # What else runs: over 1 per core, the figures are those of a share of the machine.
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "repeats": args.repeats,
        "versions": {"jax": jax.__version__} | (peers.versions() if args.peers else {}),
        "results": [],
    }
    say = (lambda text: None) if args.json else functools.partial(print, flush=True)
    say(f"{report['device']}; load {report['load_average']}; {args.repeats} repeats")
    say(f"\n{'new tokens/s':<36}{'median':>9}{'slowest':>9}{'fastest':>9}")
    for work in generate.WORKS:
        lines = generate.measure(work, args.repeats, args.peers)
        report["results"] += lines
        say("\n".join([str(work), *map(_table_line, lines)]))
    report["cost_by_position"] = cost = generate.cost_by_position(generate.WORKS[0], args.repeats)
    shown = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in cost.items())
    print(json.dumps(report) if args.json else f"a cached token: {shown}")
    return 0


def _table_line(line: dict[str, Any]) -> str:
    who = line["who"] if line["times_as_fast"] else f"gptjax --window={line['who']}"
    speeds = "".join(f"{line[name]:>9.1f}" for name in generate.SPEEDS)
    times = [f"{window} is {times:.1f} x" for window, times in line["times_as_fast"].items()]
    return f"  {who:<34}{speeds}  {', '.join(times)}".rstrip()


FLAGS = [
    cli.Flag("repeats", 5, "measurements of each, interleaved; the median counts"),
    cli.Flag("peers", False, "measure PyTorch's on the same work too (and transformers')"),
    cli.Flag("json", False, "one line of JSON instead of a table"),
]

if __name__ == "__main__":
    cli.run(main, about=__doc__, flags=FLAGS, words="what")
