"""The models of the notes behind one contract.

In: a ``ModelConfig``, the vocabulary size and the start token. Out: a Flax module whose
``apply({"params": params}, x_BxT, train=False, rngs=...)`` gives logits (B, T, V). Its attributes:
``block_size``, the most tokens it looks at; ``lookback``, how many tokens before the first of a row
its first prediction would like to see (0, or block_size - 1 for the MLP); ``slides``, whether T may
be any length, or at most block_size.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

from flax import linen as nn

from gptjax.errors import UserError
from gptjax.models import rungs as ladder
from gptjax.models.bigram import BigramEmbedLanguageModel, BigramLanguageModel
from gptjax.models.gpt import ACTIVATIONS, GPTLanguageModel
from gptjax.models.mlp import MLPLanguageModel
from gptjax.models.ngram import NGramLanguageModel
from gptjax.models.rungs import RungLanguageModel

KINDS = ("bigram", "bigram_embed", "ngram", "mlp", *ladder.KINDS, "gpt")
MOST = {"n_layer": 1_000}  # of a size, where it isn't 2**20: a config may come from a stranger
LARGEST_TABLE = 2**25  # entries of an ngram's table: 134 MB


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Which model, and its sizes under the notes' names."""

    kind: Annotated[
        str,
        "bigram (table), bigram_embed (+ positions), ngram (counted), mlp, gpt, or a rung of "
        f"the ladder: {', '.join(ladder.KINDS)}",
    ] = "gpt"
    block_size: Annotated[int, "tokens of context (and of one training row of a stream)"] = 64
    n_layer: Annotated[int, "blocks of the gpt, tanh layers of the mlp"] = 4
    n_head: Annotated[int, "attention heads; n_embd must be a multiple"] = 4
    n_embd: Annotated[int, "channels of an embedding"] = 128
    n_hidden: Annotated[int, "width of a layer of the mlp"] = 200
    dropout: Annotated[float, "fraction of values zeroed while training, 0 to below 1"] = 0.0
    activation: Annotated[str, "of the feed-forward: relu (the notes) or gelu"] = "relu"
    add_count: Annotated[float, "ngram: count given to every continuation, above 0"] = 1.0
    tie_lm_head: Annotated[bool, "lm_head shares the token embedding table"] = False
    scale_residual: Annotated[bool, "start residual projections 1/sqrt(2 n_layer) smaller"] = False

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(
                f"model.kind={self.kind!r} is unknown: choose one of {', '.join(KINDS)}"
            )
        for name in ("block_size", "n_layer", "n_head", "n_embd", "n_hidden"):
            value, most = getattr(self, name), MOST.get(name, 2**20)
            if not 1 <= value <= most:
                bound = "at least 1" if value < 1 else f"at most {most:,}"
                raise UserError(f"model.{name}={value} must be {bound}")
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"model.dropout={self.dropout} must be at least 0 and below 1")
        if self.activation not in ACTIVATIONS:
            known = " or ".join(ACTIVATIONS)
            raise UserError(f"model.activation={self.activation!r} is unknown: choose {known}")
        if not 0 < self.add_count < math.inf:
            raise UserError(
                f"model.add_count={self.add_count} must be above 0 and finite: what was never seen "
                "would be impossible, and the loss infinite"
            )
        if self.kind in ("multihead", "ffwd", "gpt") and self.n_embd % self.n_head:
            raise UserError(
                f"model.n_embd={self.n_embd} is not divisible by model.n_head={self.n_head}: "
                f"try n_embd={self.n_head * max(1, round(self.n_embd / self.n_head))}"
            )


def build(config: ModelConfig, vocab_size: int, start_id: int = 0) -> nn.Module:
    """Make the module that ``config.kind`` names.

    Args:
      config: the sizes.
      vocab_size: V, the number of tokens.
      start_id: the token the MLP sees before the beginning.

    Returns:
      An uninitialised Flax module.

    Raises:
      UserError: an ngram whose table would not fit in memory.
    """
    c = config
    if c.kind == "bigram":
        return BigramLanguageModel(vocab_size)
    if c.kind == "bigram_embed":
        return BigramEmbedLanguageModel(vocab_size, c.block_size, c.n_embd)
    if c.kind == "ngram":
        # In logarithms: the number itself may have more digits than Python writes.
        if (c.block_size + 1) * math.log(vocab_size) > math.log(LARGEST_TABLE):
            raise UserError(
                f"model.block_size={c.block_size} asks for a table of {vocab_size:,}^"
                f"{c.block_size} contexts x {vocab_size:,} tokens, and {LARGEST_TABLE:,} entries "
                "are the most: set a smaller model.block_size"
            )
        return NGramLanguageModel(vocab_size, c.block_size, start_id)
    if c.kind in ladder.KINDS:
        sizes = (c.block_size, c.n_embd, c.n_head, c.dropout, c.activation)
        return RungLanguageModel(c.kind, vocab_size, *sizes)
    if c.kind == "mlp":
        return MLPLanguageModel(vocab_size, c.block_size, c.n_embd, c.n_hidden, c.n_layer, start_id)
    return GPTLanguageModel(
        vocab_size=vocab_size,
        block_size=c.block_size,
        n_embd=c.n_embd,
        n_head=c.n_head,
        n_layer=c.n_layer,
        dropout=c.dropout,
        activation=c.activation,
        tie_lm_head=c.tie_lm_head,
        scale_residual=c.scale_residual,
    )
