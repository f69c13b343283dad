"""The bigram of page 5: token + position embedding, then ``lm_head``.

    python -m gptjax.train --config=configs/bigram_embed.py

It still sees one token at a time, so it cannot beat the counted bigram; what it brings are the
two tables and the head that every later model is built around.
"""

from gptjax import config as gptjax_config


def get_config():
    """Every field of the run: n_embd 32 and block 8, as in the lecture."""
    config = gptjax_config.base()
    config.name = "bigram-embed"
    config.data.name = "shakespeare"
    config.model.update(kind="bigram_embed", block_size=8, n_embd=32)
    config.train.update(steps=10_000, batch_size=64, eval_every=2_000, eval_iters=200)
    config.optim.update(learning_rate=1e-2, final_fraction=0.0, weight_decay=0.01)
    config.expected.update(shakespeare=(2.53, 2.56), tinyshakespeare=(2.47, 2.50))
    return config
