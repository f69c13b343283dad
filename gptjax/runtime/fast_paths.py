"""What "auto" means on a device: which of the equal ways to compute a GPT is quickest there.

In: a ``ModelConfig`` and a device. Out: the same with nothing left to decide, and why, in words.
"""

import dataclasses
from typing import Any

from gptjax.config.schema import ModelConfig
from gptjax.runtime import devices

AMPERE = 8.0  # the compute capability from which NVIDIA's products read bfloat16
LEAST_EMBD = 64  # on a CPU: below it a step is overhead, and bfloat16 gains nothing
LEAST_JAX = (0, 10)  # before it XLA's bfloat16 products were slower than float32 on a CPU


def resolve(config: ModelConfig, device: Any = None) -> ModelConfig:
    """Replace each "auto" by what is quickest on ``device``; JAX's first one unless given."""
    if config.kind != "gpt":
        return config
    import jax

    device = device or jax.devices()[0]
    on_cpu, compute = device.platform == "cpu", config.compute_dtype
    if compute == "auto":
        compute = "bfloat16" if has_bfloat16(device, config.n_embd) else "float32"
    storage, attention = config.storage_dtype, config.attention
    if storage == "auto":
        storage = "float32" if on_cpu else compute
    if attention == "auto":
        on_nvidia = device.platform in ("gpu", "cuda") and compute == "bfloat16"
        attention = "fused" if on_nvidia and not config.dropout else "blocks"
    return dataclasses.replace(
        config, compute_dtype=compute, storage_dtype=storage, attention=attention
    )


def has_bfloat16(device: Any, n_embd: int) -> bool:
    """Whether products of a model so wide are quicker on a device when they read bfloat16."""
    if device.platform == "cpu":
        import jax

        knows = {"avx512_bf16", "amx_bf16"} & set(devices.cpu_name(flags=True).split())
        return bool(knows) and n_embd >= LEAST_EMBD and jax.__version_info__ >= LEAST_JAX
    if device.platform == "tpu":
        return True
    capability = getattr(device, "compute_capability", "0")  # of AMD's: letters
    return capability.replace(".", "", 1).isdigit() and float(capability) >= AMPERE


def line(config: ModelConfig) -> str:
    """How a resolved model is computed, in a few words; "" where there is nothing to choose."""
    if config.kind != "gpt":
        return ""
    how = f"{config.compute_dtype} products, float32 sums; attention {config.attention}"
    more = {"remat": config.remat, "scanned layers": config.scan_layers}
    return ", ".join([how, *(name for name, on in more.items() if on)])
