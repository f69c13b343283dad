"""The peers of ``bench``: what people generate with today, in PyTorch, on the same sizes.

In: sizes. Out: functions that write as many tokens and say how long it took. PyTorch is no
requirement of gptjax: it is imported here alone, and only when peers are asked for.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import time
from collections.abc import Callable
from typing import Any

from gptjax.errors import UserError

TEMPERATURE = 0.8


def require() -> None:
    """Refuse, in one line, where PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            "--peers needs PyTorch, which is not installed: pip install torch (and transformers, "
            "to measure that too), or leave --peers out"
        )


def versions() -> dict[str, str]:
    """The peers that are installed, and which."""
    names = ("torch", "transformers")
    return {n: importlib.metadata.version(n) for n in names if importlib.util.find_spec(n)}


def peers(
    vocab_size: int,
    block_size: int,
    n_embd: int,
    n_head: int,
    n_layer: int,
    batch_size: int,
    tokens: int,
) -> dict[str, Callable[[], float]]:
    """Those that are installed and can do the work.

    Args:
      vocab_size, block_size, n_embd, n_head, n_layer: of the model; its weights are fresh.
      batch_size: rows, each behind a prompt of one token.
      tokens: new tokens of each row.

    Returns:
      name -> a function that writes them and returns the seconds it took.
    """
    require()
    import torch

    sizes = (vocab_size, block_size, n_embd, n_head, n_layer)
    prompt = torch.zeros((batch_size, 1), dtype=torch.long)
    found = {"nanoGPT's way (torch, no cache)": _uncached(*sizes)}
    # Its positions end at block_size: it cannot go on behind it.
    if importlib.util.find_spec("transformers") and 1 + tokens <= block_size:
        found["transformers' GPT-2 (cache)"] = _transformers(*sizes)

    def timed(write: Callable[[Any, int], Any]) -> Callable[[], float]:
        def call() -> float:
            begin = time.perf_counter()
            with torch.inference_mode():
                length = write(prompt, tokens).shape[1]
            if length != 1 + tokens:
                raise RuntimeError(f"{length} tokens came, not {1 + tokens}")
            return time.perf_counter() - begin

        return call

    return {name: timed(write) for name, write in found.items()}


def _uncached(vocab_size: int, block_size: int, n_embd: int, n_head: int, n_layer: int) -> Callable:
    """A GPT as one writes it in PyTorch: all of the window anew for each token, no cache."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm_1, self.norm_2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
            self.qkv, self.out = nn.Linear(n_embd, 3 * n_embd), nn.Linear(n_embd, n_embd)
            self.up, self.down = nn.Linear(n_embd, 4 * n_embd), nn.Linear(4 * n_embd, n_embd)

        def forward(self, x):
            rows, time_, _ = x.shape
            parts = self.qkv(self.norm_1(x)).view(rows, time_, 3, n_head, -1).permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(*parts, is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).reshape(rows, time_, n_embd))
            return x + self.down(functional.gelu(self.up(self.norm_2(x))))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(vocab_size, n_embd)
            self.places = nn.Embedding(block_size, n_embd)
            self.layers = nn.Sequential(*(Layer() for _ in range(n_layer)))
            self.norm, self.head = nn.LayerNorm(n_embd), nn.Linear(n_embd, vocab_size, bias=False)

        def forward(self, ids):
            x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
            return self.head(self.norm(self.layers(x))[:, -1])

    model = Model().eval()

    def write(ids, tokens):
        for _ in range(tokens):
            logits = model(ids[:, -block_size:]) / TEMPERATURE
            drawn = torch.multinomial(functional.softmax(logits, dim=-1), 1)
            ids = torch.cat([ids, drawn], dim=1)
        return ids

    return write


def _transformers(
    vocab_size: int, block_size: int, n_embd: int, n_head: int, n_layer: int
) -> Callable:
    """The library's own cached ``generate`` on a GPT-2 of this size."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    config = transformers.GPT2Config(
        vocab_size=vocab_size,
        n_positions=block_size,
        n_embd=n_embd,
        n_head=n_head,
        n_layer=n_layer,
        bos_token_id=None,
        eos_token_id=None,  # nothing ends a text early
    )
    model = transformers.GPT2LMHeadModel(config).eval()

    def write(ids, tokens):
        return model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=TEMPERATURE,
            top_k=0,
            max_new_tokens=tokens,
            use_cache=True,
            pad_token_id=0,
        )

    return write
