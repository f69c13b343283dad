"""The ladder of the notes: each rung adds one idea to the one before.

    python -m gptjax.compare --ladder                          # train all and compare them
    python -m gptjax.train --config=configs/ladder.py:head     # train one of them

rung        adds                                         val loss on tinyshakespeare
bigram      a table of pairs (page 4)                    2.45-2.55
embed       token + position embedding (page 5)          2.45-2.55
head        one Head of self-attention (page 9)          2.35-2.55
multihead   four heads side by side (page 9)             2.22-2.36
ffwd        a FeedForward after them (page 10)          2.16-2.32
blocks      Blocks: residual paths and LayerNorm         1.98-2.13
gpt         size and dropout: the notes' small GPT       1.70-1.88

The settings are the lecture's: n_embd 32, block 8, batch 32, 5000 steps of AdamW at a constant
1e-3 (the table alone takes 1e-2); the last rung is 64 wide, 4 blocks, block 32, batch 16.
"""

from gptjax import config as gptjax_config
from gptjax.errors import UserError

BANDS = {
    "bigram": (2.45, 2.55),
    "embed": (2.45, 2.55),
    "head": (2.35, 2.55),
    "multihead": (2.22, 2.36),
    "ffwd": (2.16, 2.32),
    "blocks": (1.98, 2.13),
    "gpt": (1.7, 1.88),
}
RUNGS = tuple(BANDS)


def get_config(rung="gpt"):
    """Every field of a rung's run."""
    if rung not in RUNGS:
        raise UserError(f"ladder has no rung {rung!r}: choose {', '.join(RUNGS)}")
    config = gptjax_config.base()
    config.name = f"ladder-{rung}"
    config.data.name = "tinyshakespeare"
    kind = {"embed": "bigram_embed", "blocks": "gpt"}.get(rung, rung)
    config.model.update(kind=kind, block_size=8, n_embd=32, n_head=4, n_layer=3)
    config.train.update(steps=5000, batch_size=32, eval_every=500, eval_iters=100)
    # PyTorch's AdamW as the lecture calls it.
    config.optim.update(learning_rate=1e-3, schedule="constant", beta2=0.999, clip_norm=0.0)
    if rung == "bigram":
        config.optim.learning_rate = 1e-2
    if rung == "gpt":
        config.model.update(n_embd=64, n_layer=4, block_size=32, dropout=0.05)
        config.train.update(batch_size=16, eval_iters=50)
    config.sample.update(max_new_tokens=100, temperature=1.0)
    config.expected = {"tinyshakespeare": BANDS[rung]}
    return config
