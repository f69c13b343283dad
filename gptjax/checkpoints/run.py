"""A run's folder: which files stand in it, and opening the model that was trained there.

In: a work folder. Out: a ``Run`` - config, tokenizer, model and parameters - from its checkpoint
alone: the folder may be copied anywhere, and the corpus is not needed.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from gptjax import models
from gptjax.checkpoints import store as checkpoint
from gptjax.config import parse as gptjax_config
from gptjax.config.parse import Config
from gptjax.data import splits as corpus
from gptjax.data import tokenizers as tokenizer
from gptjax.errors import UserError
from gptjax.generation import generate as continuation
from gptjax.generation import sampling as samplers
from gptjax.generation.generate import Sample, Settings
from gptjax.runtime import atomic_files as files

_SHA256 = re.compile("[0-9a-f]{64}")

METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
RECORD = "run.json"
CURVE = "loss.png"
JSON_LIMIT = 2**24  # bytes of summary.json and run.json that are read
# Figures that every summary.json holds, and that other pages show.
SHOWN = ("steps", "final_train_nats", "final_val_nats", "best_val_nats", "best_step")
SHOWN += ("train_seconds", "tokens_per_second")


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

    @property
    def items(self) -> bool:
        """Whether it learnt a list of items (names) and not a stream of text."""
        return self.meta["data"]["kind"] == "items"

    def generate(
        self,
        prompt: str | Sequence[str] = "",
        *,
        num_samples: int = 1,
        seed: int = 0,
        on_text: Callable[[int, str], None] | None = None,
        **settings: Any,
    ) -> list[Sample]:
        """Continue a prompt, or several.

        Args:
          prompt: the text to continue; empty begins as the corpus does.
          num_samples: continuations per prompt.
          seed: another seed, another text.
          on_text: called with (row, new text) while it is made.
          **settings: see ``settings``: max_new_tokens, temperature, top_k, top_p, min_p,
            repetition_penalty, stop, window.

        Returns:
          A ``Sample`` (text, ids, log_probs, why it stopped) per continuation.

        Raises:
          UserError: a setting out of its range, or a character outside the vocabulary.
        """
        if num_samples < 1:
            raise UserError(f"num_samples={num_samples} must be 1 or more")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        key_R = continuation.row_keys(seed, len(prompts), num_samples)
        rows = [p for p in prompts for _ in range(num_samples)]
        return self.continue_rows(rows, key_R, self.settings(**settings), on_text)

    def continue_rows(self, prompts, key_R, settings, on_text=None) -> list[Sample]:
        """``continuation.continue_rows`` with this run's model."""
        return continuation.continue_rows(
            self.model, self.params, self.tokenizer, prompts, key_R, settings, on_text
        )

    def read_corpus(self, workdir: Path) -> corpus.Corpus:
        """The text it learnt from, read again, to measure the run anew.

        Args:
          workdir: its folder, for the message.

        Raises:
          UserError: the corpus cannot be had, or is not the one of the training.
        """
        text, trained = corpus.load(self.config.data, self.config.seed), self.meta["data"]["sha256"]
        if text.sha256 != trained:
            raise UserError(
                f"the corpus {text.name} is not the one that {workdir} was trained on (sha256 "
                f"{text.sha256[:8]} now, {trained[:8]} then): restore the file, or train again"
            )
        return text

    def require_next(self, to: str) -> None:
        """Refuse, in one line, to do ``to`` with a run that did not learn what comes next."""
        if self.config.train.neighbours:
            raise UserError(
                f"this run learnt neighbours (train.neighbours={self.config.train.neighbours}), "
                f"not what comes next, and cannot {to}: ask look near or look analogy"
            )

    def settings(
        self,
        max_new_tokens: int = 500,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        stop: Sequence[str] = (),
        window: str = "exact",
    ) -> Settings:
        """The settings of a generation, checked; see samplers.py and ``decoding.advance``."""
        self.require_next("write")
        sampler = samplers.build(temperature, top_k, top_p, min_p, repetition_penalty)
        stop = (stop,) if isinstance(stop, str) else tuple(stop)
        return Settings(max_new_tokens, sampler, stop, window, self.items)


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
    saved = understand(workdir, meta)
    tok = saved.tokenizer
    model = models.build(saved.config.model, tok.vocab_size, tok.start_id)
    restored = checkpoint.restore(
        workdir, which, {"params": abstract_params(model)}, only_params=True
    )
    params, meta = restored.tree["params"], restored.meta
    return Run(saved.config, tok, model, params, restored.step, meta, tuple(restored.notices))


@dataclasses.dataclass(frozen=True)
class Saved:
    """What stands beside the arrays of a checkpoint, checked."""

    config: Config
    tokenizer: tokenizer.Tokenizer
    data: dict[str, Any]  # of ``Corpus.facts``
    memory: dict[str, Any]  # of ``Loop.memory``


def understand(workdir: Path, meta: dict[str, Any]) -> Saved:
    """Read the dict that a run stores beside its arrays; whoever wrote it, nothing else happens.

    Fields that were unknown when it was saved have their defaults.

    Raises:
      UserError: something is missing, of another type, or not known to this version.
    """
    try:
        config = gptjax_config.from_dict(meta["config"])
        data, memory = meta["data"], meta["memory"]
        if data["kind"] not in ("stream", "items") or not _SHA256.fullmatch(data["sha256"]):
            raise TypeError("its data")
        best, pending = memory["best"], memory["pending"]
        numbers = [memory["evaluated"], memory["train_seconds"], *memory["timed"]]
        numbers += [*itertools.chain(*pending), memory.get("checkpoint_seconds", 0.0)]
        numbers += [best["step"], best["val_nats"]] if best is not None else []
        lines = memory.get("lines", 0)
        shaped = all(len(pair) == 2 for pair in [memory["timed"], *pending])
        shaped = shaped and type(lines) is int and lines >= 0
        if not shaped or not all(map(_is_number, numbers)):
            raise TypeError("its memory")
        return Saved(config, tokenizer.from_json(meta["tokenizer"]), data, memory)
    except (UserError, LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
        why = str(error) if isinstance(error, UserError) else f"{type(error).__name__} {error}"
        raise UserError(
            f"the checkpoint in {workdir} is not one that this version of gptjax can read ({why}): "
            "use the version that run.json names, or another --workdir"
        ) from error


def _is_number(value: Any) -> bool:
    """Whether it is a number that arithmetic can take: JSON knows integers of any length."""
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


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
    """The figures of a finished run (see ``report.measure``), None where some are missing."""
    try:
        figures = json.loads(files.read_small(workdir / SUMMARY, JSON_LIMIT))
    except (OSError, ValueError, RecursionError):
        return None
    is_whole = isinstance(figures, dict) and all(_is_number(figures.get(name)) for name in SHOWN)
    return figures if is_whole else None


def starts(workdir: Path) -> list[dict[str, Any]]:
    """What each start of a run recorded of itself in run.json, [] where there is none to read."""
    try:
        said = json.loads(files.read_small(workdir / RECORD, JSON_LIMIT))["starts"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return []
    return said if isinstance(said, list) else []


def which(text: str) -> str | int:
    """Read a ``--checkpoint`` flag: "best", "last" or a step."""
    if text in ("best", "last"):
        return text
    if not text.isdecimal() or len(text) > 18:
        raise UserError(f"--checkpoint={text!r:.40} must be best, last or a step such as 500")
    return int(text)
