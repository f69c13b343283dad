"""Measure how fast text is made, on fresh weights, and beside it what others are used for the same.

    python -m gptjax.bench generate
    python -m gptjax.bench generate --peers --repeats=7 --json

In: nothing but this machine. Out: medians of repeats that are interleaved (A B A B), so that what
else the machine does falls on all alike; a table, or a line of JSON. Peers need PyTorch.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import bench_torch, cli, decoding, machine, samplers
from gptjax.errors import UserError
from gptjax.models.gpt import GPTLanguageModel

VOCAB_SIZE = 65  # of tinyshakespeare
REST_SECONDS = 0.2  # between two measurements: PyTorch's threads spin for a while when they are done


@dataclasses.dataclass(frozen=True)
class Work:
    """A model's size (block_size, n_embd, n_head, n_layer) and how much it is to write."""

    sizes: tuple[int, int, int, int]
    batch_size: int
    tokens: int
    windows: tuple[str, ...] = ("exact",)
    peers: bool = True

    def __str__(self) -> str:
        block, n_embd, n_head, n_layer = self.sizes
        size = f"{n_embd}/{n_head}/{n_layer}, block {block}"
        return f"{size}, batch {self.batch_size}, {self.tokens} tokens"


SMALL, LARGE = (64, 128, 4, 4), (256, 384, 6, 6)
WORKS = (
    Work(LARGE, batch_size=1, tokens=250),
    Work(LARGE, batch_size=32, tokens=250, peers=False),
    Work(SMALL, batch_size=1, tokens=1000, windows=decoding.WINDOWS),
)
NEAR, FAR, SPAN = 10, 250, 10  # cost per token: SPAN tokens around these positions


def interleave(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Time each call ``repeats`` times, in turns, behind one turn that compiles and warms up.

    Args:
      calls: name -> a function that returns when its work is done.
      repeats: measurements of each.

    Returns:
      name -> seconds, in order.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            time.sleep(REST_SECONDS)
            begin = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def measure(work: Work, repeats: int, peers: bool) -> list[dict[str, Any]]:
    """One line per contender: its tokens/s, and how many times as fast the first is.

    Args:
      work: what to write.
      repeats: measurements of each contender.
      peers: whether PyTorch's take part.

    Returns:
      The lines, ours first.
    """
    calls = {f"gptjax, {window} window": _generate(work, window) for window in work.windows}
    if peers and work.peers:
        calls |= bench_torch.peers(work.sizes, VOCAB_SIZE, work.batch_size, work.tokens)
    seconds = interleave(calls, repeats)
    n, first = work.batch_size * work.tokens, next(iter(calls))
    return [
        {
            "work": str(work),
            "who": who,
            "tokens_per_second": round(n / statistics.median(taken), 1),
            "slowest": round(n / max(taken), 1),
            "fastest": round(n / min(taken), 1),
            # Of each turn, and then the median: what slowed a turn down slowed both.
            "gptjax_is_times_as_fast": round(
                statistics.median(t / a for t, a in zip(taken, seconds[first], strict=True)), 2
            ),
        }
        for who, taken in seconds.items()
    ]


def cost_by_position(sizes: tuple[int, int, int, int], repeats: int) -> dict[str, float]:
    """Milliseconds per cached token near the beginning and near the end of the context.

    Args:
      sizes: block_size, n_embd, n_head, n_layer.
      repeats: measurements of each.

    Returns:
      Both medians, and their ratio.
    """
    model, turned = _fresh(sizes)
    near, far = NEAR * sizes[0] // LARGE[0] or 2, FAR * sizes[0] // LARGE[0]

    def write_from(position: int) -> Callable[[], None]:
        prompts = [np.zeros(position - SPAN // 2, np.int32)] * 1

        def call():
            rows = decoding.start(model, turned, prompts, SPAN, jax.random.split(KEY, 1))
            jax.block_until_ready(rows)
            _finish(decoding.advance(model, "exact", turned, rows, SAMPLER, SPAN))

        return call

    raise NotImplementedError(near, far, write_from)
