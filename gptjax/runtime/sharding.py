"""Where arrays live: a mesh of all devices, batches split over it, parameters on every one.

In: the devices JAX has. Out: a mesh and the shardings that ``jit`` takes it from there with. The
same code runs on one CPU core and on a TPU pod slice; nothing here names a kind of device.
"""

from __future__ import annotations

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gptjax.errors import UserError


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """One axis, "data", over the given devices (all of them by default)."""
    devices = jax.devices() if devices is None else devices
    # The default axis type is Explicit; Linen wants the compiler to place what is in between.
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device: parameters, optimizer state, scalars."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh, ndim: int) -> NamedSharding:
    """Rows over the devices: (..., B, T) is split along B, the last axis but one."""
    return NamedSharding(mesh, PartitionSpec(*[None] * (ndim - 2), "data", None))


def check_divisible(batch_size: int, accumulate: int, mesh: Mesh) -> None:
    """Refuse a batch that cannot be dealt out evenly.

    Args:
      batch_size: rows of a step.
      accumulate: parts a step is done in.
      mesh: the devices that share each part.

    Raises:
      UserError: ``batch_size`` is not a multiple of ``accumulate`` times the devices.
    """
    unit = accumulate * mesh.size
    if batch_size % unit:
        up = -(-batch_size // unit) * unit
        raise UserError(
            f"train.batch_size={batch_size} is not divisible by train.accumulate={accumulate} "
            f"times {mesh.size} device{'s' * (mesh.size > 1)}: use {up}"
        )
