"""A run's folder: which files stand in it, and opening the model that was trained there.

In: a work folder. Out: a ``Run`` - config, tokenizer, model and parameters - from its checkpoint
alone: it may be copied anywhere, and needs neither the corpus nor a history of training.
"""

import contextlib
import dataclasses
import html
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Never

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gptjax import models
from gptjax.checkpoints import directory, mirror, pytree, store
from gptjax.config import parse
from gptjax.config.foreign_names import nearest
from gptjax.config.schema import Config
from gptjax.data import corpora, tokenizers
from gptjax.data.tokenizers import Tokenizer
from gptjax.errors import UserError
from gptjax.generation import generate, sampling
from gptjax.generation.generate import Piece, Sample, Settings
from gptjax.models import lora
from gptjax.runtime import fast_paths
from gptjax.runtime.atomic_files import read_json
from gptjax.runtime.pace import Busy

METRICS, SUMMARY, RECORD, CURVE = "metrics.jsonl", "summary.json", "run.json", "loss.png"
TIMING = "timing.jsonl"
JSON_LIMIT = 2**24  # bytes of summary.json and run.json that are read
# Figures that every summary.json holds, and that others show.
SHOWN = ("steps", "final_train_nats", "final_val_nats", "best_val_nats", "best_step")
SHOWN += ("train_seconds", "tokens_per_second")
SIZES = ("n_layer", "n_head", "n_embd", "n_hidden", "block_size", "vocab_size")
RUNS_SHOWN = 10
_SHA256 = re.compile("[0-9a-f]{64}")
OnText = Callable[[int, str], None] | None


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model with all that is needed to use it."""

    config: Config
    tokenizer: Tokenizer
    model: nn.Module
    params: Any
    step: int
    data: dict[str, Any] | None = None  # of ``Corpus.facts``; None where nothing is known of it
    notices: tuple[str, ...] = ()
    val_nats: float | None = None  # over the whole split, where summary.json has it of this step
    start: dict[str, Any] | None = None  # the run it began with: see ``checkpoints/start.py``
    folder: Path | None = None  # where it was opened; None of a run that was put together by hand

    def __repr__(self) -> str:
        facts = self.facts()
        sizes = ", ".join(f"{name}={facts[name]}" for name in SIZES if name in facts)
        val = "" if self.val_nats is None else f", val {facts['val, nats per token']}"
        rest = f"{sizes}; step {facts['step']}{val}; {facts['parameters']} parameters"
        return f"<Run {facts['name']}: {facts['kind']}, {rest}>"

    def _repr_html_(self) -> str:
        """A notebook's table."""
        rows = (
            f"<tr><th>{name}</th><td>{html.escape(f)}</td></tr>" for name, f in self.facts().items()
        )
        return f"<table>{''.join(rows)}</table>"

    def facts(self) -> dict[str, str]:
        """What can be said of it at a glance, as text."""
        has = {field.name for field in dataclasses.fields(self.model)}
        val = {} if self.val_nats is None else {"val, nats per token": f"{self.val_nats:.4f}"}
        return (
            {"name": repr(self.config.name), "kind": self.config.model.kind}
            | {name: f"{getattr(self.model, name):,}" for name in SIZES if name in has}
            | {"step": f"{self.step:,}", **val}
            | {"parameters": f"{self.n_parameters:,}"}
        )

    @property
    def n_parameters(self) -> int:
        """How many numbers the model has learnt."""
        return pytree.n_numbers(self.params)

    @property
    def items(self) -> bool:
        """Whether it learnt a list of items (names) and not a stream of text."""
        return (self.data["kind"] if self.data else self.config.data.kind) == "items"

    def generate(
        self,
        prompt: str | Sequence[str] = "",
        *,
        max_new_tokens: int = 500,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        stop: str | Sequence[str] = (),
        window: str = "exact",
        num_samples: int = 1,
        seed: int = 0,
        on_text: OnText = None,
        **unknown: Never,
    ) -> list[Sample]:
        """What ``gptjax.generate`` does; see there."""
        if unknown:
            known = list(inspect.signature(self.generate).parameters)[:-1]
            name, these = next(iter(unknown)), ", ".join(known)
            raise UserError(f"unknown setting {name}{nearest(name, known)}; there are {these}")
        if num_samples < 1:
            raise UserError(f"num_samples={num_samples} must be 1 or more")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        key_R = generate.row_keys(seed, len(prompts), num_samples)
        rows = [p for p in prompts for _ in range(num_samples)]
        settings = self.settings(
            max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, stop, window
        )
        return self.continue_rows(rows, key_R, settings, on_text)

    def continue_rows(
        self,
        prompts: Sequence[str],
        key_R: jax.Array,
        settings: Settings,
        on_text: OnText = None,
        busy: Busy = None,
    ) -> list[Sample]:
        """``generate.continue_rows`` with this run's model."""
        model, params, tok = self.model, self.params, self.tokenizer
        return generate.continue_rows(model, params, tok, prompts, key_R, settings, on_text, busy)

    def stream(
        self, prompts: Sequence[str | np.ndarray], key_R: jax.Array, settings: Settings
    ) -> Iterator[Piece]:
        """``generate.stream`` with this run's model: text as it is made, until nobody asks."""
        return generate.stream(self.model, self.params, self.tokenizer, prompts, key_R, settings)

    def read_corpus(self, workdir: Path) -> corpora.Corpus:
        """The text it learnt from, read again; UserError if it is not known, or another one now."""
        return read_corpus(self.config, self.data, workdir)

    def require_next(self, to: str) -> None:
        """Refuse, in one line, to do ``to`` with a run that did not learn what comes next."""
        if not self.config.predicts_next:
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
        stop: str | Sequence[str] = (),
        window: str = "exact",
    ) -> Settings:
        """The settings of a generation, checked; see ``sampling`` and ``decode.advance``."""
        self.require_next("write")
        sampler = sampling.build(temperature, top_k, top_p, min_p, repetition_penalty)
        stop = (stop,) if isinstance(stop, str) else tuple(stop)
        return Settings(max_new_tokens, sampler, stop, window, self.items)


def read_corpus(config: Config, data: dict[str, Any] | None, workdir: Path) -> corpora.Corpus:
    """The text that the run in a folder learnt from; see ``Run.read_corpus``."""
    if data is None:
        raise UserError(
            f"{workdir} does not say what it was trained on: evaluate --text_file measures it on a "
            "text of yours"
        )
    text, trained = corpora.load(config.data, config.seed), data["sha256"]
    if text.sha256 != trained:
        raise UserError(
            f"the corpus {text.name} is not the one that {workdir} was trained on (sha256 "
            f"{text.sha256[:8]} now, {trained[:8]} then): restore the file, or train again"
        )
    return text


def open_run(workdir: Path, which: str | int = "best") -> Run:
    """Read config, tokenizer and parameters of the "best" (lowest val loss) or "last" step, or any.

    UserError where there is no run, no such checkpoint, or only a damaged one.
    """
    if not workdir.is_dir():
        raise UserError(f"no folder {str(workdir)!r}: --workdir names the folder of a run")
    saved = understand(workdir, store.read_meta(workdir, which)[1])
    tok = saved.tokenizer
    config = fast_paths.resolve(saved.config.model)
    model = models.build(config, tok.vocab_size, tok.start_id)

    # Shapes and dtypes of the parameters, without making them.
    def init():
        params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
        return lora.begin(params, config, jax.random.key(0))

    found = store.restore(workdir, which, {"params": jax.eval_shape(init)}, only_params=True)
    saved = understand(workdir, found.meta)  # of an earlier step, if the last is damaged
    of_step, params = exact_val_nats(workdir), lora.merge(found.tree["params"], config)
    facts = saved.data, tuple(found.notices), of_step.get(found.step), saved.start, workdir
    return Run(saved.config, tok, model, params, found.step, *facts)


def open_for_command(workdir: str, checkpoint: str, warn: Callable[[str], None]) -> Run:
    """Open the run that ``--workdir`` and ``--checkpoint`` name; ``warn`` is told of damage."""
    if not workdir:
        raise UserError(f"--workdir is missing{runs_below('runs')}")
    asked = which(checkpoint)
    run = open_run(mirror.reading(workdir, asked, ("params",)), asked)
    for notice in run.notices:
        warn(notice)
    return run


class Saved(NamedTuple):
    """What stands beside the arrays of a checkpoint, checked; the trainer's own part is not."""

    config: Config
    tokenizer: Tokenizer
    data: dict[str, Any] | None  # of ``Corpus.facts``
    start: dict[str, Any] | None = None  # of the run it began with


def understand(workdir: Path, meta: dict[str, Any]) -> Saved:
    """Read the dict that stands beside a run's arrays, of whatever version; UserError if it can't.

    Whoever wrote it, nothing else happens. Fields unknown when it was saved have their defaults.
    """
    with refusing_other_versions(workdir):
        config, data = parse.from_dict(meta["config"]), meta.get("data")
        kinds = ("stream", "items")
        if data is not None and not (data["kind"] in kinds and _SHA256.fullmatch(data["sha256"])):
            raise TypeError("its data")
        start = meta.get("start")
        if start is not None:
            checked = Config, str, int, str  # what nobody can have written is refused here
            found = parse.from_dict(start["config"]), start["folder"], start["step"], start["name"]
            if not all(map(isinstance, found, checked)):
                raise TypeError("its start")
        return Saved(config, tokenizers.from_json(meta["tokenizer"]), data, start)


@contextlib.contextmanager
def refusing_other_versions(workdir: Path) -> Iterator[None]:
    """A ``with`` in which what a stranger's JSON makes go wrong is one line of refusal."""
    try:
        yield
    except Exception as error:
        why = str(error) if isinstance(error, UserError) else f"{type(error).__name__} {error}"
        raise UserError(
            f"the checkpoint in {workdir} is not one that this version of gptjax can read ({why}): "
            "use the version that run.json names, or another --workdir"
        ) from error


def is_number(value: Any) -> bool:
    """Whether it is a number that arithmetic can take: JSON knows integers of any length."""
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def summary(workdir: Path) -> dict[str, Any] | None:
    """The figures of a finished run (see ``training/summary.py``), None where some are missing."""
    figures = read_json(workdir / SUMMARY, JSON_LIMIT)
    is_whole = isinstance(figures, dict) and all(is_number(figures.get(name)) for name in SHOWN)
    return figures if is_whole else None


def exact_val_nats(workdir: Path) -> dict[int, float]:
    """Step -> loss over the whole val split, nats per token: of the last step and the best."""
    figures = summary(workdir)
    if figures is None:
        return {}
    best = {figures["best_step"]: figures["best_val_nats"]}
    return {figures["steps"]: figures["final_val_nats"]} | best


def saved_config(workdir: str) -> Config | None:
    """The config of the newest sound checkpoint in a folder; None where there is none at all.

    It is to be trained on with it: UserError where it has no history of training.
    """
    folder = mirror.reading(workdir, "every", ())
    if not directory.available(folder):
        return None
    saved = understand(folder, store.read_meta(folder)[1])
    if saved.data is None:
        raise no_history(workdir)
    return saved.config


def no_history(workdir: str | Path) -> UserError:
    """The refusal to go on with a model that was not trained where it is."""
    return UserError(
        f"the model in {workdir} has no history of training to continue: train from it in a folder "
        f"of its own, --init_from={workdir} --workdir=runs/mine"
    )


def runs_below(top: str, flag: str = "workdir") -> str:
    """The end of a sentence: the newest runs in a folder or in one of its folders."""
    folders = [path for deep in ("*", "*/*") for path in Path(top).glob(f"{deep}/checkpoints")]
    folders.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
    runs = [folder.parent for folder in folders if directory.available(folder.parent)]
    if not runs:
        return (
            f", and there is no run below {top}/: train one, python -m gptjax.train --config=gpt "
            f"--workdir={top}/mine"
        )
    said = []
    for run in runs[:RUNS_SHOWN]:
        figures = summary(run)
        step = figures["best_step"] if figures else directory.last(run)
        val = f", val {figures['best_val_nats']:.4f}" if figures else ""
        said.append(f"{run} (step {step:,}{val})")
    more = f" and {len(runs) - RUNS_SHOWN} more" if len(runs) > RUNS_SHOWN else ""
    return f": name a run, such as --{flag}={runs[0]}; newest first: {', '.join(said)}{more}"


def starts(workdir: Path) -> list[dict[str, Any]]:
    """What each start of a run recorded of itself in run.json, [] where there is none to read."""
    record = read_json(workdir / RECORD, JSON_LIMIT)
    said = record.get("starts") if isinstance(record, dict) else None
    return said if isinstance(said, list) else []


def which(text: str) -> str | int:
    """Read a ``--checkpoint`` flag: "best", "last" or a step."""
    if text in ("best", "last"):
        return text
    if not re.fullmatch("[0-9]{1,18}", text):
        raise UserError(f"--checkpoint={text!r:.40} must be best, last or a step such as 500")
    return int(text)
