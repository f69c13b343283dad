"""Runs with random parameters, of every kind of model and of tokens: nothing is trained."""

import numpy as np

from gptjax import models
from gptjax.checkpoints import store
from gptjax.checkpoints.run import Run, open_run
from gptjax.config.schema import (
    CheckpointConfig,
    Config,
    DataConfig,
    ModelConfig,
    TokenizerConfig,
    TrainConfig,
    to_dict,
)
from gptjax.data import corpora, tokenizers

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


def save_random_runs(random_params, folder, corpus, config, steps) -> Run:
    """Write ``folder`` as the run of a ``config`` that learnt the text in a file, ``corpus``.

    It has a checkpoint of each of ``steps``, of which the last is the best, and is returned.
    """
    text = corpora.load(config.data, config.seed)
    tok = tokenizers.build(config.tokenizer, corpus.read_text(encoding="utf-8"))
    model = models.build(config.model, tok.vocab_size, tok.start_id)
    meta = {"config": to_dict(config), "tokenizer": tok.to_json(), "data": text.facts()}
    with store.Checkpoints(folder, CheckpointConfig(keep_last=len(steps))) as checkpoints:
        for step in steps:
            params = random_params(model, np.zeros((1, 1), np.int32), std=0.5, seed=step)
            checkpoints.save(step, {"params": params, "rest": {}}, meta, best=step == steps[-1])
    return open_run(folder)
