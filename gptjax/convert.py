"""Bring a GPT-2 of Hugging Face's form in, and take a run out as one: the same weights and logits.

    python -m gptjax.convert --from_hf=gpt2 --workdir=runs/gpt2
    python -m gptjax.convert --workdir=runs/gpt-small --to_hf=gpt-small

In: a folder with config.json, model.safetensors (sharded ones, too) and a tokenizer; or a run. Out:
a run without a history, to sample, evaluate, look, and train from; or a folder that transformers
loads by AutoModelForCausalLM and AutoTokenizer. Each is written whole or not at all.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gptjax.cli import main as cli
from gptjax.errors import UserError
from gptjax.monitoring.console import Terminal
from gptjax.runtime.object_store import is_remote


def main(args: Any) -> int:
    """Convert in one of the two directions."""
    if bool(args.from_hf) == bool(args.to_hf) or not args.workdir:
        raise UserError(
            "give --from_hf=FOLDER (a GPT-2 to read) and --workdir (the run to make), or --workdir "
            "(a run) and --to_hf=FOLDER (to write)"
        )
    if args.from_hf and args.checkpoint != "best":
        raise UserError("--checkpoint is of a run: a folder of Hugging Face's form has one model")
    with Terminal() as terminal:
        if args.from_hf:
            come_in(_local("from_hf", args.from_hf), _local("workdir", args.workdir), terminal)
        else:
            go_out(args, _local("to_hf", args.to_hf), terminal)
    return 0


def _local(flag: str, value: str) -> Path:
    if is_remote(value):
        raise UserError(f"--{flag}={value} is a URL: name a folder of this machine, and copy it")
    return Path(os.path.expanduser(value))


def come_in(folder: Path, workdir: Path, terminal: Terminal) -> None:
    """Make a run of a folder, and say what it is."""
    with terminal.doing("starting JAX"):
        from gptjax.interop import folders
    folders.require_free(workdir, "--workdir")
    with terminal.doing(f"reading {folder}"):
        found = folders.read(folder, terminal.busy)
    for note in found.family.notes:
        terminal.note(note)
    with terminal.doing("writing the run"):
        folders.write_run(found, workdir, folder.resolve().name)
    c, n = found.family.config, found.n_parameters
    size = f"{c.n_layer}/{c.n_head}/{c.n_embd}, block {c.block_size:,}, {n:,} parameters"
    terminal.note(f"{folder}: {size}; now in {workdir}, at step 0 and without a history")
    terminal.note(f"to see it write: python -m gptjax.sample --workdir={workdir}")
    mine = f"--init_from={workdir} --workdir=runs/mine"
    terminal.note(f"to train from it: python -m gptjax.train --config=gpt {mine}")


def go_out(args: Any, folder: Path, terminal: Terminal) -> None:
    """Make a folder of a run, and say how it is loaded."""
    with terminal.doing("opening the run"):
        from gptjax.checkpoints import mirror
        from gptjax.checkpoints.run import open_for_command
        from gptjax.interop import folders

        folders.require_free(folder, "--to_hf")
        run = open_for_command(args.workdir, args.checkpoint, terminal.warn)
    within = mirror.reading(args.workdir, run.step, ())
    folders.write(run, Path(within), folder, terminal.busy)
    terminal.note(f"step {run.step:,} of {args.workdir} is in {folder}, with a model card")
    terminal.note(f"to load it: AutoModelForCausalLM.from_pretrained({str(folder)!r})")


FLAGS = [
    *cli.RUN_FLAGS,
    cli.Flag("from_hf", "", "the folder of a GPT-2 to read, with its tokenizer"),
    cli.Flag("to_hf", "", "the folder to write; new or empty"),
]

if __name__ == "__main__":
    cli.run(main, about=__doc__, flags=FLAGS)
