"""The update rule: clipping, AdamW and what it decays, as one optax chain; the schedule beside it.

In: an ``OptimConfig``. Out: an optax chain whose ``update`` is handed the step's ``learning_rate``,
and the schedule that says what that is.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gptjax.config.schema import OptimConfig


def schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """The learning rate of a step (0-based): a linear rise, then what ``config.schedule`` says.

    A half cosine ends at ``steps``; a "step" drops once, in their middle.
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
    """True for the parameters that decay, by name: kernels and embeddings, not biases or scales."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key in ("kernel", "embedding"), params)


def build(config: OptimConfig) -> optax.GradientTransformationExtraArgs:
    """Chain clipping by the global norm with AdamW (or plain SGD).

    Source: the lecture's ``torch.optim.AdamW``; Loshchilov and Hutter 2019.
    """
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    rule = [optax.identity()]
    if config.name == "adamw":
        adam = optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.eps)
        rule = [adam, optax.add_decayed_weights(config.weight_decay, decay_mask)]
    return optax.chain(*clip, optax.chain(*rule, descend()))


def descend() -> optax.GradientTransformationExtraArgs:
    """-learning_rate · direction, the rate handed in with each step and not compiled into it.

    It counts updates as ``optax.scale_by_learning_rate`` of a schedule does: the same saved tree.
    """

    def init(params):
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def update(direction, state, params=None, *, learning_rate, **_):
        step = jax.tree.map(lambda d: jnp.asarray(-learning_rate, d.dtype) * d, direction)
        return step, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init, update)
