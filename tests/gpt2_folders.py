"""Small GPT-2s in Hugging Face's form, made by hand, and their logits by the definition alone."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from gptjax.data.tokenizers import CharTokenizer
from gptjax.interop import tokenizer_files

LETTERS = "\nabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ .,!?"


def config(**changes) -> dict:
    """A config.json whose sizes are all different."""
    sizes = {"vocab_size": 23, "n_positions": 11, "n_embd": 15, "n_head": 3, "n_layer": 2}
    more = {"activation_function": "gelu_new", "tie_word_embeddings": True, "resid_pdrop": 0.25}
    return {"model_type": "gpt2", **sizes, **more, "attn_pdrop": 0.25, "embd_pdrop": 0.0} | changes


def tensors(said: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """Random tensors of a config.json under the names that transformers gives them."""
    V, T, C = (said[name] for name in ("vocab_size", "n_positions", "n_embd"))
    block = {"ln_1.weight": (C,), "ln_1.bias": (C,), "ln_2.weight": (C,), "ln_2.bias": (C,)}
    block |= {"attn.c_attn.weight": (C, 3 * C), "attn.c_attn.bias": (3 * C,)}
    block |= {"attn.c_proj.weight": (C, C), "attn.c_proj.bias": (C,)}
    block |= {"mlp.c_fc.weight": (C, 4 * C), "mlp.c_fc.bias": (4 * C,)}
    block |= {"mlp.c_proj.weight": (4 * C, C), "mlp.c_proj.bias": (C,)}
    shapes = {"wte.weight": (V, C), "wpe.weight": (T, C), "ln_f.weight": (C,), "ln_f.bias": (C,)}
    for i in range(said["n_layer"]):
        shapes |= {f"h.{i}.{name}": shape for name, shape in block.items()}
    shapes = {f"transformer.{name}": shape for name, shape in shapes.items()}
    if not said["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (V, C)
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}


def write(folder: Path, said: dict, arrays: dict[str, np.ndarray], n_tokens: int = 0) -> Path:
    """A folder of a model and a tokenizer of ``n_tokens`` letters: as many as it has rows."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(said), encoding="utf-8")
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    letters = CharTokenizer(LETTERS[: n_tokens or said["vocab_size"]])
    tokenizer_files.write(folder, letters, said["n_positions"])
    return folder


def logits(said: dict, arrays: dict[str, np.ndarray], ids_T: np.ndarray) -> np.ndarray:
    """GPT-2's logits (T, V) of one row, in float64, a head at a time."""
    p = {name.removeprefix("transformer."): a.astype(np.float64) for name, a in arrays.items()}
    T, C, H = len(ids_T), said["n_embd"], said["n_head"]

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(x, name):
        return x @ p[f"{name}.weight"] + p[f"{name}.bias"]

    x = p["wte.weight"][ids_T] + p["wpe.weight"][:T]
    for i in range(said["n_layer"]):
        q, k, v = np.split(linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn"), 3, axis=1)
        heads = []
        for h in range(H):
            own = slice(h * C // H, (h + 1) * C // H)
            scores = q[:, own] @ k[:, own].T / math.sqrt(C // H)
            scores[np.triu_indices(T, 1)] = -np.inf
            weights = np.exp(scores - scores.max(1, keepdims=True))
            heads.append(weights / weights.sum(1, keepdims=True) @ v[:, own])
        x = x + linear(np.concatenate(heads, 1), f"h.{i}.attn.c_proj")
        inner = activation(said["activation_function"], linear(norm(x, f"h.{i}.ln_2"), fc(i)))
        x = x + linear(inner, f"h.{i}.mlp.c_proj")
    head = p["wte.weight" if said["tie_word_embeddings"] else "lm_head.weight"]
    return norm(x, "ln_f") @ head.T


def fc(i: int) -> str:
    return f"h.{i}.mlp.c_fc"


def activation(name: str, x: np.ndarray) -> np.ndarray:
    """The functions that transformers calls by these names."""
    if name == "relu":
        return np.maximum(x, 0)
    if name == "gelu":
        return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
