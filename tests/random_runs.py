"""Runs with random parameters, of every kind of model and of tokens: nothing is trained."""

import numpy as np

from gptjax import models
from gptjax.checkpoints.run import Run
from gptjax.config.schema import Config, DataConfig, ModelConfig, TokenizerConfig, TrainConfig
from gptjax.data import tokenizers

TEXT = "so it is. it is so.\nis it? it was so, as it was said.\n"
NAMES = "abi\nbia\ncarlotta\n"


def random_run(random_params, kind, text=TEXT, tokens="char", neighbours=0, step=0, **sizes):
    """A run as if it had learnt ``text``; ``random_params`` is the fixture, ``step`` its seed."""
    known = {"block_size": 7, "n_layer": 3, "n_head": 2, "n_embd": 10, "n_hidden": 9}
    config = Config(
        data=DataConfig(kind="items" if text == NAMES else "stream"),
        tokenizer=TokenizerConfig(tokens),
        model=ModelConfig(kind, **known | sizes),
        train=TrainConfig(neighbours=neighbours),
    )
    tok = tokenizers.build(config.tokenizer, text)
    model = models.build(config.model, tok.vocab_size, tok.start_id)
    params = random_params(model, np.zeros((1, 1), np.int32), std=0.7, seed=step)
    return Run(config, tok, model, params, step)
