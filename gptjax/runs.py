"""A run's folder: which files stand in it, and opening the model that was trained there.

In: a work folder. Out: a ``Run`` - config, tokenizer, model and parameters - from its checkpoint
alone: the folder may be copied anywhere, and the corpus is not needed.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from gptjax import checkpoint, models, tokenizer
from gptjax import config as gptjax_config
from gptjax.config import Config
from gptjax.errors import UserError

METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
RECORD = "run.json"
CURVE = "loss.png"


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model with all that is needed to use it."""

    config: Config
    tokenizer: tokenizer.Tokenizer
    model: nn.Module
    params: Any
    step: int
    meta: dict[str, Any]
    notices: tuple[str, ...] = ()


def open_run(workdir: Path, which: str | int = "best") -> Run:
    """Read config, tokenizer and parameters from a checkpoint.

    Args:
      workdir: the folder of the run.
      which: "best" (lowest validation loss), "last" or a step.

    Returns:
      The run.

    Raises:
      UserError: no run there, no such checkpoint, or a damaged one.
    """
    require_run(workdir)
    _, meta = checkpoint.read_meta(workdir, which)
    config = gptjax_config.from_dict(meta["config"])
    tok = tokenizer.from_json(meta["tokenizer"])
    model = models.build(config.model, tok.vocab_size, tok.start_id)
    restored = checkpoint.restore(
        workdir, which, {"params": abstract_params(model)}, only_params=True
    )
    params = restored.tree["params"]
    return Run(config, tok, model, params, restored.step, meta, tuple(restored.notices))


def require_run(workdir: Path) -> None:
    """Refuse a folder that holds no checkpoint: one line that says what was found there."""
    if not workdir.is_dir():
        raise UserError(f"no folder {str(workdir)!r}: --workdir names the folder of a run")
    if not checkpoint.available(workdir):
        raise UserError(
            f"{str(workdir)!r} holds no checkpoint: train one there, "
            f"python -m gptjax.train --config=configs/gpt.py --workdir={workdir}"
        )


def abstract_params(model: nn.Module) -> Any:
    """Shapes and dtypes of a model's parameters, without making them."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]


def summary(workdir: Path) -> dict[str, Any] | None:
    """The figures of a finished run, None where there are none to read."""
    try:
        return json.loads((workdir / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def which(text: str) -> str | int:
    """Read a ``--checkpoint`` flag: "best", "last" or a step."""
    if text in ("best", "last"):
        return text
    if not text.isdecimal():
        raise UserError(f"--checkpoint={text!r} must be best, last or a step such as 500")
    return int(text)
