"""gptjax: the road from a bigram table to a GPT, in pure JAX and Flax functions.

import gptjax
run = gptjax.train("gpt:small", steps=1000)  # or, of a trained run, gptjax.load("runs/gpt-small")
print(gptjax.generate(run, "ROMEO:", max_new_tokens=200)[0].text)
gptjax.show(run, "To be, or not to be")  # in a notebook: what the model does with it
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Never

from gptjax.errors import UserError

if TYPE_CHECKING:  # JAX is imported when it is needed, so that importing gptjax is quick
    from gptjax.checkpoints.run import Run
    from gptjax.config import ConfigDict
    from gptjax.config.schema import Config
    from gptjax.generation.stopping import Sample
    from gptjax.web.page import Shown

__version__ = "0.1.0"
__all__ = ["UserError", "__version__", "generate", "load", "show", "train"]


def train(
    config: str | Path | ConfigDict | Config,
    workdir: str | Path | None = None,
    **overrides: Any,
) -> Run:
    """Train as ``python -m gptjax.train`` does, printing the same; return the best checkpoint.

    Where the folder holds this run already, it goes on. Ctrl-C (a notebook's stop button) ends the
    steps in flight, saves, and raises KeyboardInterrupt; the same call goes on from there. SIGTERM
    and SIGHUP do the same and raise SystemExit(75). A second Ctrl-C, more than a second later, ends
    the process: nothing that was saved is lost.

    Args:
      config: what ``--config`` takes: a name ("gpt", "gpt:small", "bigram") or a file's path; or a
        ``ConfigDict`` (``gptjax.config.base()`` has every field), or the ``config`` of a ``Run``.
      workdir: the folder of the run, or gs://, s3://; runs/<name> when it is not set.
      overrides: fields of the config by last name, ``steps=100, n_layer=2``; those whose last name
        is another's too by path, ``**{"model.kind": "bigram"}``. ``init_from="runs/x"`` begins with
        the parameters, tokenizer and sizes of that run.

    Raises:
      UserError: no such config or field, or whatever else the command would refuse in one line.
    """
    from gptjax.train import train_from_python

    return train_from_python(config, workdir, overrides)


def load(workdir: str | Path, checkpoint: str | int = "best") -> Run:
    """Open the run in a folder: its "best" checkpoint (lowest val loss), "last" or that of a step.

    UserError where there is none, or only a damaged one.
    """
    from gptjax.checkpoints import mirror
    from gptjax.checkpoints.run import open_run

    folder = mirror.reading(os.path.expanduser(workdir), checkpoint, ("params",))
    return open_run(folder, checkpoint)


def generate(
    run: Run,
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
    on_text: Callable[[int, str], None] | None = None,
    **unknown: Never,
) -> list[Sample]:
    """Continue each prompt ``num_samples`` times: text, ids, log_probs, and why it stopped.

    Args:
      run: what ``load`` or ``train`` returned.
      prompt: a text or several; an empty one begins as the corpus does.
      max_new_tokens: the most to add, tokens.
      temperature: the logits are divided by it; 0 takes the likeliest token.
      top_k: draw from the k likeliest tokens.
      top_p: draw from the fewest tokens that reach this probability.
      min_p: drop tokens less than this times the likeliest one.
      repetition_penalty: above 1, what stands there comes less often.
      stop: end a text before this string, or the first of several.
      window: past block_size tokens "exact" computes all anew for each token, as the notes do;
        "refill" re-reads the last half of the context when it is full, which is quicker.
      num_samples: of each prompt.
      seed: the same seed writes the same texts.
      on_text: called with (row, new text) as the text is made, a few tokens at a time; row is a
        place in the list that is returned, and the new texts of a row together are its ``text``.

    Raises:
      UserError: an unknown setting, one out of its range, or a character outside the vocabulary.
    """
    return run.generate(
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop=stop,
        window=window,
        num_samples=num_samples,
        seed=seed,
        on_text=on_text,
        **unknown,
    )


def show(run: Run, text: str = "") -> Shown:
    """The page that ``python -m gptjax.report`` writes, in the notebook: what a model does.

    It shows the checkpoint that ``run`` is; ``report`` those of the whole training. Elsewhere than
    in a notebook, ``show(run).save("page.html")`` writes it for a browser.

    Args:
      run: what ``load`` or ``train`` returned.
      text: whose tokens are looked at; the beginning of val when empty.

    Raises:
      UserError: a character outside the vocabulary.
    """
    from gptjax.web import context, page, payload

    data = payload.page_data(run, context.of_run(run, text=text))
    return page.Shown(run.config.name, page.html_page(data, run.config.name))


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """Whoever imports the command's module, gptjax.train, leaves the function its name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name == "train" and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
