"""A model's title page in Hugging Face's form, README.md: what is known of its run, nothing else.

In: a ``Run``, its folder, the name it gets. Out: Markdown. What run.json and summary.json do not
say is left out.
"""

import shlex
from pathlib import Path
from typing import Any

import gptjax
from gptjax.checkpoints import run as runs
from gptjax.checkpoints.run import Run
from gptjax.errors import harmless

HEAD = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- gpt2
- gptjax
---
"""


def text(run: Run, workdir: Path, folder: Path) -> str:
    """The whole page."""
    rows = [f"| {what} | {_cell(fact)} |" for what, fact in facts(run, workdir).items()]
    name = folder.resolve().name
    return f"""{HEAD}
# {_cell(run.config.name)}

A GPT of GPT-2's architecture, written by gptjax {gptjax.__version__}.

| | |
|---|---|
{chr(10).join(rows)}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({name!r})
tokenizer = AutoTokenizer.from_pretrained({name!r})
```

It reads at most {run.config.model.block_size:,} tokens at a time, the prompt and what it adds.
"""


def facts(run: Run, workdir: Path) -> dict[str, str]:
    """What is known of a run, by label."""
    sizes = {k: v for k, v in run.facts().items() if k in (*runs.SIZES, "parameters")}
    said = {"size": ", ".join(f"{name} {value}" for name, value in sizes.items())}
    tok, figures = run.tokenizer, runs.summary(workdir) or {}
    said["tokenizer"] = f"{run.config.tokenizer.kind}: a token is one {tok.unit}"
    if run.data is None:
        said["origin"] = run.config.why
        return said
    said["corpus"] = f"{run.data['name']}, {_corpus(run.data)}"
    said["training"] = f"step {run.step:,} of {run.config.train.steps:,}"
    if run.val_nats is not None and figures:
        said["loss"] = f"{run.val_nats:.4f} nats per token of the validation text"
        per_nat = run.val_nats / figures["final_val_nats"]
        for what in ("character", "byte"):
            if bits := figures.get(f"final_val_bits_per_{what}"):
                said["loss"] += f", {bits * per_nat:.4f} bits per {what}"
    if bigram := figures.get("count_bigram_val_nats"):
        said["beside"] = f"a table of counted pairs has {bigram:.4f} nats per token there"
    if command := _command(runs.starts(workdir)):
        said["command"] = f"`{command}`"
    return said


def _corpus(data: dict[str, Any]) -> str:
    n = data.get("characters")
    size = f"{n:,} characters, " if type(n) is int else ""
    return f"{size}sha256 {data['sha256']}"


def _command(starts: list[Any]) -> str:
    """What began the run, without the paths of the machine's Python."""
    words = starts[0].get("command") if starts and isinstance(starts[0], dict) else None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return ""
    if "-m" not in words:  # from Python, or by a script of the user's
        return ""
    return shlex.join(["python", *words[words.index("-m") :]])


def _cell(fact: str) -> str:
    """A fact as a cell of a table, on one line."""
    return harmless(" ".join(str(fact).split())).replace("|", "\\|")
