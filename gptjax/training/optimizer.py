"""The update rule: clipping, AdamW, its schedule and what it decays, as one optax chain.

In: an ``OptimConfig`` and the number of steps. Out: an ``optax.GradientTransformation``.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any

import jax
import optax

from gptjax.errors import UserError

NAMES = ("adamw", "sgd")
SCHEDULES = ("cosine", "constant", "step")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """How fast to learn. The decay is PyTorch's 0.01, not optax's 0.0001."""

    name: Annotated[str, "adamw, or sgd (makemore's; no betas, no decay)"] = "adamw"
    learning_rate: Annotated[float, "the highest of the schedule"] = 1e-3
    schedule: Annotated[str, "after warm-up: cosine, constant or step (at half time)"] = "cosine"
    warmup_steps: Annotated[int, "steps of linear rise from 0"] = 0
    final_fraction: Annotated[float, "of learning_rate, at the end (of a step: behind it)"] = 0.1
    beta1: Annotated[float, "memory of the mean of gradients"] = 0.9
    beta2: Annotated[float, "memory of the mean of their squares"] = 0.99
    eps: Annotated[float, "added to the root of the squares"] = 1e-8
    weight_decay: Annotated[float, "pull of kernels and embeddings to 0, times the rate"] = 0.01
    clip_norm: Annotated[float, "largest norm of all gradients together; 0 is off"] = 1.0

    def __post_init__(self):
        if self.name not in NAMES:
            raise UserError(f"optim.name={self.name!r} is unknown: choose {' or '.join(NAMES)}")
        if self.schedule not in SCHEDULES:
            known = ", ".join(SCHEDULES)
            raise UserError(f"optim.schedule={self.schedule!r} is unknown: choose {known}")
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"optim.learning_rate={self.learning_rate} must be above 0 and finite")
        for name in ("warmup_steps", "weight_decay", "clip_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                value = getattr(self, name)
                raise UserError(f"optim.{name}={value} must not be negative or infinite")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"optim.{name}={getattr(self, name)} must be in [0, 1)")
        if not 0 < self.eps < math.inf:
            raise UserError(f"optim.eps={self.eps} must be above 0 and finite")
        if not 0 <= self.final_fraction <= 1:
            raise UserError(f"optim.final_fraction={self.final_fraction} must be in [0, 1]")


def schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """The learning rate of each step: a linear rise, then a half cosine, a constant or two of them.

    Args:
      config: the rates.
      steps: length of the run, where the cosine ends; the step is in its middle.

    Returns:
      A function of the step (0-based).
    """
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(
            config.learning_rate, max(1, steps - config.warmup_steps), config.final_fraction
        )
    else:
        middle = max(0, steps // 2 - config.warmup_steps)
        drop = {middle: config.final_fraction} if config.schedule == "step" else {}
        after = optax.piecewise_constant_schedule(config.learning_rate, drop)
    if not config.warmup_steps:
        return after
    # The rise starts one step up: a first step at rate 0 would be a step for nothing.
    first = config.learning_rate / (config.warmup_steps + 1)
    rise = optax.linear_schedule(first, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([rise, after], [config.warmup_steps])


def decay_mask(params: Any) -> Any:
    """True for the parameters that decay, by name: kernels and embeddings, not biases or scales.

    Args:
      params: the nested dict of parameters.

    Returns:
      The same tree with a bool per leaf.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key in ("kernel", "embedding"), params
    )


def build(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """Chain clipping by the global norm with AdamW (or plain SGD).

    Args:
      config: the settings.
      steps: length of the run, for the schedule.

    Returns:
      The gradient transformation.

    Source: the lecture's ``torch.optim.AdamW``; Loshchilov and Hutter 2019.
    """
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    rate = schedule(config, steps)
    if config.name == "sgd":
        return optax.chain(*clip, optax.sgd(rate))
    adamw = optax.adamw(
        rate,
        b1=config.beta1,
        b2=config.beta2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decay_mask,
    )
    return optax.chain(*clip, adamw)
