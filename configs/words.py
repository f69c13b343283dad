"""A GPT that reads and writes words instead of characters.

    python -m gptjax.train --config=configs/words.py
    python -m gptjax.sample --workdir=runs/words --prompt="My lord"

A token is a word, a mark or one character of white space; rarer words than min_count are one
unknown token. Nats per token are larger than per character, for a token says more: `evaluate`
shows both, but an unknown word costs its letters nothing, so compare with other word models only.
A minute or two on two CPU cores: val 2.98 nats per token, where counting pairs gives 4.74.
"""

from gptjax import config as gptjax_config


def get_config():
    """Every field of the run."""
    config = gptjax_config.base()
    config.name = "words"
    config.data.name = "tinyshakespeare"
    config.tokenizer.update(kind="word", min_count=3)
    config.model.update(kind="gpt", block_size=32, n_layer=2, n_head=4, n_embd=64, dropout=0.1)
    config.train.update(steps=3000, batch_size=16, eval_every=500, eval_iters=50)
    config.optim.update(learning_rate=2e-3, warmup_steps=100, weight_decay=0.1)
    config.expected.tinyshakespeare = (2.88, 3.1)
    return config
