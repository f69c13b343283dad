"""Contenders that take turns, A B A B, so that what else the machine does falls on all alike.

In: functions that return seconds. Out: the seconds of each turn, and what is said of them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

REST_SECONDS = 0.2  # between measurements: PyTorch's threads spin for a while after their work
Told = Callable[[str, int, int], None]  # what is measured, turns done, turns in all


def no_one(what: str, done: int, total: int) -> None:
    """Who is told where nobody asked to be."""


def interleave(
    calls: Mapping[str, Callable[[], float]], repeats: int, told: Told = no_one
) -> dict[str, list[float]]:
    """Make each call, which returns its seconds, ``repeats`` times in turns, after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(1 + repeats):
        for place, (name, call) in enumerate(calls.items()):
            told(name, turn * len(calls) + place, (1 + repeats) * len(calls))
            time.sleep(REST_SECONDS)
            seconds[name].append(call())
    return {name: taken[1:] for name, taken in seconds.items()}


def times_as_fast(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """The median of each turn's ratio of seconds: what slowed a turn slowed both."""
    return median(t / o for t, o in zip(theirs, ours, strict=True))


def spread(seconds: Sequence[float], unit: float = 1.0) -> dict[str, float]:
    """Median, fastest and slowest turn, in units of so many seconds."""
    found = {"median": median(seconds), "fastest": min(seconds), "slowest": max(seconds)}
    return {name: value / unit for name, value in found.items()}
