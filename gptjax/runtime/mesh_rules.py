"""Where arrays live: a mesh of all devices, and one table of how each parameter is cut over it.

In: the devices JAX has, sizes of the mesh's axes. Out: a ``Placement``, which says for a batch, and
for each leaf of a state by its path, how it is split: on one CPU core as on a TPU pod slice. Which
mesh it is never changes what is computed, but for rounding.
"""

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gptjax.config.schema import MeshConfig
from gptjax.errors import UserError

AXES = ("data", "fsdp", "tensor")  # how config.mesh calls them, too
ROWS = ("data", "fsdp")  # both split the rows of a batch; fsdp splits parameters besides
WIDTH = ("fsdp", "tensor")

# The end of a leaf's path -> the mesh axes that split each of its axes. An optimizer's memory of a
# parameter ends in the parameter's path, and a gradient has its path, so both lie where it lies.
# V is split nowhere: few vocabularies can be. What stands whole on each device is C numbers long.
RULES = {
    "(token|position)_embedding_table/embedding": (None, WIDTH),  # (V, C), (T, C)
    "heads/(key|query|value)/kernel": ("tensor", "fsdp", None),  # (H, C, K)
    "heads/(key|query|value)/bias": ("tensor", None),  # (H, K)
    "sa/(key|query|value)/kernel": ("fsdp", "tensor"),  # (C, K) of a single head
    "(ffwd/fc|hidden_[0-9]+)/kernel": ("fsdp", "tensor"),  # (C, F)
    "(ffwd/fc|hidden_[0-9]+)/bias": ("tensor",),
    "(sa|ffwd)/proj/kernel": ("tensor", "fsdp"),  # (F, C), (H K, C)
    "(sa|ffwd)/proj/bias": (),
    "(ln1|ln2|ln_f)/(scale|bias)": (),
    "lm_head/kernel": (WIDTH, None),  # (C, V)
    "lm_head/bias": (),
    "lora/.*/[ab]": (),  # thin: (C, R) and (R, K)
}
EVERY_ROW = MeshConfig()  # all devices deal out rows, and have all parameters
CAN_BE_APART = jax.__version_info__ >= (0, 8, 2)  # before, nothing could be constrained within it
_RULES = [(re.compile(f"(.*/)?{path}"), PartitionSpec(*axes)) for path, axes in RULES.items()]


def make_mesh(config: MeshConfig = EVERY_ROW, devices: list[jax.Device] | None = None) -> Mesh:
    """The devices (all of them by default) laid out as ``config`` says.

    UserError: they are fewer or more than the axes want.
    """
    devices = jax.devices() if devices is None else devices
    n, split = len(devices), config.fsdp * config.tensor
    asked = f"mesh.fsdp={config.fsdp} x mesh.tensor={config.tensor}"
    has = f"there {'is' if n == 1 else 'are'} {n} device{'s' * (n != 1)}"
    if config.data == -1 and n % split:
        raise UserError(f"{has}, which {asked} = {split} does not divide: change one of them")
    data = n // split if config.data == -1 else config.data
    if data * split != n:
        raise UserError(
            f"mesh.data={data} x {asked} = {data * split} devices, and {has}: mesh.data=-1 takes "
            "what the others leave"
        )
    # The default axis type is Explicit; Linen wants the compiler to place what is in between.
    types = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh((data, config.fsdp, config.tensor), AXES, types, devices=devices)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where everything goes on a mesh; ``uneven``: see ``MeshConfig``."""

    mesh: Mesh
    uneven: str = "refuse"

    @property
    def row_parts(self) -> int:
        """In how many parts the rows of a batch are cut."""
        return parts_of(self.mesh, ROWS)

    def of_path(self, path: str, shape: tuple[int, ...] = ()) -> NamedSharding:
        """Of a leaf of the training state: "params/lm_head/kernel", by the rule that fits.

        UserError: none or several fit, or an axis cannot be cut in as many equal parts.
        """
        fits = _rules_of(path) if shape else [self.whole.spec]
        if len(fits) != 1 or len(fits[0]) > len(shape):
            raise UserError(
                f"{path} of shape {shape} has {len(fits)} rules in runtime/mesh_rules.py, not 1 "
                "that fits: add or mend one"
            )
        if not (uneven := _uneven(self.mesh, fits[0], shape)):
            return NamedSharding(self.mesh, fits[0])
        if self.uneven == "whole":
            return self.whole
        size, axes = uneven[0]
        names = " x ".join(f"mesh.{axis}" for axis in axis_names(axes))
        raise UserError(
            f"{path} of shape {shape}: {size} is not divisible by {parts_of(self.mesh, axes)}, "
            f"which is {names}: choose another mesh, or mesh.uneven=whole keeps it on each device"
        )

    def of_tree(self, tree: Any) -> Any:
        """A sharding for each leaf of a tree of arrays or shapes."""
        return _map_named(lambda path, leaf: self.of_path(path, leaf.shape), tree)

    def of_batch(self, ndim: int) -> NamedSharding:
        """Rows over the devices: (..., B, T) is split along B, the last axis but one."""
        return NamedSharding(self.mesh, PartitionSpec(*[None] * (ndim - 2), ROWS, None))

    @property
    def whole(self) -> NamedSharding:
        """All of an array on every device: what a step reports."""
        return NamedSharding(self.mesh, PartitionSpec())

    def put(self, tree: Any) -> Any:
        """Parameters, or a whole state, on the devices."""
        return jax.tree.map(put_array, tree, self.of_tree(tree))

    def own_rows(self, n: int) -> np.ndarray:
        """Numbers of those of ``n`` rows that are on this process's devices."""
        held = self.of_batch(2).addressable_devices_indices_map((n, 1)).values()
        return np.unique([np.arange(n)[index[0]] for index in held])

    def put_batch(self, batch: Any, n_rows: int = 0) -> Any:
        """A batch on the devices, its rows split over them.

        ``n_rows``: how many rows there are, where a batch (..., B, T) has ``own_rows`` alone.
        """

        def put(array):
            place, (*lead, B, T) = self.of_batch(array.ndim), array.shape
            if n_rows in (0, B):
                return put_array(array, place)
            own, numbers = self.own_rows(n_rows), np.arange(n_rows)

            def of_device(index):
                return array[..., np.searchsorted(own, numbers[index[-2]]), :]

            return jax.make_array_from_callback((*lead, n_rows, T), place, of_device)

        return jax.tree.map(put, batch)

    def fetch(self, tree: Any) -> Any:
        """Whole arrays on the host, in every process."""
        if jax.process_count() == 1:
            return jax.device_get(tree)
        return jax.device_get(_gather(self.whole)(tree))

    def on_mesh(self, jitted: Any) -> Any:
        """A jitted function, called and lowered where its models see the mesh."""
        return jitted if self.mesh.size == 1 else OnMesh(jitted, self)

    def shown(self) -> contextlib.AbstractContextManager:
        """A ``with`` in which models are traced that may say where their values lie."""
        return jax.set_mesh(self.mesh) if self.mesh.size > 1 else contextlib.nullcontext()


@dataclasses.dataclass(frozen=True)
class OnMesh:
    """A jitted function and its mesh."""

    jitted: Any
    placement: Placement

    def __call__(self, *args: Any) -> Any:
        with self.placement.shown():
            return self.jitted(*args)

    def trace(self, *args: Any) -> Any:
        """As of the function."""
        with self.placement.shown():
            return self.jitted.trace(*args)

    def lower(self, *args: Any) -> Any:
        """As of the function."""
        with self.placement.shown():
            return self.jitted.lower(*args)


@functools.cache
def _gather(whole: NamedSharding) -> Any:
    """What makes a tree whole on each device; kept, for it is compiled once for each shape."""
    return jax.jit(lambda tree: tree, out_shardings=whole)


def put_array(array: Any, place: jax.sharding.Sharding | None) -> jax.Array:
    """An array on the devices of a sharding, of which a process fills its own."""
    if place is None or place.is_fully_addressable:
        return jax.device_put(array, place)
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, place, lambda index: host[index])


def whole_beside(tree: Any) -> jax.sharding.Sharding | None:
    """Where a whole array lies beside a tree of arrays: on each of its devices."""
    place = getattr(jax.tree.leaves(tree)[0], "sharding", None)
    return NamedSharding(place.mesh, PartitionSpec()) if isinstance(place, NamedSharding) else place


def device_bytes(tree: Any) -> int:
    """The size of a tree of arrays, of those that lie somewhere of what one device has."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        place = getattr(leaf, "sharding", None)
        shape = place.shard_shape(leaf.shape) if place else leaf.shape
        total += math.prod(shape) * leaf.dtype.itemsize
    return total


def parts_of(mesh: Any, axes: str | tuple[str, ...] | None) -> int:
    """In how many parts axes of a mesh, also an abstract one, cut an axis of an array."""
    return math.prod(mesh.shape[axis] for axis in axis_names(axes))


def _map_named(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """``function(path, leaf)`` of each leaf: "params/lm_head/kernel"."""

    def named(path, leaf):
        return function(jax.tree_util.keystr(path, simple=True, separator="/"), leaf)

    return jax.tree_util.tree_map_with_path(named, tree)


def _rules_of(path: str) -> list[PartitionSpec]:
    return [spec for rule, spec in _RULES if rule.fullmatch(path)]


def _uneven(mesh: Any, spec: PartitionSpec, shape: tuple[int, ...]) -> list[tuple[int, Any]]:
    """Sizes that cannot be cut in as many equal parts as ``spec`` says, and the axes that would."""
    sizes = zip(shape, spec, strict=False)
    return [(size, axes) for size, axes in sizes if size % parts_of(mesh, axes)]


def gathered(params: Any) -> Any:
    """A block's parameters on a mesh, whole over fsdp: small beside what is multiplied by them.

    Left to XLA, it multiplies piece by piece as they come, and adds each to the whole result.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.shape["fsdp"] == 1:
        return params

    def gather(path: str, leaf: jax.Array) -> jax.Array:
        (spec,) = _rules_of(path)
        if _uneven(mesh, spec, leaf.shape):
            return leaf  # mesh.uneven=whole has kept it so
        kept = (tuple(axis for axis in axis_names(axes) if axis != "fsdp") or None for axes in spec)
        return jax.lax.with_sharding_constraint(leaf, PartitionSpec(*kept))

    return _map_named(gather, params)


def rows_of(mesh: Any) -> tuple[str, ...]:
    """The axes over which rows are still to be dealt out, in ``apart`` or outside of it."""
    return tuple(axis for axis in ROWS if axis not in mesh.manual_axes)


def numbers(n: int) -> jax.Array:
    """0 .. n - 1 as uint32; in ``apart``, of whose parts each has n, the next n for each.

    So what is numbered row by row has the same numbers whichever device has the row.
    """
    number, mesh = jax.lax.iota(np.uint32, n), jax.sharding.get_abstract_mesh()
    if "data" not in mesh.manual_axes:
        return number
    return number + np.uint32(n) * jax.lax.axis_index("data").astype(np.uint32)


def apart(sums: Callable, params: Any, batch: Any, key: jax.Array) -> Any:
    """``sums`` by each part of ``data`` of its own rows (A, B, T), and then their sum.

    Within, nothing is sent over ``data``, loops included; fsdp and tensor are the compiler's as
    outside. What ``sums`` gives may not depend on which rows it sees together.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.shape["data"] == 1 or not CAN_BE_APART:
        return sums(params, batch, key)

    def of_own(*own):
        return jax.lax.psum(sums(*own), "data")

    cut = (PartitionSpec(), PartitionSpec(None, "data"), PartitionSpec())
    shared = {"axis_names": {"data"}, "out_specs": PartitionSpec(), "check_vma": False}
    return jax.shard_map(of_own, in_specs=cut, **shared)(params, batch, key)


def axis_names(axes: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """An entry of a ``PartitionSpec`` as a tuple."""
    return (axes,) if isinstance(axes, str) else axes or ()


def check_divisible(batch_size: int, accumulate: int, row_parts: int) -> None:
    """Raise UserError if ``batch_size`` is no multiple of ``accumulate`` times the row parts."""
    unit = accumulate * row_parts
    if batch_size % unit:
        up = -(-batch_size // unit) * unit
        raise UserError(
            f"train.batch_size={batch_size} is not divisible by train.accumulate={accumulate} "
            f"times the {row_parts} part{'s' * (row_parts > 1)} of a batch (mesh.data x "
            f"mesh.fsdp): use {up}"
        )
