"""gptjax: the road from a bigram table to a GPT, in pure JAX and Flax functions.

import gptjax
run = gptjax.load("runs/gpt-small")
print(gptjax.generate(run, "ROMEO:", max_new_tokens=200)[0].text)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load(workdir: str | Path, checkpoint: str | int = "best") -> Any:
    """Open a trained run: ``runs.open_run``, imported only now so that ``--help`` stays quick.

    Args:
      workdir: the folder of the run.
      checkpoint: "best", "last" or a step.

    Returns:
      A ``runs.Run``.
    """
    from gptjax.checkpoints import run as runs

    return runs.open_run(Path(workdir), checkpoint)


def generate(run: Any, prompt: Any = "", **settings: Any) -> list:
    """Continue a prompt, or several: ``run.generate``.

    Args:
      run: of ``load``.
      prompt: a str, or several.
      **settings: num_samples, seed, max_new_tokens, temperature, top_k, top_p, min_p,
        repetition_penalty, stop, window, on_text.

    Returns:
      A ``continuation.Sample`` per continuation.
    """
    return run.generate(prompt, **settings)
