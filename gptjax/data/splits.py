"""A text cut into splits: train and val, and for lists of items test.

In: a text, and a seed where items are shuffled. Out: texts, or lists of items, by split.
"""

import random

import numpy as np

from gptjax.errors import UserError


def split_stream(text: str) -> dict[str, str]:
    """Cut a text at int(0.9 n): train before, val after (the notes, page 3)."""
    n = train_characters(len(text))
    return {"train": text[:n], "val": text[n:]}


def train_characters(n: int) -> int:
    """How many of the ``n`` characters of a stream are train's; UserError: too few to split."""
    if n < 2:
        raise UserError(f"the text has {n} character: 2 are the least that can be split")
    return int(0.9 * n)


def split_items(text: str, seed: int) -> tuple[dict[str, list[str]], int]:
    """Deal the distinct lines out, 80/10/10, so that no item stands in two splits.

    Gives the items of train, val and test, at least one in each, and how many repeated lines fell
    away; blank lines and white space at a line's end do not count. UserError: fewer than three
    distinct items, or a seed below 0.
    """
    lines, items = _lines(text, seed)
    # Sorting raw bits is a shuffle that no later numpy may change; Generator's own may.
    order = np.argsort(np.random.Philox(seed).random_raw(len(items)), kind="stable")
    shuffled = [items[i] for i in order]
    n_held = max(1, len(items) // 10)
    a, b = len(items) - 2 * n_held, len(items) - n_held
    splits = {"train": shuffled[:a], "val": shuffled[a:b], "test": shuffled[b:]}
    return splits, len(lines) - len(items)


def split_as_makemore(text: str, seed: int) -> tuple[dict[str, list[str]], int]:
    """Deal all lines out, repeated ones too, so that a name may stand in two splits.

    Otherwise as ``split_items``; nothing falls away. With seed 42 the splits of names.txt are
    those of makemore's part 2, to stand beside its published losses. Source: karpathy/makemore,
    part 2: ``random.shuffle``, then 80/10/10.
    """
    lines, _ = _lines(text, seed)
    random.Random(seed).shuffle(lines)
    n = len(lines)
    a = min(int(0.8 * n), n - 2)
    b = min(max(int(0.9 * n), a + 1), n - 1)
    return {"train": lines[:a], "val": lines[a:b], "test": lines[b:]}, 0


def _lines(text: str, seed: int) -> tuple[list[str], list[str]]:
    """The lines that are not blank, and the distinct ones of them."""
    lines = item_lines(text)
    items = list(dict.fromkeys(lines))
    if len(items) < 3:
        raise UserError(
            f"the text has {len(items)} distinct items (lines that are not blank), and train, val "
            "and test need one each: give at least 3, or use data.kind='stream'"
        )
    if seed < 0:
        raise UserError(f"seed={seed} must be at least 0")
    return lines, items


def item_lines(text: str) -> list[str]:
    """The items of a text: its lines without white space at their ends, blank ones left out."""
    return [line for line in map(str.rstrip, text.split("\n")) if line]
