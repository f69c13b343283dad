"""A model's folder in Hugging Face's form: one read into a run, and a run written as one.

In: a folder of a GPT-2 (config.json, safetensors, a tokenizer), or a ``Run``. Out: a run without a
history, or a folder that transformers loads with nothing else installed; each whole or not at all.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptjax.checkpoints import pytree, store
from gptjax.checkpoints.run import Run
from gptjax.config.schema import CheckpointConfig, Config, TokenizerConfig, TrainConfig, to_dict
from gptjax.data import tokenizers
from gptjax.data.tokenizers import Tokenizer
from gptjax.errors import UserError, is_utf8
from gptjax.interop import gpt2, model_card, safetensors_files, tokenizer_files
from gptjax.interop.gpt2 import Family
from gptjax.interop.safetensors_files import Stored
from gptjax.runtime import devices
from gptjax.runtime.atomic_files import parse_json, read_small, reason, whole_folder
from gptjax.runtime.pace import Told

CONFIG, GENERATION, CARD = "config.json", "generation_config.json", "README.md"
CONFIG_LIMIT = 2**20  # bytes
LOGITS = 2**26  # at once, when it is evaluated: 268 MB
MEMORY = 2.5  # of a model's bytes as float32: what converting it takes at most


class LazyArray:
    """An array that is read when it is asked for, so that a model is in memory once."""

    dtype = np.dtype(np.float32)

    def __init__(self, shape: tuple[int, ...], read: Callable[[], np.ndarray]):
        self.shape, self._read = shape, read

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._read(), dtype)


class Found(NamedTuple):
    """What a folder holds, checked; ``params`` are arrays that are not read yet, by path."""

    family: Family
    tokenizer: Tokenizer
    params: dict[str, LazyArray]

    @property
    def n_parameters(self) -> int:
        """How many numbers the model has."""
        return sum(math.prod(array.shape) for array in self.params.values())


def require_free(folder: Path, flag: str) -> None:
    """Refuse a folder that holds something, before any work is done for it."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{flag}={folder} is a file: name a folder that is new or empty")
    if folder.is_dir() and any(folder.iterdir()):
        what = "a run" if (folder / "checkpoints").is_dir() else "other files"
        raise UserError(f"{flag}={folder} holds {what}: name a folder that is new or empty")


def read(folder: Path, told: Told = lambda *_: None) -> Found:
    """Look at a model's folder and check all of it, but for the numbers themselves.

    UserError: no such folder, another architecture, a tensor or a tokenizer that does not fit.
    """
    if not folder.is_dir():
        raise UserError(
            f"no folder {str(folder)!r}: --from_hf takes one of this machine; of a model of the "
            f"hub fetch it first, hf download NAME --local-dir={folder.name or 'FOLDER'}"
        )
    path = folder / CONFIG
    try:
        family = gpt2.read_config(parse_json(read_small(path, CONFIG_LIMIT)))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {reason(error)}") from error
    stored = _match(folder, family, safetensors_files.find(folder))
    tok: Any = tokenizer_files.read(folder)
    V = family.vocab_size
    if tok.vocab_size > V:
        raise UserError(
            f"the tokenizer in {folder} has {tok.vocab_size:,} tokens, and the model's table has "
            f"{V:,} rows: it is another model's, or tokens were added to it and not to the model"
        )
    if tok.vocab_size < V:
        tok = tokenizers.PaddedTokenizer(tok, V)
    n_bytes = 4 * sum(math.prod(shape) for _, shape, *_ in family.rows())
    if 0 < (free := devices.free_memory()) < MEMORY * n_bytes:
        needs = f"{MEMORY * n_bytes / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"
        raise UserError(f"to convert {folder} needs {needs}: close programs, or a larger machine")
    return Found(family, tok, _lazy(family, stored, n_bytes, told))


def _match(folder: Path, family: Family, found: dict[str, Stored]) -> dict[str, Stored]:
    """The tensors of a model under the names of the table; UserError where they are others."""
    kept = {
        name if name.startswith(gpt2.PREFIX) or name == gpt2.HEAD else gpt2.PREFIX + name: stored
        for name, stored in found.items()
        if not name.endswith(gpt2.BUFFERS)
    }
    table, head = gpt2.PREFIX + gpt2.TABLE, kept.get(gpt2.HEAD)
    if family.config.tie_lm_head and head:  # both are kept where who wrote them did not look
        same = kept.setdefault(table, head)
        _require_readable(folder, {gpt2.HEAD: head, table: same})
        if head.shape != same.shape or not np.array_equal(head.read(), same.read()):
            raise UserError(
                f"{folder}: {gpt2.HEAD} differs from {table}, and {CONFIG} says that they are one: "
                "set tie_word_embeddings there to false if the head is its own"
            )
        del kept[gpt2.HEAD]
    wanted = {name: shape for name, shape, *_ in family.rows()}
    for these, word in ((wanted.keys() - kept, "lacks"), (kept.keys() - wanted, "has also")):
        if these:
            more = f" and {len(these) - 1:,} more" if these - {min(these)} else ""
            kind = f"a GPT-2 of n_layer={family.config.n_layer}"
            raise UserError(f"{folder} {word} {min(these):.80}{more}: it is not {kind}")
    for name, shape in wanted.items():
        if kept[name].shape != shape:
            says = f"{kept[name].shape}, and by {CONFIG} it should be {shape}"
            raise UserError(f"{folder}: {name} has the shape {says}")
    _require_readable(folder, kept)
    return kept


def _require_readable(folder: Path, tensors: dict[str, Stored]) -> None:
    for name, stored in tensors.items():
        if stored.dtype not in safetensors_files.READ:
            raise UserError(
                f"{folder}: {name} has the dtype {stored.dtype}, and only "
                f"{', '.join(safetensors_files.READ)} are read: save the model in one of them"
            )


def _lazy(
    family: Family, stored: dict[str, Stored], n_bytes: int, told: Told
) -> dict[str, LazyArray]:
    """Our parameters by path, each to be read when it is asked for."""
    params, H, begin = {}, family.config.n_head, 0
    for name, shape, ours, layout in family.rows():
        for i, path in enumerate(ours):

            def one(name=name, layout=layout, i=i, begin=begin) -> np.ndarray:
                told("reading the weights", begin, n_bytes)
                return gpt2.split(stored[name].read(), layout, H)[i]

            params[path] = LazyArray(gpt2.our_shape(shape, layout, H), one)
            begin += 4 * math.prod(params[path].shape)
    return params


def write_run(found: Found, workdir: Path, source: str) -> None:
    """Save a model as a run without a history, at step 0: to sample, evaluate, look, train from."""
    name = workdir.resolve().name
    name = name if is_utf8(name) else "converted"
    kind, c = tokenizers.unpadded(found.tokenizer).kind, found.family.config
    rows = LOGITS // (c.block_size * found.family.vocab_size)
    config = Config(
        name=name,
        why=f"converted from {source if is_utf8(source) else 'a folder'}",
        tokenizer=TokenizerConfig(kind),
        model=c,
        train=TrainConfig(steps=0, batch_size=min(max(1, rows), TrainConfig.batch_size)),
    )
    meta = {"config": to_dict(config), "tokenizer": found.tokenizer.to_json()}
    state = {"params": pytree.nested(found.params), "rest": {}}
    with whole_folder(workdir) as part, store.Checkpoints(part, CheckpointConfig()) as checkpoints:
        checkpoints.save(0, state, meta, best=True)


def write(run: Run, workdir: Path, folder: Path, told: Told = lambda *_: None) -> None:
    """Write a run as a folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` load.

    ``workdir``: where the run's own records are, for the model card. UserError: GPT-2 cannot
    express it.
    """
    run.require_next("be written as a GPT-2")
    gpt2.require_expressible(run.config.model)
    tok = tokenizers.unpadded(run.tokenizer)
    family, params = gpt2.in_family(
        run.config.model, run.tokenizer.vocab_size, pytree.flat(run.params)
    )
    # Only where a token ends a text: in a stream a new line does not.
    ends_text = tok.kind == "bpe" and tok.token_bytes(tok.end_id) != b"\n"
    end_id = tok.end_id if run.items or ends_text else None
    said = gpt2.write_config(family, tok.start_id, end_id)
    ends = {name: said[name] for name in ("bos_token_id", "eos_token_id")}
    with whole_folder(folder) as part:
        for name, content in ((CONFIG, said), (GENERATION, ends)):
            (part / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        tokenizer_files.write(part, tok, family.config.block_size)
        card = model_card.text(run, workdir, folder)
        (part / CARD).write_text(card, encoding="utf-8")
        tensors = gpt2.tensors(family, params)
        path = part / safetensors_files.SINGLE
        safetensors_files.write(path, tensors, lambda *done: told("writing the weights", *done))
