"""What a config stands for, built: the corpus cut into rows, the model, the compiled functions.

In: a ``Config`` (and the tokenizer, when a checkpoint brings one). Out: an ``Experiment``, which
changes nothing and remembers nothing; the verbs run it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn

from gptjax import models
from gptjax.checkpoints.run import Run
from gptjax.config.parse import Config
from gptjax.data import batching as batches
from gptjax.data import splits as corpus
from gptjax.data import tokenizers as tokenizer
from gptjax.data.batching import Batch, Rows
from gptjax.errors import UserError
from gptjax.evaluation import count_models as counts
from gptjax.models import ngram
from gptjax.runtime import sharding
from gptjax.training import optimizer
from gptjax.training import scan as steps
from gptjax.training.scan import TrainState


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of a run that its config decides."""

    config: Config
    corpus: corpus.Corpus
    tokenizer: tokenizer.Tokenizer
    model: nn.Module
    tx: optax.GradientTransformation
    rows: Mapping[str, Rows]
    characters: Mapping[str, int]
    mesh: jax.sharding.Mesh
    train_chunk: Callable[..., tuple[TrainState, steps.StepMetrics]]
    eval_chunk: Callable[[Any, Batch], tuple[jax.Array, jax.Array]]

    def init_state(self) -> TrainState:
        """The state at step 0, on every device."""
        state = steps.init_state(self.model, self.tx, self.config.seed)
        if self.config.model.kind == "ngram":  # nothing to learn: the answer is counted
            state = state.replace(params=self.counted_params())
        return jax.device_put(state, sharding.replicated(self.mesh))

    def counted_params(self) -> dict[str, dict[str, np.ndarray]]:
        """The table of an n-gram (and of a bigram, its closed form), from the training split."""
        rows, block = self.rows["train"], self.model.block_size
        (batch,) = batches.whole_split(rows, len(rows.first), 1)
        V, start_id = self.tokenizer.vocab_size, self.tokenizer.start_id
        contexts = ngram.contexts(batch.x[0], V, block, start_id)
        counts_here, add = batch.w[0] > 0, self.config.model.add_count
        table = counts.count_ngram(
            np.asarray(contexts)[counts_here], batch.y[0][counts_here], V, V**block, add
        )
        return {"token_embedding_table": {"embedding": table}}

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and places of the state, without making it."""
        init = functools.partial(steps.init_state, self.model, self.tx, self.config.seed)
        place = functools.partial(jax.ShapeDtypeStruct, sharding=sharding.replicated(self.mesh))
        return jax.tree.map(lambda leaf: place(leaf.shape, leaf.dtype), jax.eval_shape(init))

    def train_batches(self, first_step: int, n: int, n_padded: int) -> Batch:
        """The batches of n steps, filled up with empty ones: (n_padded, A, B / A, T), placed."""
        train = self.config.train
        drawn = batches.get_batches(
            self.rows["train"], self.config.seed, "train", first_step, n, train.batch_size
        )

        def fold(array):
            parts = array.reshape(n, train.accumulate, -1, array.shape[-1])
            return np.concatenate([parts, np.zeros((n_padded - n, *parts.shape[1:]), parts.dtype)])

        return self.place(Batch(*map(fold, drawn)))

    def place(self, batch: Batch) -> Batch:
        """Put a batch on the devices, its rows split over them."""
        return jax.device_put(batch, sharding.split_batch(self.mesh, batch.x.ndim))

    @property
    def dropout_key(self) -> jax.Array:
        """The run's; a step folds its number in."""
        return jax.random.fold_in(jax.random.key(self.config.seed), 1)

    @property
    def tokens_per_step(self) -> float:
        """Predictions of a training step; for items their mean."""
        rows = self.rows["train"]
        per_row = rows.window if rows.anywhere else float(rows.count.mean())
        return self.config.train.batch_size * per_row


def build(
    config: Config, tok: tokenizer.Tokenizer | None = None, text: corpus.Corpus | None = None
) -> Experiment:
    """Read the corpus and build everything that does not change while training.

    Args:
      config: the settings.
      tok: a trained run's tokenizer; None makes one of the corpus.
      text: the corpus, where it has been read already.

    Returns:
      The experiment.

    Raises:
      UserError: the corpus cannot be had, or the settings do not fit it or the devices.
    """
    text = text or corpus.load(config.data, config.seed)
    tok = tok or tokenizer.build(config.tokenizer, text.text)
    model = models.build(config.model, tok.vocab_size, tok.start_id)
    rows, characters = cut(config, text, tok, model)
    mesh = sharding.make_mesh()
    sharding.check_divisible(config.train.batch_size, config.train.accumulate, mesh)
    tx = optimizer.build(config.optim, config.train.steps)
    compiled = steps.jitted(model, tx, config.train.skip_nonfinite, sharding.replicated(mesh))
    return Experiment(config, text, tok, model, tx, rows, characters, mesh, *compiled)


def of_run(run: Run, workdir: Path) -> Experiment:
    """The experiment that a run was trained in, to measure it again; see ``Run.read_corpus``."""
    return build(run.config, run.tokenizer, run.read_corpus(workdir))


def cut(
    config: Config, text: corpus.Corpus, tok: tokenizer.Tokenizer, model: nn.Module
) -> tuple[dict[str, Rows], dict[str, int]]:
    """Encode every split and cut it into rows.

    Returns:
      The rows of each split, and the characters that its predictions stand for.

    Raises:
      UserError: a split is too short for one row.
    """
    items = text.kind == "items"
    # An item begins behind the end of the one before it; the first gets such an end in front.
    splits = {
        name: tok.encode("\n" + part if items else part) for name, part in text.splits.items()
    }
    characters = {
        name: len(part) - (0 if items else len(tok.decode(splits[name][:1])))
        for name, part in text.splits.items()
    }
    window = config.window(items)
    end_id = tok.start_id if items else None
    if config.train.neighbours:
        return _pairs(config, splits, tok, end_id), characters
    if not items:
        for name, tokens in sorted(splits.items(), key=lambda split: len(split[1])):
            corpus.check_length(name, len(tokens), window + model.lookback)
    sizes = (model.block_size, model.lookback, window)
    return batches.make_rows(splits, end_id, *sizes, model.slides), characters


def _pairs(config, splits, tok, end_id):
    """Every word with its neighbours; white space, marks and unknown words are passed over."""
    is_word = np.array([tok.token_text(i)[0].isalnum() for i in range(tok.vocab_size)])
    rows = {}
    for name, tokens in splits.items():
        words = tokens[is_word[tokens] | (tokens == end_id)]
        rows[name] = batches.pair_rows(words, config.train.neighbours, end_id)
        if not rows[name].n_predicted:
            raise UserError(
                f"the {name} split has no two words within train.neighbours="
                f"{config.train.neighbours}: give more text, or raise train.neighbours"
            )
    return rows
