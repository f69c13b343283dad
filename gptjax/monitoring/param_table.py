"""The table of a model's parameters: a row per module, equal neighbours folded into one.

In: the nested dict of parameters. Out: rows of plain text; drawing them is the terminal's.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Row = tuple[str, tuple[int, ...], int]  # dotted path, shape, number of parameters


def model_rows(params: Mapping[str, Any]) -> list[Row]:
    """List the parameters in the order in which one reads a model.

    Args:
      params: nested dict of arrays or ShapeDtypeStructs.

    Returns:
      (dotted path, shape, number of parameters) for each array.
    """
    rows: list[Row] = []
    for name in sorted(params, key=_reading_order):
        value = params[name]
        if isinstance(value, Mapping):
            rows += [(f"{name}.{path}", shape, n) for path, shape, n in model_rows(value)]
        else:
            rows.append((name, tuple(value.shape), math.prod(value.shape)))
    return rows


def fold(rows: Sequence[Row]) -> list[tuple[str, str, str, str]]:
    """Make of the rows a table for people: neighbours of one shape fold into one line.

    Args:
      rows: of ``model_rows``.

    Returns:
      Cells (name, shapes, parameters of each, of all): a line per top-level module, and for one
      with modules inside an indented line per inner module, whose numbers are for one of it.
    """
    table = []
    for names, leaves in _alike(rows, lambda path: path.partition(".")[0]):
        each, times = sum(n for *_, n in leaves), len(names)
        total = f"{each * times:,}"
        if not any("." in path for path, *_ in leaves):
            table.append((_join(names), _shapes(leaves, times), "", total))
            continue
        table.append((_join(names), "", f"{times} × {each:,}" if times > 1 else "", total))
        for inner, parts in _alike(leaves, lambda path: path.rpartition(".")[0] or path):
            count = len(inner) * sum(n for *_, n in parts)
            table.append(("  " + _join(inner), _shapes(parts, len(inner)), f"{count:,}", ""))
    return table


def _alike(rows: Sequence[Row], module: Callable[[str], str]) -> Iterator[tuple[list, list]]:
    """Group rows by module, then neighbouring modules with one parent and the same leaves."""
    modules = [
        (name, [(path[len(name) + 1 :], shape, n) for path, shape, n in group])
        for name, group in itertools.groupby(rows, lambda row: module(row[0]))
    ]
    same = itertools.groupby(modules, lambda item: (item[0].rpartition(".")[0], item[1]))
    for (_, leaves), group in same:
        yield [name for name, _ in group], leaves


def _join(names: Sequence[str]) -> str:
    parent = names[0].rpartition(".")[0]
    if len(names) > 3:
        return f"{names[0]} … {names[-1]}"
    return ", ".join([names[0], *(n.removeprefix(parent + ".") for n in names[1:])])


def _shapes(leaves: Sequence[Row], times: int) -> str:
    shapes = " + ".join("×".join(map(str, shape)) or "1" for _, shape, _ in leaves)
    return shapes if times == 1 else f"{times} × ({shapes})"


def _reading_order(name: str) -> tuple[int, list]:
    first = ("token_embedding_table", "position_embedding_table", "sa", "kernel", "scale")
    last = {"ln_f": len(first) + 1, "lm_head": len(first) + 2}
    rank = first.index(name) if name in first else last.get(name, len(first))
    # blocks_2 before blocks_10: digits count as numbers.
    return rank, [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]
