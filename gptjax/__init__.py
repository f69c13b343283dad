"""gptjax: the road from a bigram table to a GPT, in pure JAX and Flax functions.

import gptjax
run = gptjax.load("runs/gpt-small")
print(gptjax.generate(run, "ROMEO:", max_new_tokens=200)[0].text)
"""

from pathlib import Path
from typing import Any


def load(workdir: str | Path, checkpoint: str | int = "best") -> Any:
    """The ``checkpoints.run.Run`` in a folder: its "best" checkpoint, "last" or that of a step."""
    from gptjax.checkpoints.run import open_run  # here, so that importing gptjax stays quick

    return open_run(Path(workdir), checkpoint)


def generate(run: Any, prompt: Any = "", **settings: Any) -> list:
    """``run.generate``: a ``generation.stopping.Sample`` per continuation of one prompt or several.

    ``settings``: num_samples, seed, max_new_tokens, temperature, top_k, top_p, min_p,
    repetition_penalty, stop, window, on_text.
    """
    return run.generate(prompt, **settings)
