"""Which parameters of a model learn: all, those that are named, or LoRA's thin products alone.

In: a config. Out: a ``Tuning``, which parts the parameters before a gradient is taken: what is
frozen costs no gradient, no memory of the optimizer, and no backward pass below the first that
learns. A state has all of them, and so has a checkpoint. Pure.
"""

import dataclasses
from typing import Any

import jax
from flax import linen as nn
from flax import traverse_util

from gptjax.config.schema import ModelConfig
from gptjax.models import lora


@dataclasses.dataclass(frozen=True)
class Tuning:
    """``trainable``: as ``TrainConfig`` has it; ``model`` says what LoRA is to do."""

    trainable: str = ""
    model: ModelConfig = ModelConfig()

    @property
    def freezes(self) -> bool:
        """Whether some parameters do not learn."""
        return bool(self.trainable or self.model.lora_rank)

    def begin(self, params: Any, key: jax.Array) -> Any:
        """``lora.begin``: the parameters of a state at step 0."""
        return lora.begin(params, self.model, key)

    def split(self, params: Any) -> tuple[Any, Any]:
        """The parameters that learn, and the frozen ones; UserError: a name of none."""
        if not self.freezes:
            return params, {}
        flat = traverse_util.flatten_dict(params, sep="/")
        learn = lora.find(flat, self.trainable, "train.trainable")
        learn |= {path for path in flat if path.startswith(f"{lora.NAME}/")}
        parts = ({p: v for p, v in flat.items() if (p in learn) == side} for side in (True, False))
        trained, frozen = (traverse_util.unflatten_dict(part, sep="/") for part in parts)
        return trained, frozen

    def join(self, trained: Any, frozen: Any) -> Any:
        """Undo ``split``."""
        if not self.freezes:
            return trained
        both = (traverse_util.flatten_dict(part, sep="/") for part in (trained, frozen))
        return traverse_util.unflatten_dict({p: v for part in both for p, v in part.items()}, "/")

    def merge(self, params: Any) -> Any:
        """``lora.merge``: what the model itself is applied to."""
        return lora.merge(params, self.model)

    def beside(self, model: nn.Module, frozen: Any) -> Any:
        """The model as a function of the parameters that learn: the frozen ones are given."""
        return Beside(model, frozen, self) if self.freezes else model


ALL = Tuning()


@dataclasses.dataclass(frozen=True, eq=False)
class Beside:
    """A model whose frozen parameters are given; ``apply`` is handed those that learn."""

    model: nn.Module
    frozen: Any
    tuning: Tuning

    @property
    def drops_by_place(self) -> bool:
        """As of the model; see ``scan.in_parts``."""
        return getattr(self.model, "drops_by_place", False)

    def apply(self, variables: Any, *args: Any, **more: Any) -> Any:
        """``model.apply`` of all parameters."""
        params = self.tuning.merge(self.tuning.join(variables["params"], self.frozen))
        return self.model.apply({"params": params}, *args, **more)
