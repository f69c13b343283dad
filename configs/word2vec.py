"""Skip-gram: vectors of words, learnt by guessing their neighbours.

    python -m gptjax.train --config=configs/word2vec.py --workdir=runs/word2vec
    python -m gptjax.look --workdir=runs/word2vec near king
    python -m gptjax.look --workdir=runs/word2vec analogy he his she

No new model: it is the embedded bigram of page 5, trained on (word, neighbour) pairs instead of
(token, next token). White space, marks and words seen fewer than min_count times are passed over.
Two minutes on a CPU. The loss has no meaning of its own: neighbours can hardly be guessed.
"""

from gptjax import config as gptjax_config


def get_config():
    """Every field of the run; ``train.neighbours`` is how far a neighbour may stand."""
    config = gptjax_config.base()
    config.name = "word2vec"
    config.data.name = "shakespeare"
    config.tokenizer.update(kind="word", min_count=20)
    config.model.update(kind="bigram_embed", block_size=1, n_embd=64)
    config.train.update(neighbours=3, steps=5000, batch_size=512, eval_every=0, eval_iters=20)
    config.optim.update(learning_rate=5e-3, warmup_steps=100, final_fraction=0.0, weight_decay=0.1)
    config.sample.max_new_tokens = 0
    return config
