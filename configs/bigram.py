"""The bigram table of the notes (page 4): row i holds the logits of what follows token i.

    python -m gptjax.train --config=configs/bigram.py

84 x 84 = 7,056 parameters, seconds on any CPU. The counted bigram shows the loss that this model
can reach; the table learns the same numbers by gradient.
"""

from gptjax import config as gptjax_config


def get_config():
    """Every field of the run: the notes' rows of 8, with a rate that falls to 0."""
    config = gptjax_config.base()
    config.name = "bigram"
    config.data.name = "shakespeare"
    config.model.update(kind="bigram", block_size=8)
    config.train.update(steps=10_000, batch_size=128, eval_every=2_000, eval_iters=200)
    # The decay keeps pairs that never occur from sinking without end, as the count's add-one does.
    config.optim.update(learning_rate=1e-2, final_fraction=0.0, weight_decay=0.05)
    config.expected.update(shakespeare=(2.53, 2.56), tinyshakespeare=(2.47, 2.50))
    return config
