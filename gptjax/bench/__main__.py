"""Measure how fast text is made, on fresh weights, and beside it what others use for the same.

    python -m gptjax.bench generate
    python -m gptjax.bench generate --peers --repeats=7 --json

In: nothing but this machine. Out: medians of repeats that are interleaved (A B A B), so that what
else the machine does falls on all alike; a table, or a line of JSON. Peers need PyTorch.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.bench import peers as bench_torch
from gptjax.cli import main as cli
from gptjax.errors import UserError
from gptjax.generation import decode as decoding
from gptjax.generation import sampling as samplers
from gptjax.models.gpt import GPTLanguageModel
from gptjax.runtime import devices as machine

VOCAB_SIZE = 65  # of tinyshakespeare
REST_SECONDS = 0.2  # between measurements: PyTorch's threads spin for a while after their work
SAMPLER = samplers.build(temperature=0.8)


@dataclasses.dataclass(frozen=True)
class Work:
    """Sizes of a model, and how much it is to write."""

    block_size: int
    n_embd: int
    n_head: int
    n_layer: int
    batch_size: int
    tokens: int
    windows: tuple[str, ...] = ("exact",)
    peers: bool = True

    def __str__(self) -> str:
        size = f"{self.n_embd}/{self.n_head}/{self.n_layer} block {self.block_size}"
        return f"{size}, batch {self.batch_size}, {self.tokens} tokens"


WORKS = (
    Work(256, 384, 6, 6, batch_size=1, tokens=250),
    Work(256, 384, 6, 6, batch_size=32, tokens=250, peers=False),
    Work(64, 128, 4, 4, batch_size=1, tokens=1000, windows=decoding.WINDOWS),
)


class Ours:
    """A fresh model that writes from a prompt of any length; seconds are what comes back."""

    def __init__(self, work: Work):
        sizes = (work.block_size, work.n_embd, work.n_head, work.n_layer)
        self.model = GPTLanguageModel(VOCAB_SIZE, *sizes)
        x = jnp.zeros((1, 1), jnp.int32)
        self.turned = decoding.turn(jax.jit(self.model.init)(jax.random.key(0), x)["params"])

    def write(self, batch_size: int, tokens: int, window: str = "exact") -> float:
        """Behind one token in each row, as ``gptjax.sample`` begins a text."""
        keys, begin = jax.random.split(jax.random.key(0), batch_size), time.perf_counter()
        prompts = [np.zeros(1, np.int32)] * batch_size
        rows = decoding.start(self.model, self.turned, prompts, tokens, keys)
        rows = decoding.advance(self.model, window, self.turned, rows, SAMPLER, tokens)
        jax.block_until_ready(rows)
        return time.perf_counter() - begin

    def write_around(self, position: int, tokens: int) -> float:
        """``tokens`` tokens, those around ``position``; reading what is before takes no time."""
        prompt = np.zeros(position - tokens // 2, np.int32)
        room = self.model.block_size - len(prompt)  # the same buffer for every position
        keys = jax.random.split(jax.random.key(0), 1)
        rows = decoding.start(self.model, self.turned, [prompt], room, keys)
        jax.block_until_ready(rows)
        begin = time.perf_counter()
        rows = decoding.advance(self.model, "exact", self.turned, rows, SAMPLER, tokens)
        jax.block_until_ready(rows)
        return time.perf_counter() - begin


def interleave(calls: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Make each call ``repeats`` times, in turns, behind one turn that compiles and warms up.

    Args:
      calls: name -> a function that does its work and returns how long it took, seconds.
      repeats: measurements of each.

    Returns:
      name -> seconds, in order.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            time.sleep(REST_SECONDS)
            taken = call()
            if turn:
                seconds[name].append(taken)
    return seconds


def measure(work: Work, repeats: int, peers: bool = False) -> list[dict[str, Any]]:
    """How fast each contender does the work.

    Args:
      work: what to write.
      repeats: measurements of each contender.
      peers: whether PyTorch's take part.

    Returns:
      A dict per contender, ours first: new tokens/s over all rows (median, slowest, fastest), and
      of a peer how many times as fast each window of ours is.
    """
    ours, B, n = Ours(work), work.batch_size, work.tokens
    calls: dict[str, Callable[[], float]] = {
        window: lambda window=window: ours.write(B, n, window) for window in work.windows
    }
    if peers and work.peers:
        sizes = (work.block_size, work.n_embd, work.n_head, work.n_layer)
        calls |= bench_torch.peers(VOCAB_SIZE, *sizes, B, n)
    seconds = interleave(calls, repeats)
    lines = []
    for who, taken in seconds.items():
        line: dict[str, Any] = {"work": str(work), "who": who}
        line["tokens_per_second"] = B * n / median(taken)
        line |= {"slowest": B * n / max(taken), "fastest": B * n / min(taken)}
        # The median of each turn's ratio: what slowed a turn slowed both.
        line["times_as_fast"] = {
            window: median(t / o for t, o in zip(taken, seconds[window], strict=True))
            for window in (() if who in work.windows else work.windows)
        }
        lines.append(line)
    return lines


def cost_by_position(
    work: Work, repeats: int, near: int = 10, far: int = 250, tokens: int = 10
) -> dict[str, Any]:
    """What a cached token costs early and late in the context.

    Args:
      work: gives the model's sizes.
      repeats: measurements of each.
      near: a position early in the context.
      far: a late one; ``tokens`` / 2 more must fit into it.
      tokens: written around each.

    Returns:
      Medians in ms per token, and the late cost over the early one.
    """
    ours = Ours(work)
    calls = {
        str(place): lambda place=place: ours.write_around(place, tokens) for place in (near, far)
    }
    early, late = interleave(calls, repeats).values()
    return {
        f"ms_per_token_at_{near}": 1000 * median(early) / tokens,
        f"ms_per_token_at_{far}": 1000 * median(late) / tokens,
        "ratio": median(b / a for a, b in zip(early, late, strict=True)),
    }


def main(args: Any) -> int:
    """Measure, and print what was found."""
    if args.what != ["generate"]:
        raise UserError(f"{' '.join(args.what)!r} is nothing to measure: try generate")
    if args.repeats < 1:
        raise UserError(f"--repeats={args.repeats} must be 1 or more")
    if args.peers:
        bench_torch.require()
    report: dict[str, Any] = {
        "device": machine.device_line(),
        # What else runs: over 1 per core, the figures are those of a share of the machine.
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "repeats": args.repeats,
        "versions": {"jax": jax.__version__} | (bench_torch.versions() if args.peers else {}),
        "results": [],
    }
    if not args.json:
        print(f"{report['device']}; load {report['load_average']}; {args.repeats} repeats")
        print(f"\n{'new tokens/s':<36}{'median':>9}{'slowest':>9}{'fastest':>9}")
    for work in WORKS:
        lines = measure(work, args.repeats, args.peers)
        report["results"] += lines
        if not args.json:
            print(work)
            for line in lines:
                print(_table_line(line), flush=True)
    report["cost_by_position"] = cost = cost_by_position(WORKS[0], args.repeats)
    if args.json:
        print(json.dumps(report))
    else:
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in cost.items())
        print(f"a cached token: {shown}")
    return 0


def _table_line(line: Mapping[str, Any]) -> str:
    who = line["who"] if line["times_as_fast"] else f"gptjax --window={line['who']}"
    speeds = "".join(f"{line[name]:>9.1f}" for name in ("tokens_per_second", "slowest", "fastest"))
    times = [f"{window} is {times:.1f} x" for window, times in line["times_as_fast"].items()]
    return f"  {who:<34}{speeds}  {', '.join(times)}".rstrip()


FLAGS = [
    cli.Flag("repeats", 5, "measurements of each, interleaved; the median counts"),
    cli.Flag("peers", False, "measure PyTorch's on the same work too (and transformers')"),
    cli.Flag("json", False, "one line of JSON instead of a table"),
]

if __name__ == "__main__":
    cli.run(main, about=__doc__, flags=FLAGS, words="what")
