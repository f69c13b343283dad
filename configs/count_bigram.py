"""The bigram (or n-gram) by counting: the answer that the trained table approaches.

    python -m gptjax.train --config=configs/count_bigram.py
    python -m gptjax.train --config=configs/count_bigram.py --config.model.block_size=2   # trigram

No gradient and no step: the table is log((n[i, j] + k) / (n[i] + k V)), k = model.add_count. The
rest is as for every model: checkpoint, exact loss, sample. Seconds on any CPU.
On tinyshakespeare, val in nats per character: 2.4819 with one character of context, 2.0684 with
two, 1.9526 with three (1.7840 with model.add_count=0.1).
"""

from gptjax import config as gptjax_config


def get_config():
    """Every field of the run; ``model.block_size`` tokens of context, so block_size 1 is a pair."""
    config = gptjax_config.base()
    config.name = "count-bigram"
    config.data.name = "shakespeare"
    config.model.update(kind="ngram", block_size=1, add_count=1.0)
    config.train.update(steps=0, window=64, batch_size=128)
    config.optim.name = "sgd"  # no optimizer memory in the checkpoint: nothing is learnt
    return config
