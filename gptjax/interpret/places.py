"""Where to look into a model, and how: each place's values, and a zero added to them.

In: a model. Out: its ``Place``s, from the input to the logits, and a ``Watched`` model that keeps
what is there. By the zeros, gradients of the values themselves are had.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from gptjax.interpret import capture
from gptjax.models.bigram import BigramEmbedLanguageModel
from gptjax.models.gpt import GPTLanguageModel
from gptjax.models.mlp import MLPLanguageModel
from gptjax.models.rungs import RungLanguageModel


class Place(NamedTuple):
    """A stream of values: what goes into a module or comes out of it.

    ``path``: the module's, () for the model. ``kind``: "tanh", "relu" or "gelu" right after such a
    function, "stream" of the residual path, "" elsewhere.
    """

    name: str
    path: tuple[str, ...]
    side: str  # "in" or "out"
    kind: str = ""


def places(model: nn.Module) -> list[Place]:
    """Where to look into a model, from its input to its logits."""
    logits = Place("logits", (), "out")
    if isinstance(model, GPTLanguageModel):
        found = [Place("tok_emb + pos_emb", ("blocks_0",), "in", "stream")]
        for n in range(model.n_layer):
            block, kind = f"blocks_{n}", model.activation.split("_")[0]
            found += [
                Place(f"{block} sa", (block, "sa"), "out"),
                Place(f"{block} ffwd {kind}", (block, "ffwd", "proj"), "in", kind),
                Place(block, (block,), "out", "stream"),
            ]
        return [*found, logits]
    if isinstance(model, MLPLanguageModel):
        modules = [*(f"hidden_{n}" for n in range(model.n_layer)), "lm_head"]
        found = [Place("embeddings", (modules[0],), "in")]
        names = zip(modules[:-1], modules[1:], strict=True)
        found += [Place(f"{name} tanh", (after,), "in", "tanh") for name, after in names]
        return [*found, logits]
    if isinstance(model, RungLanguageModel):
        found = [Place("tok_emb + pos_emb", ("sa",), "in"), Place("sa", ("sa",), "out")]
        if model.rung == "ffwd":
            kind = model.activation.split("_")[0]
            found.append(Place(f"ffwd {kind}", ("ffwd", "proj"), "in", kind))
            found.append(Place("ffwd", ("ffwd",), "out"))
        return [*found, logits]
    if isinstance(model, BigramEmbedLanguageModel):
        return [Place("tok_emb + pos_emb", ("lm_head",), "in"), logits]
    return [logits]


def plain(model: nn.Module) -> nn.Module:
    """The same model as the notes write it, in float32 and without dropout: it can be looked into.

    Its parameters are those of the quick one.
    """
    model = capture.plain(model)
    drops = isinstance(model, (GPTLanguageModel, RungLanguageModel))
    return model.clone(dropout=0.0) if drops else model


@dataclasses.dataclass(eq=False)
class Watched:
    """A model whose values at some places are kept, after ``nudges`` have been added to them.

    Nudges of zero change nothing, and the gradient by one is that by the value itself.
    """

    model: Any
    places: Sequence[Place]
    nudges: Sequence[Any]  # one array a place, or 0.0

    def apply(self, variables: Any, *args: Any, **more: Any) -> jax.Array:
        """``model.apply``; afterwards ``seen`` has an array for each place."""
        self.seen: list[Any] = [None] * len(self.places)
        with nn.intercept_methods(self._look):
            return self.model.apply(variables, *args, **more)

    def _look(self, call, args, kwargs, context):
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        here = [(n, p.side) for n, p in enumerate(self.places) if p.path == context.module.path]
        for n, side in here:
            if side == "in":
                self.seen[n] = args[0] + self.nudges[n]
                args = (self.seen[n], *args[1:])
        out = call(*args, **kwargs)
        for n, side in here:
            if side == "out":
                out = self.seen[n] = out + self.nudges[n]
        return out
