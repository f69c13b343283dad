"""A tree of arrays as a table: name -> leaf, where a name is the path "Block_0/sa/kernel".

In: any tree (dicts, tuples, optax states). Out: its flat or nested-dict form, a leaf's description
(dtype, shape, checksum), and the sentence that says how two such tables differ. No files here.
"""

from __future__ import annotations

import re
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def flat(tree: Any) -> dict[str, Any]:
    """A tree's leaves by name, in the order of ``jax.tree.leaves``.

    Raises:
      ValueError: two leaves have one name, as in {"a": {"b": x}, "a/b": y}.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}
    if len(named) != len(leaves):
        raise ValueError(f"{len(leaves)} leaves have only {len(named)} different names")
    return named


def nested(named: dict[str, Any]) -> dict[str, Any]:
    """Plain dicts in dicts, whatever the tree was made of: ``flat`` undoes it, up to the order."""
    tree: dict[str, Any] = {}
    for name, leaf in named.items():
        *parents, own = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[own] = leaf
    return tree


def on_host(tree: Any) -> dict[str, np.ndarray]:
    """A copy of every leaf by name; what happens to the tree afterwards does not touch it."""
    named = flat(tree)
    for leaf in named.values():
        if isinstance(leaf, jax.Array):
            leaf.copy_to_host_async()  # an accelerator sends them all at once, not one by one
    return {name: host_copy(leaf) for name, leaf in named.items()}


def host_copy(leaf: Any) -> np.ndarray:
    """A leaf's values in memory of their own.

    On a CPU ``np.asarray`` of a jax.Array is a view of its buffer, which a donated step overwrites.
    """
    dtype = None if hasattr(leaf, "dtype") else jax.dtypes.result_type(leaf)  # 3 is an int32
    return np.array(leaf, dtype=dtype, order="C", copy=True)


def describe(array: np.ndarray) -> list:
    """An array as JSON: [dtype, shape, CRC-32 of its bytes]."""
    # Through uint8, because bfloat16 has no buffer of its own kind.
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return [array.dtype.name, list(array.shape), zlib.crc32(raw)]


def place(array: np.ndarray, sharding: jax.sharding.Sharding | None) -> jax.Array:
    """An array on the devices of a sharding; each reads its own slice. None: the default device."""
    if sharding is None:
        return jnp.array(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def well_formed(table: Any) -> bool:
    """Whether a value from a JSON file is a table {name: [dtype, shape, checksum]}."""
    return isinstance(table, dict) and all(
        isinstance(entry, list)
        and [type(part) for part in entry] == [str, list, int]
        and all(type(size) is int for size in entry[1])
        for entry in table.values()
    )


def misfit(part: str, saved: dict[str, list], tree: Any) -> str | None:
    """How a saved table differs from the tree it should fill.

    Args:
      part: what stands before each name in the sentence, as "params".
      saved: name -> [dtype, shape, checksum].
      tree: leaves with ``shape`` and ``dtype``.

    Returns:
      "has ..., needs ..." with names and both numbers, or None when it fits.
    """
    needs = flat(tree)
    missing = [name for name in needs if name not in saved]
    surplus = [name for name in saved if name not in needs]
    if missing or surplus:
        ours, theirs = _numbered(needs), _numbered(saved)
        counts = [
            f"has {len(theirs.get(row, ()))} of {part}/{row}, needs {len(ours.get(row, ()))}"
            for row in {**theirs, **ours}
            if len(theirs.get(row, ())) != len(ours.get(row, ()))
        ]
        lists = [
            f"{word} {part}/{names[0]}" + (f" and {len(names) - 1} more" if names[1:] else "")
            for word, names in (("lacks", missing), ("has unknown", surplus))
            if names
        ]
        return ", ".join(counts[:1] + lists)
    wrong = []
    for name, leaf in needs.items():
        has, need = (tuple(saved[name][1]), saved[name][0]), (leaf.shape, np.dtype(leaf.dtype).name)
        if has != need:
            # The dtype is said only when it is what differs.
            first = 0 if has[0] != need[0] else 1
            wrong.append(f"has {part}/{name} {has[first]}, needs {need[first]}")
    if wrong[1:]:
        wrong[0] += f", and {len(wrong) - 1} more differ"
    return wrong[0] if wrong else None


def _numbered(names: Any) -> dict[str, set[str]]:
    """Rows of numbered siblings: {"Block_*": {"Block_0", "Block_1"}}, outermost first."""
    rows: dict[str, set[str]] = {}
    for name in names:
        parts = name.split("/")
        for depth in range(1, len(parts) + 1):
            stem = re.sub(r"\d+$", "*", parts[depth - 1])
            if stem != parts[depth - 1]:
                # Siblings are counted once, however many parents have them.
                row = "/".join([*(re.sub(r"\d+$", "*", p) for p in parts[: depth - 1]), stem])
                rows.setdefault(row, set()).add(parts[depth - 1])
    return rows
