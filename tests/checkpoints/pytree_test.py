"""leaves.py: names, copies and descriptions of a tree's leaves."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.checkpoints import pytree as leaves


class Pair(NamedTuple):
    mu: object
    nu: object


def test_leaves_are_named_by_their_path_whatever_holds_them():
    tree = {"b": Pair(1, (2, [3])), "a": {"x y": 4}, "none": None, "empty": ()}
    assert leaves.flat(tree) == {"a/x y": 4, "b/mu": 1, "b/nu/0": 2, "b/nu/1/0": 3}
    nested = leaves.nested(leaves.flat(tree))
    assert nested == {"a": {"x y": 4}, "b": {"mu": 1, "nu": {"0": 2, "1": {"0": 3}}}}
    assert leaves.flat(nested) == leaves.flat(tree)
    with pytest.raises(ValueError, match="2 leaves have only 1"):
        leaves.flat({"a": {"b": 1}, "a/b": 2})


def test_a_host_copy_shares_no_memory_and_keeps_the_bits():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert not np.shares_memory(leaves.host_copy(array), array)
    assert leaves.host_copy(array.T).flags.c_contiguous
    on_device = jnp.array(array, jnp.bfloat16)
    assert not np.shares_memory(leaves.host_copy(on_device), np.asarray(on_device))
    assert leaves.host_copy(on_device).dtype == jnp.bfloat16
    assert leaves.host_copy(3).dtype == np.int32  # as jit would take it


def test_a_description_tells_arrays_apart_by_type_shape_and_any_bit():
    base = np.zeros((2, 3), np.float32)
    others = [base.reshape(3, 2), base.astype(np.int32), -base, base[:1], np.zeros((), np.float32)]
    seen = {str(leaves.describe(array)) for array in [base, *others]}
    assert len(seen) == 6
    assert leaves.describe(np.asfortranarray(base + 1)) == leaves.describe(base + 1)
    assert leaves.describe(np.ones(3, jnp.bfloat16))[:2] == ["bfloat16", [3]]
    assert leaves.well_formed({"a": leaves.describe(base), "b": leaves.describe(others[-1])})
    for wrong in ([], {"a": 1}, {"a": ["f", [2], 1.0]}, {"a": ["f", ["2"], 1]}, {"a": ["f", 2, 1]}):
        assert not leaves.well_formed(wrong)


def table(tree):
    return {name: leaves.describe(array) for name, array in leaves.flat(tree).items()}


def layers(n, heads=1):
    return {f"Block_{i}": {f"Head_{h}": np.ones(2) for h in range(heads)} for i in range(n)}


def test_a_misfit_is_told_with_both_numbers():
    assert leaves.misfit("params", table(layers(3)), layers(3)) is None
    line = leaves.misfit("params", table(layers(12)), layers(16))
    assert line.startswith(
        "has 12 of params/Block_*, needs 16, lacks params/Block_12/Head_0 and 3 "
    )
    line = leaves.misfit("params", table(layers(4, heads=5)), layers(4, heads=3))
    assert line.startswith("has 5 of params/Block_*/Head_*, needs 3, has unknown")
    line = leaves.misfit("params", table({"wte": np.ones(2)}), {"wpe": np.ones(2)})
    assert line == "lacks params/wpe, has unknown params/wte"
    stacked = {"blocks": np.ones((12, 5)), "x": np.ones(())}
    line = leaves.misfit("params", table(stacked), {"blocks": np.ones((16, 5)), "x": np.ones(())})
    assert line == "has params/blocks (12, 5), needs (16, 5)"
    abstract = {"x": jax.ShapeDtypeStruct((2,), jnp.bfloat16)}
    assert leaves.misfit("rest", table({"x": np.ones(2, np.float32)}), abstract) == (
        "has rest/x float32, needs bfloat16"
    )
