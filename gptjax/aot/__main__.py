"""Compile a run for devices that are not here, and say whether it fits and how fast it can be.

    python -m gptjax.aot --config=configs/gpt.py:lecture --target=tpu:v5e:1x1
    python -m gptjax.aot --config=configs/gpt2.py:124m --vocab_size=50257 --target=tpu:v5e:2x4
    python -m gptjax.aot --config=gpt:small --target=cpu:1,cpu:8 --only=train
    python -m gptjax.aot --config=gpt:lecture --target=tpu:v5e:2x2 --try=train.accumulate=2

In: a config and the name of devices; no corpus, and for TPUs the package libtpu (pip install
libtpu). Out: memory a device by what it holds, FLOPs, bytes that the memory and the links move, the
roofline's time, and what other settings would give: "about", or compiled too where --try names
them. Several targets make a table. For a GPU programs are lowered alone. Compiling takes minutes.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from gptjax.aot import targets
from gptjax.cli import main as cli
from gptjax.config import parse
from gptjax.config.schema import BPE_VOCABULARY, Config, fields
from gptjax.errors import UserError, did_you_mean
from gptjax.monitoring.console import Terminal
from gptjax.runtime import compilation_cache

PROGRAMS = ("train", "evaluation", "decode")
# Distinct ones in the known corpora.
CHARACTERS = {"shakespeare": 84, "tinyshakespeare": 65, "names": 27, "indian_names": 25}
BYTES = 256


def main(args: Any) -> int:
    """Compile, and print what is known."""
    names = [targets.parse(text) for text in args.target.split(",") if text]
    if not names:
        raise UserError(f"--target is missing: write {targets.EXAMPLES}")
    if args.only and args.only not in PROGRAMS:
        raise UserError(f"--only={args.only!r:.40} is none of {', '.join(PROGRAMS)}")
    if len(names) > 1 and (getattr(args, "try") or args.only not in ("", "train")):
        raise UserError("several targets make a table of training: give one, or leave the rest out")
    V = vocab_size(args.config, args.vocab_size)
    tried = [changed(args.config, text) for text in getattr(args, "try")]
    targets.prepare(names)
    compilation_cache.switch(False)  # the seconds of compiling are told
    with Terminal(sys.stderr if args.json else None) as terminal:
        with terminal.doing("starting JAX"):
            from gptjax.aot import report

            found = [targets.find(name) for name in names]
        if len(found) > 1:
            return table(args, V, found, terminal)
        (target,) = found
        made = compile_all(args, args.config, V, target, terminal)
        for text, config in zip(getattr(args, "try"), tried, strict=True):
            other = compile_all(args, config, V, target, terminal, text)
            made = report.with_compiled(made, text, other)
        if args.json:
            print(json.dumps(report.to_json(made)))
        else:
            for line in report.page(made):
                terminal.note(line)
    return 0


def table(args: Any, V: int, found: list[targets.Target], terminal: Terminal) -> int:
    """A row for each target."""
    from gptjax.aot import report

    args.only, rows = "train", []
    if not args.json:
        terminal.note(f"{args.config.name}, {args.config.train.batch_size:,} rows a step")
        terminal.note(report.HEADS)
    for target in found:
        rows.append(report.row(compile_all(args, args.config, V, target, terminal)))
        if not args.json:
            terminal.note(report.cells(rows[-1]))
    if args.json:
        print(json.dumps(rows))
    return 0


def compile_all(
    args: Any, config: Config, V: int, target: targets.Target, terminal: Terminal, more: str = ""
) -> Any:
    """The report of a config on a target."""
    from gptjax.aot import programs, report

    def told(what):
        verb = "compiling" if target.compiles else "lowering"
        return terminal.doing(f"{verb} {what} for {target.name.text}{more and f' with {more}'}")

    names = (args.only,) if args.only else PROGRAMS
    exp, compiled = programs.compiled(config, V, target, ("train",) if more else names, told)
    with terminal.doing("adding up"):
        return report.make(config.name, exp, compiled, target)


def changed(config: Config, text: str) -> Config:
    """The config with fields set: "model.remat=true,train.accumulate=4"."""
    settings, kinds, values = (
        parse.settings_of(config),
        {f.path: f.type for f in fields(config)},
        {},
    )
    for part in text.split(","):
        path, _, value = part.partition("=")
        if path not in kinds:
            near = did_you_mean(path, kinds)
            raise UserError(f"--try={part!r:.80} sets no field{near}: write train.accumulate=4")
        kind = kinds[path]
        try:
            words = {"true": True, "false": False}
            values[path] = words[value.lower()] if kind is bool else kind(value)
        except (KeyError, ValueError) as error:
            raise UserError(f"--try={part!r:.80}: {path} is a {kind.__name__}") from error
    parse.override(settings, values)
    return parse.from_dict(settings)


def vocab_size(config: Config, given: int | None) -> int:
    """The vocabulary's: the flag's, or that of the config's corpus, which is not read."""
    if given is not None:
        if not 2 <= given <= 2**20:
            raise UserError(f"--vocab_size={given} must be at least 2 and at most {2**20:,}")
        return given
    if config.tokenizer.kind == "byte":
        return BYTES
    if config.tokenizer.kind == "bpe":
        return config.tokenizer.vocab_size or BPE_VOCABULARY
    if config.tokenizer.kind == "word" or config.data.path:
        what = config.data.path or f"the words of {config.data.name}"
        raise UserError(f"{what} is not read: say with --vocab_size how many tokens there are")
    return CHARACTERS[config.data.name]


FLAGS = [
    cli.Flag("target", "", f"{targets.EXAMPLES}; commas between several, for a table"),
    cli.Flag("vocab_size", int, "tokens of the vocabulary; the known corpus's when not set"),
    cli.Flag("only", "", f"one program alone: {', '.join(PROGRAMS)}"),
    cli.Flag("try", [], "compile training with other settings too, as model.remat=true,..."),
    cli.Flag("json", False, "one line of JSON instead of the page"),
]

if __name__ == "__main__":
    cli.run(main, about=__doc__, flags=FLAGS, config=True)
