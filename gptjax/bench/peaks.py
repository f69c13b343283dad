"""The most arithmetic that a device can do: what a speed is a share of.

In: a device's name and a dtype. Out: the maker's figure, FLOP/s of dense matrix products, of a CPU
the largest product found here and now, and of a device that nobody wrote down, none.
"""

import re
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gptjax.runtime import fast_paths

# TFLOP/s of one JAX device (of TPU v2 and v3: half a chip) by a part of its ``device_kind``, the
# first that fits: float32 and bfloat16. float32 is what JAX's default precision makes of it:
# bfloat16 products on a TPU, TensorFloat-32 on a GPU that has it; a T4 has neither.
KNOWN = {
    "TPU v2": (22.5, 22.5),
    "TPU v3": (61.5, 61.5),
    "TPU v4": (275, 275),
    "TPU v5 lite": (197, 197),
    "TPU v5e": (197, 197),
    "TPU v5p?": (459, 459),
    "TPU v6( lite|e)": (918, 918),
    "H200 NVL": (417.5, 835),
    "H200": (494.5, 989),
    "H100 NVL": (417.5, 835),
    "H100 PCIe": (378, 756),
    "H100": (494.5, 989),
    "A100": (156, 312),
    "NVIDIA L4": (60.5, 121),
    "T4": (8.1, None),
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
    for part, peaks in KNOWN.items():
        # TPU v4 lite is another chip, and of a MIG nobody knows which share it is.
        if re.search(rf"\b{part}\b(?! lite|.*\bMIG\b)", kind):
            peak = peaks[DTYPES.index(dtype)]
            return peak and 1e12 * peak
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
