"""What people generate with today, in PyTorch, on the same sizes.

PyTorch is no requirement of gptjax: it is imported only when peers are asked for.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import time
from collections.abc import Callable, Sequence
from typing import Any

from gptjax.config.schema import ModelConfig
from gptjax.errors import UserError

TEMPERATURE = 0.8
Write = Callable[[Any, int], Any]  # ids (B, T), n -> ids (B, T + n)


def require() -> None:
    """Refuse, in one line, where PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise UserError(
            "--peers needs PyTorch, which is not installed: pip install torch (and transformers, "
            "to measure that too), or leave --peers out"
        )


def versions() -> dict[str, str]:
    """The peers that are installed, and which; UserError without PyTorch."""
    require()
    names = ("torch", "transformers")
    return {n: importlib.metadata.version(n) for n in names if importlib.util.find_spec(n)}


def peers(sizes: Sequence[int], batch_size: int, tokens: int) -> dict[str, Callable[[], float]]:
    """Name -> a function that writes ``tokens`` tokens after one in each row and returns seconds.

    ``sizes`` of the fresh models: vocab_size, block_size, n_embd, n_head, n_layer.
    """
    import torch

    found = {"nanoGPT's way (torch, no cache)": _uncached(*sizes)}
    # Its positions end at block_size: it cannot go on after it.
    if importlib.util.find_spec("transformers") and 1 + tokens <= sizes[1]:
        found["transformers' GPT-2 (cache)"] = _transformers(*sizes)
    prompt = torch.zeros((batch_size, 1), dtype=torch.long)

    def timed(write: Write) -> float:
        begin = time.perf_counter()
        with torch.inference_mode():
            length = write(prompt, tokens).shape[1]
        if length != 1 + tokens:
            raise RuntimeError(f"{length} tokens came, not {1 + tokens}")
        return time.perf_counter() - begin

    return {name: functools.partial(timed, write) for name, write in found.items()}


def _uncached(vocab_size: int, block_size: int, n_embd: int, n_head: int, n_layer: int) -> Write:
    """nanoGPT's loop on the notes' GPT: all of the window anew for each token, no cache."""
    import torch

    from gptjax.bench import twin

    sizes = {"n_embd": n_embd, "n_head": n_head, "n_layer": n_layer}
    model = twin.GPT(vocab_size, ModelConfig("gpt", block_size=block_size, **sizes)).eval()

    def write(ids, tokens):
        for _ in range(tokens):
            p = torch.softmax(model(ids[:, -block_size:]) / TEMPERATURE, dim=-1)
            ids = torch.cat([ids, torch.multinomial(p, 1)], dim=1)
        return ids

    return write


def _transformers(*sizes: int) -> Write:
    """The library's own cached ``generate`` on a GPT-2 of this size."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    names = ("vocab_size", "n_positions", "n_embd", "n_head", "n_layer")
    ends = {"bos_token_id": None, "eos_token_id": None}  # nothing ends a text early
    config = transformers.GPT2Config(**dict(zip(names, sizes, strict=True)), **ends)
    model = transformers.GPT2LMHeadModel(config).eval()
    how = {"do_sample": True, "temperature": TEMPERATURE, "top_k": 0, "use_cache": True}
    how["pad_token_id"] = 0

    def write(ids, tokens):
        mask = torch.ones_like(ids)
        return model.generate(ids, attention_mask=mask, max_new_tokens=tokens, **how)

    return write
