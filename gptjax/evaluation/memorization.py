"""What a model made, held against what it learnt from.

In: generated texts and the corpus. Out: which items are copies (makemore's report), and the
longest copied passage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


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
    best = ""
    for begin in range(len(text)):
        # Only a passage longer than the best so far matters, so the search never looks back.
        while begin + len(best) < len(text) and text[begin : begin + len(best) + 1] in source:
            best = text[begin : begin + len(best) + 1]
    return best
