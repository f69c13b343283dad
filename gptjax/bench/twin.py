"""The twins of ``bench train``: the same models, trained in PyTorch as nanoGPT and makemore do.

In: a config, our parameters, tokens. Out: loops of the same work, whose loss is ours. It is
imported only when peers are asked for, as PyTorch is no requirement of gptjax.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from gptjax.config.schema import Config, ModelConfig

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
}


class Attention(nn.Module):
    """All heads of a layer, their products one and the mixing PyTorch's own, as in nanoGPT."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        C, self.n_head, self.dropout = config.n_embd, config.n_head, config.dropout
        self.qkv, self.proj = nn.Linear(C, 3 * C, bias=False), nn.Linear(C, C)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        parts = (
            part.view(B, T, self.n_head, -1).transpose(1, 2) for part in self.qkv(x).split(C, 2)
        )
        p = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(*parts, dropout_p=p, is_causal=True)
        out = self.proj(mixed.transpose(1, 2).reshape(B, T, C))
        return F.dropout(out, self.dropout, self.training)


class Block(nn.Module):
    """x + sa(ln1(x)), then x + ffwd(ln2(x)), under the names of ``models/gpt.py``."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        C, self.dropout = config.n_embd, config.dropout
        self.sa, self.ln1, self.ln2 = Attention(config), nn.LayerNorm(C), nn.LayerNorm(C)
        self.ffwd = nn.ModuleDict({"fc": nn.Linear(C, 4 * C), "proj": nn.Linear(4 * C, C)})
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.sa(self.ln1(x))
        out = self.ffwd["proj"](self.activation(self.ffwd["fc"](self.ln2(x))))
        return x + F.dropout(out, self.dropout, self.training)


class GPT(nn.Module):
    """The notes' GPT; with targets it gives the loss, without them the logits of the last place."""

    def __init__(self, vocab_size: int, config: ModelConfig):
        super().__init__()
        C = config.n_embd
        self.token_embedding_table = nn.Embedding(vocab_size, C)
        self.position_embedding_table = nn.Embedding(config.block_size, C)
        self.blocks = nn.Sequential(*(Block(config) for _ in range(config.n_layer)))
        self.ln_f, self.lm_head = nn.LayerNorm(C), nn.Linear(C, vocab_size)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T) -> mean nats, or logits (B, V)."""
        places = self.position_embedding_table(torch.arange(ids.shape[1], device=ids.device))
        x = self.ln_f(self.blocks(self.token_embedding_table(ids) + places))
        if targets is None:
            return self.lm_head(x[:, -1])
        return F.cross_entropy(self.lm_head(x).flatten(0, 1), targets.flatten())


def state_dict(params: Mapping[str, Any], prefix: str = "") -> dict[str, torch.Tensor]:
    """Our parameters of a GPT under the names and in the layout of ``GPT`` here."""
    found: dict[str, torch.Tensor] = {}
    for name, value in params.items():
        path = f"{prefix}{name}".replace("blocks_", "blocks.")
        if name == "heads":  # three times (H, C, K) -> (3 C, C)
            kernels = [np.asarray(value[part]["kernel"]) for part in ("query", "key", "value")]
            rows = [kernel.transpose(0, 2, 1).reshape(-1, kernel.shape[1]) for kernel in kernels]
            found[f"{prefix}qkv.weight"] = torch.tensor(np.concatenate(rows))
        elif isinstance(value, Mapping):
            found |= state_dict(value, f"{path}.")
        else:
            array = np.asarray(value)
            last = "bias" if name == "bias" else "weight"
            found[prefix + last] = torch.tensor(array.T if name == "kernel" else array)
    return found


class Loop:
    """A training loop of one work; ``run`` is told how many steps and returns its seconds."""

    compile_seconds: float | None = None
    memory_bytes = None  # PyTorch's cannot be told from the rest of the process

    def step(self) -> None:
        """One update on a batch of its own."""
        raise NotImplementedError

    def run(self, n: int) -> float:
        """Seconds of n steps."""
        begin = time.perf_counter()
        for _ in range(n):
            self.step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin


class GPTLoop(Loop):
    """nanoGPT's loop: autocast, clipping, fused AdamW; a compiled one has done a first step."""

    def __init__(
        self,
        config: Config,
        params: Any,
        tokens: np.ndarray,
        vocab_size: int,
        dtype: str = "float32",
        compiled: bool = False,
    ):
        self.model, self.tokens = GPT(vocab_size, config.model), tokens
        self.model.load_state_dict(state_dict(params))
        self.model.to(DEVICE)
        self.batch_size, self.block_size = config.train.batch_size, config.model.block_size
        self.cast = {"dtype": getattr(torch, dtype), "enabled": dtype != "float32"}
        rule, all_ = config.optim, list(self.model.parameters())
        groups = [
            {"params": [p for p in all_ if p.dim() > 1], "weight_decay": rule.weight_decay},
            {"params": [p for p in all_ if p.dim() < 2], "weight_decay": 0.0},
        ]
        how = {"betas": (rule.beta1, rule.beta2), "eps": rule.eps, "fused": True}
        self.optimizer = torch.optim.AdamW(groups, rule.learning_rate, **how)
        self.clip_norm, self.call = rule.clip_norm, self.model
        if compiled:
            self.call = torch.compile(self.model)
            self.compile_seconds = self.run(1)

    def loss(self, x: np.ndarray, y: np.ndarray) -> float:
        """Mean nats of a batch (B, T), dropout off."""
        torch.backends.cuda.matmul.allow_tf32 = False
        with torch.no_grad():
            return self.model.eval()(*map(_ids, (x, y))).item()

    def step(self) -> None:
        """One update on random rows."""
        at = torch.randint(len(self.tokens) - self.block_size, (self.batch_size,)).tolist()
        rows = np.stack([self.tokens[i : i + self.block_size + 1] for i in at])
        self.update(rows[:, :-1], rows[:, 1:])

    def update(self, x: np.ndarray, y: np.ndarray) -> None:
        """One update on a batch (B, T)."""
        self.model.train()
        torch.backends.cuda.matmul.allow_tf32 = True  # as in nanoGPT, and by JAX's default
        with torch.autocast(DEVICE, **self.cast):
            loss = self.call(*map(_ids, (x, y)))
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class MLPLoop(Loop):
    """makemore part 2's loop: plain tensors, 32 contexts a step, SGD by hand."""

    def __init__(self, config: Config, params: Any, x: np.ndarray, y: np.ndarray):
        table, hidden, head = (params[n] for n in ("token_embedding_table", "hidden_0", "lm_head"))
        arrays = [
            table["embedding"],
            hidden["kernel"],
            hidden["bias"],
            head["kernel"],
            head["bias"],
        ]
        self.parameters = [torch.tensor(np.asarray(array), device=DEVICE) for array in arrays]
        for parameter in self.parameters:
            parameter.requires_grad_()
        self.batch_size, self.rate = config.train.batch_size, config.optim.learning_rate
        self.x, self.y = _ids(x), _ids(y)

    def _nats(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        C, W1, b1, W2, b2 = self.parameters
        h = torch.tanh(C[x].view(len(x), -1) @ W1 + b1)
        return F.cross_entropy(h @ W2 + b2, y)

    def loss(self, x: np.ndarray, y: np.ndarray) -> float:
        """Mean nats of contexts (B, block_size) and what follows them (B,)."""
        return self._nats(_ids(x), _ids(y)).item()

    def step(self) -> None:
        """One update on random contexts."""
        ix = torch.randint(0, len(self.x), (self.batch_size,), device=DEVICE)
        for parameter in self.parameters:
            parameter.grad = None
        self._nats(self.x[ix], self.y[ix]).backward()
        for parameter in self.parameters:
            parameter.data += -self.rate * parameter.grad


def _ids(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.int64)).to(DEVICE)


def gpt_loops(dtypes: Sequence[str], *what: Any) -> Iterator[tuple[str, Callable[[], GPTLoop]]]:
    """Two ways to train a GPT in each dtype: name, which ends in it, and what makes the loop."""
    torch.compiler.reset()  # it compiles only so many models, and then none
    for way in ("eager", "compiled"):
        for dtype in dtypes:
            make = functools.partial(GPTLoop, *what, dtype, compiled=way == "compiled")
            yield f"PyTorch {way} {dtype}", make


def notes_bigram(path: str, steps: int, batch_size: int, block_size: int) -> None:
    """The notes' whole program up to page 7: the table of pairs, trained by AdamW."""
    text = Path(path).read_text(encoding="utf-8")
    chars = sorted(set(text))
    stoi = {char: i for i, char in enumerate(chars)}
    data = torch.tensor([stoi[char] for char in text], dtype=torch.long)
    data = data[: int(0.9 * len(data))]
    table = nn.Embedding(len(chars), len(chars))
    optimizer = torch.optim.AdamW(table.parameters(), lr=1e-3)
    for _ in range(steps):
        ix = torch.randint(len(data) - block_size, (batch_size,))
        xb = torch.stack([data[i : i + block_size] for i in ix])
        yb = torch.stack([data[i + 1 : i + block_size + 1] for i in ix])
        loss = F.cross_entropy(table(xb).flatten(0, 1), yb.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    print(loss.item())
