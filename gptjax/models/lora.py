"""LoRA: a thin product beside a frozen kernel, W + (alpha / rank) A B, of which only A and B learn.

In: a model's parameters and config. Out: adapters, and parameters that have them added in: no model
knows of them. Parameters are found by name here, also for what else is frozen.
Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".

I a kernel's inputs, O its outputs, R the rank. Of heads' stacked kernels, (H, I, O), A is shared.
"""

import fnmatch
import math
import re
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from gptjax.config.schema import ModelConfig
from gptjax.errors import UserError, did_you_mean

NAME = "lora"  # beside the model's own parameters: lora/blocks_0/sa/heads/query/a and /b


def adapters(params: Any, config: ModelConfig, key: jax.Array) -> dict[str, Any]:
    """A (I, R) from N(0, 1/I) and B (..., R, O) of zeros, for each kernel in ``lora_targets``.

    At first A B is 0, so the model starts as it was. UserError: a name of no kernel, or a rank that
    is more than a kernel has.
    """
    flat, made, R = traverse_util.flatten_dict(params, sep="/"), {}, config.lora_rank
    kernels = [path for path in flat if path.endswith("/kernel")]
    found = sorted(find(kernels, config.lora_targets, "model.lora_targets"))
    for path, own in zip(found, jax.random.split(key, len(found)), strict=True):
        *heads, n_in, n_out = flat[path].shape
        if (most := min(n_in, n_out * math.prod(heads))) < R:
            raise UserError(
                f"model.lora_rank={R} is more than the {most} that {path} has: set a smaller one"
            )
        path = path.removesuffix("/kernel")
        made[f"{path}/a"] = jax.random.normal(own, (n_in, R)) * n_in**-0.5
        made[f"{path}/b"] = jnp.zeros((*heads, R, n_out))
    return traverse_util.unflatten_dict(made, sep="/")


def begin(params: Any, config: ModelConfig, key: jax.Array) -> Any:
    """A model's fresh parameters and, where ``lora_rank`` asks for them, adapters beside them."""
    return params | {NAME: adapters(params, config, key)} if config.lora_rank else params


def merge(params: Any, config: ModelConfig) -> Any:
    """What the model is applied to: each kernel with its adapter added, W + (alpha / R) A B."""
    if NAME not in params:
        return params
    flat = traverse_util.flatten_dict({k: v for k, v in params.items() if k != NAME}, sep="/")
    pairs = traverse_util.flatten_dict(params[NAME], sep="/")
    for path in [path.removesuffix("/a") for path in pairs if path.endswith("/a")]:
        # In float32 on every device: merged once or in each step, it is the same model.
        product = jnp.matmul(pairs[f"{path}/a"], pairs[f"{path}/b"], precision="highest")
        scale = config.lora_alpha / config.lora_rank
        flat[f"{path}/kernel"] = flat[f"{path}/kernel"] + scale * product
    return traverse_util.unflatten_dict(flat, sep="/")


def find(paths: Iterable[str], names: str, field: str) -> set[str]:
    """The paths that ``names`` call, commas between them: by parts that follow one another.

    "query" calls each blocks_*/sa/heads/query/kernel, "blocks_3/ffwd" all below it, "ln_*" what
    matches. UserError: a name that calls none; ``field`` is where it stood.
    """
    paths, found = list(paths), set()
    for name in filter(None, map(str.strip, names.split(","))):
        wanted = name.strip("/").split("/")
        called = {path for path in paths if _calls(wanted, path.split("/"))}
        if not called:
            parts = list(dict.fromkeys(part for path in paths for part in path.split("/")))
            near = did_you_mean(wanted[-1], parts, repr)
            raise UserError(
                f"{field}: {name!r:.80} names no parameter here{near}; there are {_folded(parts)}"
            )
        found |= called
    return found


def _calls(wanted: list[str], parts: list[str]) -> bool:
    n = len(wanted)
    return any(
        all(map(fnmatch.fnmatchcase, parts[at : at + n], wanted))
        for at in range(len(parts) - n + 1)
    )


def _folded(parts: list[str]) -> str:
    """Names for a sentence: of numbered ones, blocks_0 to blocks_11, the first and the last."""
    stems: dict[str, list[str]] = {}
    for part in parts:
        stems.setdefault(re.sub(r"\d+$", "", part), []).append(part)
    ends = (f"{same[0]} to {same[-1]}" if same[2:] else ", ".join(same) for same in stems.values())
    return ", ".join(ends)
