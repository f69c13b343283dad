"""The console's command ``gptjax``: ``gptjax train ...`` is ``python -m gptjax.train ...``.

In: a command's name and its arguments. Out: that command run. Neither it nor the libraries are
imported before it is known.
"""

import runpy
import sys

import gptjax
from gptjax.errors import did_you_mean

COMMANDS = {
    "train": "train a model on a text, or go on with a run",
    "prepare": "turn a text larger than memory into files of its tokens",
    "sample": "continue prompts with a trained model",
    "evaluate": "the exact loss of a run over a split, or over any text",
    "compare": "several runs in one table and one picture; --ladder trains them",
    "convert": "a GPT-2 of Hugging Face's form, in and out",
    "look": "ask a trained model what it knows",
    "report": "one page that shows what a model does, as a file",
    "serve": "a page to play with models, and OpenAI's /v1/completions",
    "aot": "whether a run fits devices that are not here, and how fast it can be there",
    "bench": "measure training, writing and starting, beside PyTorch",
}
PAGE = f"""usage: gptjax COMMAND [--flag=value ...]

From a bigram table to a GPT, in pure JAX and Flax functions.

{chr(10).join(f"  {name:<10}{what}" for name, what in COMMANDS.items())}

  gptjax train --config=gpt            # the size that this machine can train, into runs/
  gptjax sample --workdir=runs/gpt-small --prompt="ROMEO:"
  gptjax train --help                  # every flag and every field of a config

gptjax --version says which version this is."""


def main() -> None:
    """Run the command that the first argument names."""
    name = sys.argv[1] if sys.argv[1:] else "--help"
    if name in ("--help", "-h", "help"):
        print(PAGE)
    elif name == "--version":
        print(f"gptjax {gptjax.__version__}")
    elif name in COMMANDS:
        from gptjax.cli import main as cli

        cli.called_as = f"gptjax {name}"
        del sys.argv[0]
        runpy.run_module(f"gptjax.{name}", run_name="__main__", alter_sys=True)
    else:
        near = did_you_mean(name, COMMANDS)
        line = f"unknown command {name!r:.80}{near}: choose {', '.join(COMMANDS)}; see --help"
        print(f"gptjax: {line}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
