"""The table of a model's parameters: a row per module, equal neighbours folded into one.

In: the nested dict of parameters. Out: rows of plain text; drawing them is the console's.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

ParamRow = tuple[str, tuple[int, ...], int]  # path as "blocks_0/sa/proj/kernel", shape, parameters


def model_rows(params: Mapping[str, Any]) -> list[ParamRow]:
    """The parameters (arrays or ShapeDtypeStructs) in the order in which one reads a model."""
    leaves = dict(_leaves(params))
    order = sorted(leaves, key=lambda path: [_reading_order(name) for name in path.split("/")])
    return [(path, tuple(leaves[path].shape), math.prod(leaves[path].shape)) for path in order]


def sharding_lines(params: Mapping[str, Any]) -> Iterator[str]:
    """A line for each parameter: shape, how the mesh cuts it, what each device has of it."""
    from gptjax.runtime.mesh_rules import axis_names, device_bytes  # they import jax

    leaves, cells = dict(_leaves(params)), [("parameter", "shape", "cut by", "bytes per device")]
    for path, shape, _ in model_rows(params):
        leaf = leaves[path]
        axes = [" x ".join(axis_names(axis)) or "-" for axis in leaf.sharding.spec]
        of_one = f"{device_bytes(leaf):,}"
        cells.append((path, _shapes([(path, shape, 0)], 1), ", ".join(axes) or "-", of_one))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for *left, right in cells:
        row = [cell.ljust(width) for cell, width in zip(left, widths, strict=False)]
        yield "  ".join([*row, right.rjust(widths[-1])])


def largest_matrix(params: Mapping[str, Any]) -> tuple[str, Any]:
    """Path and leaf of the largest parameter with two axes."""
    return max(
        (item for item in _leaves(params) if item[1].ndim == 2), key=lambda item: item[1].size
    )


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    # Not by flax, whose import takes a second in which a command would say nothing.
    for name, inner in tree.items():
        if isinstance(inner, Mapping):
            yield from _leaves(inner, f"{above}{name}/")
        else:
            yield above + name, inner


def fold(rows: Sequence[ParamRow]) -> list[tuple[str, str, str, str]]:
    """Rows as a table for people, (name, shapes, parameters of each, of all): alike fold into one.

    There is a line per top-level module, and for one with modules inside an indented line per
    inner module, whose numbers are for one of it.
    """
    table = []
    for names, leaves in _alike(rows, lambda path: path.partition("/")[0]):
        each, times = sum(n for *_, n in leaves), len(names)
        total = f"{each * times:,}"
        if not any("/" in path for path, *_ in leaves):
            table.append((_join(names), _shapes(leaves, times), "", total))
            continue
        table.append((_join(names), "", f"{times} × {each:,}" if times > 1 else "", total))
        for inner, parts in _alike(leaves, lambda path: path.rpartition("/")[0] or path):
            count = len(inner) * sum(n for *_, n in parts)
            table.append(("  " + _join(inner), _shapes(parts, len(inner)), f"{count:,}", ""))
    return table


def _alike(rows: Sequence[ParamRow], module: Callable[[str], str]) -> Iterator[tuple[list, list]]:
    """Group rows by module, then neighbouring modules with one parent and the same leaves."""
    modules = [
        (name, [(path[len(name) + 1 :], shape, n) for path, shape, n in group])
        for name, group in itertools.groupby(rows, lambda row: module(row[0]))
    ]
    same = itertools.groupby(modules, lambda item: (item[0].rpartition("/")[0], item[1]))
    for (_, leaves), group in same:
        yield [name for name, _ in group], leaves


def _join(names: Sequence[str]) -> str:
    if len(names) > 3:
        return f"{names[0]} … {names[-1]}"
    return ", ".join([names[0], *(name.rpartition("/")[2] for name in names[1:])])


def _shapes(leaves: Sequence[ParamRow], times: int) -> str:
    shapes = " + ".join("×".join(map(str, shape)) or "1" for _, shape, _ in leaves)
    return shapes if times == 1 else f"{times} × ({shapes})"


def _reading_order(name: str) -> tuple[int, list]:
    first = ("token_embedding_table", "position_embedding_table", "sa", "kernel", "scale")
    last = {"ln_f": len(first) + 1, "lm_head": len(first) + 2}
    rank = first.index(name) if name in first else last.get(name, len(first))
    # blocks_2 before blocks_10: digits count as numbers.
    return rank, [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]
