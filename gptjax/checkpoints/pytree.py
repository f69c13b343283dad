"""A tree of arrays as a table: name -> leaf, where a name is the path "Block_0/sa/kernel".

In: any tree (dicts, tuples, optax states). Out: its flat or nested-dict form, the description of a
leaf (dtype, shape, checksum), and the sentence that says how two such tables differ.
"""

import re
import zlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

NO_SUM = -1  # in place of a checksum: no process had all of the array


def n_numbers(tree: Any) -> int:
    """How many numbers a tree of arrays holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def flat(tree: Any) -> dict[str, Any]:
    """Leaves by name, in the order of ``jax.tree.leaves``; ValueError if two have one name."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}
    if len(named) != len(leaves):  # as in {"a": {"b": x}, "a/b": y}
        raise ValueError(f"{len(leaves)} leaves have only {len(named)} different names")
    return named


def nested(named: dict[str, Any]) -> dict[str, Any]:
    """Plain dicts in dicts, whatever the tree was made of: ``flat`` undoes it, up to the order."""
    return traverse_util.unflatten_dict(named, sep="/")


def own_parts(leaf: Any) -> list[np.ndarray]:
    """What this process has of a leaf, each part once; of one process all of it."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return [np.asarray(leaf)]
    parts = {str(shard.index): shard.data for shard in leaf.addressable_shards}
    return [np.asarray(part) for part in parts.values()]


def on_host(tree: Any) -> dict[str, np.ndarray]:
    """A copy of every leaf by name; what happens to the tree afterwards does not touch it."""
    named = flat(tree)
    for leaf in named.values():
        if isinstance(leaf, jax.Array):
            leaf.copy_to_host_async()  # an accelerator sends them all at once, not one by one
    return {name: host_copy(leaf) for name, leaf in named.items()}


def host_copy(leaf: Any) -> np.ndarray:
    """A leaf's values in memory of their own: a donated step overwrites what is only a view."""
    dtype = None if hasattr(leaf, "dtype") else jax.dtypes.result_type(leaf)  # 3 is an int32
    return np.array(leaf, dtype=dtype, order="C", copy=True)


def describe(array: np.ndarray) -> list:
    """An array as JSON: [dtype, shape, CRC-32 of its bytes]."""
    # Through uint8, because bfloat16 has no buffer of its own kind.
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return [array.dtype.name, list(array.shape), zlib.crc32(raw)]


def is_like(array: np.ndarray | jax.Array, like: list, total: int) -> bool:
    """Whether a restored array is the one described: that of a device's part is not summed."""
    if [array.dtype.name, list(array.shape)] != like:
        return False
    return isinstance(array, jax.Array) or total in (NO_SUM, describe(array)[2])


def is_cut(leaf: Any) -> bool:
    """Whether a leaf, or its shape, is to lie in parts on devices, or in several processes."""
    place = getattr(leaf, "sharding", None)
    return place is not None and not (place.is_fully_replicated and place.is_fully_addressable)


def put(array: np.ndarray, sharding: jax.sharding.Sharding | None) -> jax.Array:
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
    """How a saved table {name: [dtype, shape, checksum]} differs from the tree it should fill.

    It is "has ..., needs ..." with both numbers, ``part`` before each name; None when it fits.
    """
    needs = flat(tree)
    missing = [name for name in needs if name not in saved]
    unknown = [name for name in saved if name not in needs]
    if missing or unknown:
        ours, theirs = _numbered(needs), _numbered(saved)
        counts = [
            f"has {theirs[row]} of {part}/{row}, needs {ours[row]}"
            for row in {**theirs, **ours}
            if theirs[row] != ours[row]
        ]
        lists = [
            f"{word} {part}/{names[0]}" + (f" and {len(names) - 1} more" if names[1:] else "")
            for word, names in (("lacks", missing), ("has unknown", unknown))
            if names
        ]
        return ", ".join(counts[:1] + lists)
    wrong = []
    for name, leaf in needs.items():
        dtype, shape, _ = saved[name]
        # The dtype is said only where the shape is right.
        has, need = tuple(shape), leaf.shape
        if has == need:
            has, need = dtype, np.dtype(leaf.dtype).name
        if has != need:
            wrong.append(f"has {part}/{name} {has}, needs {need}")
    if wrong[1:]:
        wrong[0] += f", and {len(wrong) - 1} more differ"
    return wrong[0] if wrong else None


def _numbered(names: Iterable[str]) -> Counter[str]:
    """How many numbered siblings each row has: {"Block_*": 2, "Block_*/Head_*": 6}."""
    seen = {}  # siblings are counted once, however many parents have them
    for name in names:
        parts = name.split("/")
        stems = [re.sub(r"\d+$", "*", part) for part in parts]
        for depth, (part, stem) in enumerate(zip(parts, stems, strict=True), 1):
            if stem != part:
                seen["/".join(stems[:depth]), part] = True
    return Counter(row for row, _ in seen)
