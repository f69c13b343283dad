"""Names, copies and descriptions of a tree's leaves."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.checkpoints import pytree


class Pair(NamedTuple):
    mu: object
    nu: object


def test_leaves_are_named_by_their_path_whatever_holds_them():
    tree = {"b": Pair(1, (2, [3])), "a": {"x y": 4}, "none": None, "empty": ()}
    assert pytree.flat(tree) == {"a/x y": 4, "b/mu": 1, "b/nu/0": 2, "b/nu/1/0": 3}
    nested = pytree.nested(pytree.flat(tree))
    assert nested == {"a": {"x y": 4}, "b": {"mu": 1, "nu": {"0": 2, "1": {"0": 3}}}}
    assert pytree.flat(nested) == pytree.flat(tree)
    with pytest.raises(ValueError, match="2 leaves have only 1"):
        pytree.flat({"a": {"b": 1}, "a/b": 2})


def test_a_host_copy_shares_no_memory_and_keeps_the_bits():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert not np.shares_memory(pytree.host_copy(array), array)
    assert pytree.host_copy(array.T).flags.c_contiguous
    on_device = jnp.array(array, jnp.bfloat16)
    assert not np.shares_memory(pytree.host_copy(on_device), np.asarray(on_device))
    assert pytree.host_copy(on_device).dtype == jnp.bfloat16
    assert pytree.host_copy(3).dtype == np.int32  # as jit would take it


def test_a_description_tells_arrays_apart_by_type_shape_and_any_bit():
    base = np.zeros((2, 3), np.float32)
    others = [base.reshape(3, 2), base.astype(np.int32), -base, base[:1], np.zeros((), np.float32)]
    seen = {str(pytree.describe(array)) for array in [base, *others]}
    assert len(seen) == 6
    assert pytree.describe(np.asfortranarray(base + 1)) == pytree.describe(base + 1)
    assert pytree.describe(np.ones(3, jnp.bfloat16))[:2] == ["bfloat16", [3]]
    assert pytree.well_formed({"a": pytree.describe(base), "b": pytree.describe(others[-1])})
    for wrong in ([], {"a": 1}, {"a": ["f", [2], 1.0]}, {"a": ["f", ["2"], 1]}, {"a": ["f", 2, 1]}):
        assert not pytree.well_formed(wrong)


def table(tree):
    return {name: pytree.describe(array) for name, array in pytree.flat(tree).items()}


def layers(n, heads=1):
    return {f"Block_{i}": {f"Head_{h}": np.ones(2) for h in range(heads)} for i in range(n)}


def test_a_misfit_is_told_with_both_numbers():
    assert pytree.misfit("params", table(layers(3)), layers(3)) is None
    line = pytree.misfit("params", table(layers(12)), layers(16))
    assert line.startswith(
        "has 12 of params/Block_*, needs 16, lacks params/Block_12/Head_0 and 3 "
    )
    line = pytree.misfit("params", table(layers(4, heads=5)), layers(4, heads=3))
    assert line.startswith("has 5 of params/Block_*/Head_*, needs 3, has unknown")
    line = pytree.misfit("params", table({"wte": np.ones(2)}), {"wpe": np.ones(2)})
    assert line == "lacks params/wpe, has unknown params/wte"
    stacked = {"blocks": np.ones((12, 5)), "x": np.ones(())}
    line = pytree.misfit("params", table(stacked), {"blocks": np.ones((16, 5)), "x": np.ones(())})
    assert line == "has params/blocks (12, 5), needs (16, 5)"
    abstract = {"x": jax.ShapeDtypeStruct((2,), jnp.bfloat16)}
    assert pytree.misfit("rest", table({"x": np.ones(2, np.float32)}), abstract) == (
        "has rest/x float32, needs bfloat16"
    )
