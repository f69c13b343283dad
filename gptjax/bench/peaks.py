"""The most arithmetic that a device can do: what a speed is a share of; its memory and links.

In: a device's name and a dtype. Out: the maker's figure, FLOP/s of dense matrix products, of a CPU
the largest product found here and now, and of a device that nobody wrote down, none.
"""

import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gptjax.runtime import fast_paths


class Chip(NamedTuple):
    """The maker's figures of one JAX device (of TPU v2 and v3: half a chip), None: it has none.

    TFLOP/s in float32 and bfloat16; float32 is what JAX's default precision makes of it: bfloat16
    products on a TPU, TensorFloat-32 on a GPU that has it; a T4 has neither. ``memory_gib`` is what
    programs may fill, ``memory_gb_s`` its speed. ``link_gb_s``: what it sends to its neighbours on
    one axis of the torus, both ways together, or to all others over NVLink or PCIe.
    """

    float32: float
    bfloat16: float | None
    memory_gib: float
    memory_gb_s: float
    link_gb_s: float


# By a part of the ``device_kind``, the first that fits. Sources: Google's pages of each TPU
# (cloud.google.com/tpu/docs), what XLA says of a TPU's memory when a program is too large, and of
# links "How to scale your model" (jax-ml.github.io/scaling-book, table of TPU specifications);
# NVIDIA's data sheets.
KNOWN = {
    "TPU v2": Chip(22.5, 22.5, 7.48, 350, 62),
    "TPU v3": Chip(61.5, 61.5, 15.48, 450, 100),
    "TPU v4": Chip(275, 275, 30.75, 1228, 90),
    "TPU v5 lite": Chip(197, 197, 15.75, 819, 90),
    "TPU v5e": Chip(197, 197, 15.75, 819, 90),
    "TPU v5p?": Chip(459, 459, 95.74, 2765, 180),
    "TPU v6( lite|e)": Chip(918, 918, 31.25, 1640, 180),
    "H200 NVL": Chip(417.5, 835, 131, 4800, 450),
    "H200": Chip(494.5, 989, 131, 4800, 450),
    "H100 NVL": Chip(417.5, 835, 87.5, 3900, 300),
    "H100 PCIe": Chip(378, 756, 74.5, 2000, 32),
    "H100": Chip(494.5, 989, 74.5, 3350, 450),
    "A100": Chip(156, 312, 74.5, 2039, 300),
    "NVIDIA L4": Chip(60.5, 121, 22.4, 300, 32),
    "T4": Chip(8.1, None, 14.9, 320, 16),
}
DTYPES = ("float32", "bfloat16")
SIZES = (512, 1024, 2048)  # of the square products that are tried on a CPU
TRIES = 5


def dtypes() -> tuple[str, ...]:
    """What is worth measuring here: of a CPU without bfloat16, PyTorch takes 100 times as long."""
    has = fast_paths.has_bfloat16(jax.devices()[0], fast_paths.LEAST_EMBD)
    return DTYPES if has else DTYPES[:1]


def known(kind: str, dtype: str) -> float | None:
    """FLOP/s of a ``device_kind``; None where it is not known."""
    found = chip(kind)
    peak = found and getattr(found, dtype)
    return peak and 1e12 * peak


def chip(kind: str) -> Chip | None:
    """All figures of a ``device_kind``; None where it is not known."""
    for part, found in KNOWN.items():
        # TPU v4 lite is another chip, and of a MIG nobody knows which share it is.
        if re.search(rf"\b{part}\b(?! lite|.*\bMIG\b)", kind):
            return found
    return None


def find(dtype: str, with_peers: bool) -> dict[str, Any]:
    """{"flops_per_second", "source"} of all devices together; None and why where not known."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        peak = known(device.device_kind, dtype)
        source = f"{jax.device_count()} x {device.device_kind}{' (not known)' * (peak is None)}"
        return {"flops_per_second": peak and peak * jax.device_count(), "source": source}
    found = {}
    for size in SIZES:
        a = jnp.ones((size, size), dtype)
        product = jax.jit(jnp.matmul)
        calls = {"JAX": lambda a=a, product=product: jax.block_until_ready(product(a, a))}
        if with_peers:
            import torch

            b = torch.ones((size, size), dtype=getattr(torch, dtype))
            calls["PyTorch"] = lambda b=b: b @ b
        for who, call in calls.items():
            found[f"largest product found, {size:,}² in {who}"] = 2 * size**3 / _best(call)
    source = max(found, key=found.__getitem__)
    return {"flops_per_second": found[source], "source": source}


def _best(call: Callable[[], Any]) -> float:
    """The fewest seconds of a call, after one that compiles."""
    call()
    seconds = []
    for _ in range(TRIES):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)
