"""What a model made, held against what it learnt from.

In: generated texts and the corpus. Out: which items are copies (makemore's report), and the
longest copied passage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

GRAM = 12  # characters
PART = 2**20  # characters of a source that are looked at together
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, with bits all over; products are modulo 2**64


def sort_items(items: Sequence[str], splits: Mapping[str, str]) -> dict[str, list[str]]:
    """Where items stand: "in train", "held out" (another of ``splits``, one a line) or "new"."""
    train = set(splits["train"].splitlines())
    held_out = {i for name, text in splits.items() if name != "train" for i in text.splitlines()}
    found: dict[str, list[str]] = {"in train": [], "held out": [], "new": []}
    for item in items:
        where = "in train" if item in train else "held out" if item in held_out else "new"
        found[where].append(item)
    return found


def longest(text: str, source: str) -> str:
    """The longest passage of ``text`` that stands in ``source`` too, the first of equals."""
    best, known_T = "", _grams_in_a_row(text, source)
    for begin in range(len(text)):
        at = 0
        # Only a passage longer than the best so far matters, so the search never looks back.
        while begin + (n := len(best) + 1) <= len(text) and known_T[begin] > n - GRAM:
            at = source.find(text[begin : begin + n], at)
            if at < 0:
                break
            while begin + n < len(text) and source[at + n : at + n + 1] == text[begin + n]:
                n += 1
            best = text[begin : begin + n]
    return best


def _grams_in_a_row(text: str, source: str) -> np.ndarray:
    """At each place of ``text``: how many ``GRAM`` characters, from there on one after the other,
    stand somewhere in ``source``, (T,).

    A passage of n characters has n - GRAM + 1 of them. Looking for it in a long source takes its
    time, and mostly one of these is not there.
    """
    asked_G = _hashes(text)
    listed = np.zeros(2**16, bool)  # by the first bits: most of the source is none of them
    listed[asked_G >> np.uint64(48)] = True
    found = np.zeros(len(asked_G), bool)
    for begin in range(0, len(source), PART):
        hashes = _hashes(source[begin : begin + PART + GRAM - 1])
        found |= np.isin(asked_G, hashes[listed[hashes >> np.uint64(48)]])
    known_T = np.zeros(len(text) + 1, int)
    for i in reversed(range(len(found))):
        known_T[i] = known_T[i + 1] + 1 if found[i] else 0
    return known_T


def _hashes(text: str) -> np.ndarray:
    """A number for each ``GRAM`` characters in a row, uint64 (T - GRAM + 1,)."""
    codes_T = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    n = max(0, len(codes_T) - GRAM + 1)
    hashes = np.zeros(n, np.uint64)
    for i in range(GRAM):
        hashes = hashes * _FACTOR + codes_T[i : i + n]
    return hashes * _FACTOR
