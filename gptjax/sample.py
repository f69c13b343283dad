"""Continue a prompt with a trained model.

    python -m gptjax.sample --workdir=runs/gpt-small --prompt="ROMEO:" --max_new_tokens=300

In: a work folder and a prompt. Out: text on stdout. Items (names) come one a line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gptjax import cli, generate, runs
from gptjax.errors import UserError
from gptjax.experiment import Experiment
from gptjax.tokenizer import Tokenizer

ITEMS_SHOWN = 10


def continue_text(
    model: nn.Module,
    params: Any,
    tok: Tokenizer,
    prompt: str,
    n_rows: int,
    max_new_tokens: int,
    temperature: float,
    key: jax.Array,
    items: bool,
) -> list[str]:
    """Continue one prompt several times.

    Args:
      model, params, tok: a trained model.
      prompt: what to continue; empty begins as the corpus does, behind a line's end.
      n_rows: how many continuations.
      max_new_tokens: length of each, tokens.
      temperature: 0 takes the likeliest token.
      key: PRNG key.
      items: whether a row ends where its item ends.

    Returns:
      Prompt and continuation of each row.
    """
    # An item begins behind the end of another; so does a text without a prompt.
    began = items or not prompt
    ids = np.concatenate([[tok.start_id] if began else [], tok.encode(prompt)]).astype(np.int32)
    # Sizes in powers of two: prompts and lengths of about one size share one compiled program.
    size = 1 << max(len(ids) + max_new_tokens - 1, 15).bit_length()
    buffer = np.zeros((n_rows, size), np.int32)
    buffer[:, : len(ids)] = ids
    out = generate.generate(
        model,
        params,
        jnp.asarray(buffer),
        jnp.int32(len(ids)),
        jnp.int32(max_new_tokens),
        key,
        jnp.float32(temperature),
    )
    texts = []
    for row in np.asarray(out)[:, int(began) : len(ids) + max_new_tokens]:
        if items and (row == tok.start_id).any():
            row = row[: int(np.argmax(row == tok.start_id))]
        texts.append(tok.decode(row))
    return texts


def preview(exp: Experiment, params: Any, step: int) -> str:
    """The sample a run shows at step ``step``: a text, or a few items, one a line."""
    sample, items = exp.config.sample, exp.corpus.kind == "items"
    if not sample.max_new_tokens:
        return ""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(exp.config.seed), 2), step)
    texts = continue_text(
        exp.model,
        params,
        exp.tokenizer,
        sample.prompt,
        ITEMS_SHOWN if items else 1,
        sample.max_new_tokens,
        sample.temperature,
        key,
        items,
    )
    return "\n".join(texts)


def main(args: Any) -> int:
    """Print continuations of a prompt."""
    if args.max_new_tokens < 1:
        raise UserError(f"--max_new_tokens={args.max_new_tokens} must be at least 1")
    if not args.temperature >= 0:
        raise UserError(f"--temperature={args.temperature} must be 0 (likeliest) or more")
    run = runs.open_run(Path(args.workdir), runs.which(args.checkpoint))
    items = run.meta["data"]["kind"] == "items"
    key = jax.random.key(args.seed)
    texts = continue_text(
        run.model,
        run.params,
        run.tokenizer,
        args.prompt,
        ITEMS_SHOWN if items else 1,
        args.max_new_tokens,
        args.temperature,
        key,
        items,
    )
    print("\n".join(texts))
    return 0


if __name__ == "__main__":
    cli.run(
        main,
        about=__doc__,
        config=False,
        flags=[
            cli.Flag("workdir", "", "folder of the run"),
            cli.Flag("prompt", "", "the text to continue"),
            cli.Flag("max_new_tokens", 500, "how much to add, tokens"),
            cli.Flag("temperature", 0.8, "above 1 wilder, below 1 tamer, 0 the likeliest token"),
            cli.Flag("seed", 0, "another seed, another text"),
            cli.Flag("checkpoint", "best", "best, last or a step"),
        ],
    )
