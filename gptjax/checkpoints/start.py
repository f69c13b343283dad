"""With which run another begins: fine-tuning takes its parameters, its tokenizer and its sizes.

In: a config whose ``train.init_from`` names a run, and the folder to train in. Out: the config with
that run's sizes, its tokenizer, and a ``Start`` that has the parameters. What is known of the start
travels in each checkpoint, so that the new run goes on without the old one's folder.
"""

import dataclasses
import hashlib
import os
from collections.abc import Collection
from operator import attrgetter
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gptjax.checkpoints import directory, mirror, pytree, store
from gptjax.checkpoints.run import Run, open_run, read_corpus, runs_below, understand
from gptjax.config import parse
from gptjax.config.schema import Config, ModelConfig, fields, to_dict
from gptjax.data.corpora import Corpus
from gptjax.data.tokenizers import Tokenizer
from gptjax.errors import UserError
from gptjax.processes import cluster
from gptjax.runtime.object_store import is_remote

# Of the model what a run decides anew: how it is computed, and what learns. The rest are sizes.
ANEW = ("dropout", "compute_dtype", "storage_dtype", "attention", "remat", "scan_layers")
ANEW += ("pad_vocab", "lora_rank", "lora_targets", "lora_alpha")
POSITIONS = "position_embedding_table/embedding"  # (T, C): a shorter block has the first of them
# What nanoGPT's init_from may be instead of a folder.
OTHERS = {
    "scratch": "leave it out: a run begins with fresh parameters",
    "resume": "leave it out: training goes on by itself in the folder of a run, --workdir",
    "gpt2": "python -m gptjax.convert makes a run of a Hugging Face folder",
}


@dataclasses.dataclass
class Start:
    """The run that another begins with. ``facts``, plain JSON, are all that outlives its folder."""

    facts: dict[str, Any]  # folder, name, step, sha256, config, data; before: losses
    run: Run | None = None  # where it has just been opened
    notes: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Where it was."""
        return self.facts["folder"]

    def params(self, block_size: int) -> Any:
        """Its parameters, with positions for ``block_size`` tokens.

        UserError: they are not there any more, or others are.
        """
        run = self.run or _open(self.folder)
        if run is not self.run and digest(run.params) != self.facts["sha256"]:
            raise UserError(
                f"{self.folder} holds another run than the one that this one began with, of step "
                f"{self.facts['step']:,}: without that, no step before the first checkpoint is here"
            )
        self.run = None  # once is enough: the state has them from now on

        def cut(path, leaf):
            named = jax.tree_util.keystr(path, simple=True, separator="/")
            return leaf[:block_size] if named.endswith(POSITIONS) else leaf

        return jax.tree_util.tree_map_with_path(cut, run.params)

    def read_corpus(self) -> Corpus:
        """What it learnt from, read again; UserError where it cannot be had, or is not known."""
        config = parse.from_dict(self.facts["config"])
        return read_corpus(config, self.facts["data"], Path(self.folder))


def find(
    config: Config, workdir: str | Path, explicit: Collection[str] = ()
) -> tuple[Config, Tokenizer | None, Start | None]:
    """The config with the sizes of what the run in ``workdir`` begins with, its tokenizer, a start.

    Where the folder has a checkpoint, that says it all. ``explicit``: fields that were set by hand.
    UserError: no such run, one that cannot learn further, or sizes set that are not its own.
    """
    if not config.train.init_from:
        if config.model.lora_rank:
            raise UserError(
                f"model.lora_rank={config.model.lora_rank} trains thin products beside the kernels "
                "of a trained run: name its folder with --init_from"
            )
        if config.tokenizer.kind != "bpe":
            return config, None, None
        return config, learnt_tokenizer(mirror.reading(workdir, "every", ())), None
    folder = mirror.reading(workdir, "every", ())
    if cluster.from_first(bool(directory.available(folder))):
        saved = understand(folder, store.read_meta(folder)[1])
        if saved.start is None:  # another run: resuming refuses it, with both values
            return config, None, None
        tuned, _ = _with_sizes(config, saved.config, str(workdir), explicit)
        return tuned, saved.tokenizer, Start(saved.start)
    named = config.train.init_from
    if not is_remote(named) and Path(os.path.expanduser(named)).resolve() == folder.resolve():
        raise UserError(f"--init_from={named} is the folder to train in: name another --workdir")
    run = _open(named)
    config, differ = _with_sizes(config, run.config, named, explicit)
    facts = {"folder": named, "name": run.config.name, "step": run.step}
    facts |= {"sha256": digest(run.params), "config": to_dict(run.config), "data": run.data}
    notes = run.notices
    if differ:
        notes += (f"of {named}, not of the config: {', '.join(differ)}",)
    return config, run.tokenizer, Start(facts, run, notes)


def learnt_tokenizer(workdir: Path) -> Tokenizer | None:
    """The byte pairs of the run in a folder, to go on with: learnt anew they might be others.

    None where there is no run, or its text alone makes the tokenizer.
    """
    if not cluster.from_first(bool(directory.available(workdir))):
        return None
    saved = understand(workdir, store.read_meta(workdir)[1])
    return saved.tokenizer if saved.tokenizer.is_slow else None


def _open(folder: str) -> Run:
    name = "gpt2" if folder.startswith("gpt2") else folder
    path = os.path.expanduser(folder)
    if not is_remote(folder) and not Path(path).is_dir():
        why = OTHERS.get(name, f"there is no such folder{runs_below('runs', 'init_from')}")
        raise UserError(f"--init_from={folder:.80} names the folder of a run: {why}")
    run = open_run(mirror.reading(path, "best", ("params",)))
    if run.config.model.kind == "ngram":
        raise UserError(f"--init_from={folder}: an ngram counts, and does not learn further")
    return run


def _with_sizes(
    config: Config, theirs: Config, where: str, explicit: Collection[str]
) -> tuple[Config, list[str]]:
    """The config with the sizes and tokenizer of ``theirs``, and what differed, with both values.

    A block may be set shorter. UserError: another size was set by hand.
    """
    sizes = [f"model.{f.name}" for f in dataclasses.fields(ModelConfig) if f.name not in ANEW]
    sizes += [f.path for f in fields(config) if f.path.startswith("tokenizer.")]
    values = {path: (attrgetter(path)(config), attrgetter(path)(theirs)) for path in sizes}
    ours, has = values["model.block_size"]
    shorter = "model.block_size" in explicit and ours < has and theirs.model.kind != "mlp"
    if shorter:
        del values["model.block_size"]
    differ = [path for path, (asked, of_run) in values.items() if asked != of_run]
    if wrong := [path for path in differ if path in explicit]:
        both = (f"{path}={values[path][0]!r}, and it has {values[path][1]!r}" for path in wrong)
        block = "; a block can be shorter, never longer" if "model.block_size" in wrong else ""
        raise UserError(
            f"a run that begins with {where} has its sizes and tokenizer, and this was asked for: "
            f"{'; '.join(both)}: leave it out{block}"
        )
    model = {path[6:]: values[path][1] for path in values if path.startswith("model.")}
    model = dataclasses.replace(config.model, **model)
    tuned = dataclasses.replace(config, model=model, tokenizer=theirs.tokenizer)
    return tuned, [f"{path}={values[path][1]!r} ({values[path][0]!r})" for path in differ]


def digest(params: Any) -> str:
    """The sha256 of all parameters, by name: which ones they were."""
    total = hashlib.sha256()
    for name, leaf in sorted(pytree.flat(params).items()):
        array = np.ascontiguousarray(leaf)
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        total.update(array)
    return total.hexdigest()
