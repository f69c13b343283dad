"""How fast text is made, on fresh weights, and beside it what others use for the same.

In: sizes of a model and how much it is to write. Out: tokens per second of interleaved repeats.
"""

from __future__ import annotations

import functools
import time
from statistics import median
from typing import Any, NamedTuple

import jax
import numpy as np

from gptjax.bench import peers
from gptjax.bench.turns import Told, interleave, no_one, times_as_fast
from gptjax.config.schema import WINDOWS
from gptjax.generation import decode, sampling
from gptjax.models.gpt import GPTLanguageModel

VOCAB_SIZE = 65  # of tinyshakespeare
SPEEDS = {"tokens_per_second": median, "slowest": max, "fastest": min}  # of seconds
PLACES = (10, 250)  # early and late in the context
SAMPLER = sampling.build(temperature=0.8)


class Work(NamedTuple):
    """Sizes of a model (the first four), and how much it is to write."""

    block_size: int
    n_embd: int
    n_head: int
    n_layer: int
    batch_size: int
    tokens: int
    windows: tuple[str, ...] = ("exact",)
    peers: bool = True

    def __str__(self) -> str:
        size = f"{self.n_layer}/{self.n_head}/{self.n_embd}, block {self.block_size}"
        return f"{size}, batch {self.batch_size}, {self.tokens} tokens"


WORKS = (
    Work(256, 384, 6, 6, batch_size=1, tokens=250),
    Work(256, 384, 6, 6, batch_size=32, tokens=250, peers=False),
    Work(64, 128, 4, 4, batch_size=1, tokens=1000, windows=WINDOWS),
)


class Ours:
    """A fresh model that writes from a prompt of any length; seconds are what comes back."""

    def __init__(self, work: Work):
        model, x = GPTLanguageModel(VOCAB_SIZE, *work[:4]), np.zeros((1, 1), np.int32)
        params = jax.jit(model.init)(jax.random.key(0), x)["params"]
        self.model, self.params = decode.prepare(model, params)

    def write(self, batch_size: int, tokens: int, window: str = "exact") -> float:
        """After one token in each row, as ``gptjax.sample`` begins a text."""
        keys, begin = jax.random.split(jax.random.key(0), batch_size), time.perf_counter()
        prompts = [np.zeros(1, np.int32)] * batch_size
        state = decode.start(self.model, self.params, prompts, keys)
        for done in range(0, tokens, decode.ROOM):
            n = min(decode.ROOM, tokens - done)
            state = decode.advance(self.model, window, self.params, state, SAMPLER, n)
        jax.block_until_ready(state)
        return time.perf_counter() - begin

    def write_around(self, position: int, tokens: int) -> float:
        """``tokens`` tokens, those around ``position``; reading what is before takes no time."""
        prompt = np.zeros(position - tokens // 2, np.int32)
        keys = jax.random.split(jax.random.key(0), 1)
        state = jax.block_until_ready(decode.start(self.model, self.params, [prompt], keys))
        begin = time.perf_counter()
        state = decode.advance(self.model, "exact", self.params, state, SAMPLER, tokens)
        jax.block_until_ready(state)
        return time.perf_counter() - begin


def measure(
    work: Work, repeats: int, with_peers: bool = False, told: Told = no_one
) -> list[dict[str, Any]]:
    """New tokens/s over all rows of each contender, ours first, and how many times a peer's."""
    ours, B, n = Ours(work), work.batch_size, work.tokens
    calls = {window: functools.partial(ours.write, B, n, window) for window in work.windows}
    if with_peers and work.peers:
        calls |= peers.peers((VOCAB_SIZE, *work[:4]), B, n)
    seconds = interleave(calls, repeats, told)
    lines = []
    for who, taken in seconds.items():
        speeds = {name: B * n / of(taken) for name, of in SPEEDS.items()}
        windows = () if who in work.windows else work.windows
        times = {window: times_as_fast(taken, seconds[window]) for window in windows}
        lines.append({"work": str(work), "who": who, **speeds, "times_as_fast": times})
    return lines


def cost_by_position(work: Work, repeats: int, tokens: int = 10) -> dict[str, float]:
    """What a cached token costs around an early and a late position, median ms, and their ratio."""
    ours = Ours(work)
    calls = {str(at): functools.partial(ours.write_around, at, tokens) for at in PLACES}
    seconds = interleave(calls, repeats)
    cost = {f"ms_per_token_at_{at}": 1000 * median(s) / tokens for at, s in seconds.items()}
    return cost | {"ratio": median(b / a for a, b in zip(*seconds.values(), strict=True))}
