"""Where arrays live: a mesh of all devices, batches split over it, parameters on every one.

In: the devices JAX has. Out: a ``Placement``, the one table that says for a batch, and for each
parameter by its path, how it is split: on one CPU core as on a TPU pod slice.
"""

import dataclasses
import re
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gptjax.errors import UserError

# Path of a leaf, as "params/blocks_0/sa/proj/kernel" -> how its axes are split; the first rule that
# is found in the path counts. An optimizer's memory of a parameter has the parameter's path in its
# own, so it goes where the parameter goes.
RULES = ((re.compile(""), PartitionSpec()),)  # every leaf whole on every device


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """One axis, "data", over the given devices (all of them by default)."""
    devices = jax.devices() if devices is None else devices
    # The default axis type is Explicit; Linen wants the compiler to place what is in between.
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where everything goes on a mesh."""

    mesh: Mesh

    def of_path(self, path: str) -> NamedSharding:
        """Of a leaf of the training state."""
        return NamedSharding(self.mesh, next(spec for rule, spec in RULES if rule.search(path)))

    def of_tree(self, tree: Any) -> Any:
        """A sharding for each leaf of a tree."""
        return jax.tree_util.tree_map_with_path(
            lambda path, _: self.of_path(jax.tree_util.keystr(path, simple=True, separator="/")),
            tree,
        )

    def of_batch(self, ndim: int) -> NamedSharding:
        """Rows over the devices: (..., B, T) is split along B, the last axis but one."""
        return NamedSharding(self.mesh, PartitionSpec(*[None] * (ndim - 2), "data", None))

    @property
    def whole(self) -> NamedSharding:
        """All of an array on every device: what a step reports."""
        return NamedSharding(self.mesh, PartitionSpec())

    def put(self, tree: Any) -> Any:
        """Parameters, or a whole state, on the devices."""
        return jax.device_put(tree, self.of_tree(tree))

    def put_batch(self, batch: Any) -> Any:
        """A batch on the devices, its rows split over them."""
        return jax.tree.map(lambda a: jax.device_put(a, self.of_batch(a.ndim)), batch)


def check_divisible(batch_size: int, accumulate: int, mesh: Mesh) -> None:
    """Raise UserError if ``batch_size`` is no multiple of ``accumulate`` times the devices."""
    unit = accumulate * mesh.size
    if batch_size % unit:
        up = -(-batch_size // unit) * unit
        raise UserError(
            f"train.batch_size={batch_size} is not divisible by train.accumulate={accumulate} "
            f"times {mesh.size} device{'s' * (mesh.size > 1)}: use {up}"
        )
