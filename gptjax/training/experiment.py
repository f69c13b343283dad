"""What a config stands for, built: the corpus cut into rows, the model, the compiled functions.

In: a ``Config``. Out: an ``Experiment``, which changes nothing: trainer and commands run it.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from gptjax import models
from gptjax.checkpoints.run import Run
from gptjax.config.schema import ATTENTION_MODELS, Config, MeshConfig, ModelConfig
from gptjax.data import corpora, dataset, tokenizers
from gptjax.data.batching import Batch, get_batches
from gptjax.errors import UserError
from gptjax.evaluation import loss_eval
from gptjax.evaluation.count_models import count_bigram_nats, fit_ngram
from gptjax.evaluation.loss_eval import Evaluator
from gptjax.runtime import devices, fast_paths
from gptjax.runtime.mesh_rules import Placement, check_divisible, device_bytes, make_mesh
from gptjax.training import optimizer, scan
from gptjax.training.train_step import StepMetrics, TrainState, init_state, nats_of


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of a run that its config decides."""

    config: Config
    corpus: corpora.Corpus
    tokenizer: tokenizers.Tokenizer
    model: nn.Module
    tx: optax.GradientTransformationExtraArgs
    splits: Mapping[str, dataset.Split]
    placement: Placement
    evaluator: Evaluator

    def init_state(self) -> TrainState:
        """The state at step 0, made on its devices."""
        places = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
        # It runs once: on a CPU, optimising it would take a second more, for the same bits.
        quick = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
        state = jax.jit(self._init, out_shardings=places, compiler_options=quick)()
        if self.config.model.kind == "ngram":  # nothing to learn: the answer is counted
            counted = fit_ngram(self.model, self.splits["train"], self.config.model.add_count)
            state = state.replace(params=self.placement.put(counted))
        return state

    @functools.cached_property
    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and places of the state, without making it."""
        like = jax.eval_shape(self._init)
        places = self.placement.of_tree(like)
        return jax.tree.map(lambda leaf, place: leaf.update(sharding=place), like, places)

    @functools.cached_property
    def _init(self) -> Callable[[], TrainState]:  # traced once for its shapes and its program
        return jax.jit(functools.partial(init_state, self.model, self.tx, self.config.seed))

    def memory_needs(self) -> dict[str, int]:
        """Bytes that training takes of each device, by what they hold; nothing is computed."""
        state, train = self.abstract_state, self.config.train
        rows = max(1, train.batch_size // train.accumulate // self.placement.row_parts)
        split = self.splits["train"]
        T = split.lookback + split.window
        params, optimizer = device_bytes(state.params), device_bytes(state.opt_state)
        needs = {"parameters": params, "gradients": params, "optimizer": optimizer}
        chunk = train.chunk_steps * train.accumulate * device_bytes(abstract_batch(rows, T))
        needs[f"batches of {train.chunk_steps:,} steps"] = 2 * chunk  # while one runs, the next
        return needs | {
            f"activations of {rows:,} rows": saved_bytes(self.model, state.params, rows, T)
        }

    def require_memory(self) -> None:
        """Refuse, by a UserError, a training that would fill the memory until something dies."""
        free, needs = devices.device_memory(), self.memory_needs()
        total = sum(needs.values())
        if free and total > free:
            large = sorted(needs.items(), key=lambda item: -item[1])
            parts = ", ".join(f"{n / 1e9:.1f} for {what}" for what, n in large if n > total / 100)
            raise UserError(
                f"this training needs about {total / 1e9:.1f} GB ({parts}), and "
                f"{free / 1e9:.1f} GB of memory are free: set a smaller model.n_embd, n_layer or "
                "block_size, train.batch_size or chunk_steps, or a larger train.accumulate"
            )

    @functools.cached_property
    def train_chunk(self) -> Callable[..., tuple[TrainState, StepMetrics]]:
        """``scan.train_chunk`` of this experiment, compiled once; the state is donated."""
        limit = self.config.train.skip_nonfinite
        chunk = functools.partial(scan.train_chunk, self.model, self.tx, limit)
        places = (self.placement.of_tree(self.abstract_state), self.placement.whole)
        return self.placement.on_mesh(jax.jit(chunk, donate_argnums=0, out_shardings=places))

    def compile_ahead(self) -> Callable[..., tuple[TrainState, StepMetrics]]:
        """Compile ``train_chunk`` before there is a state, in a thread beside other work."""
        inputs = self.chunk_inputs(0, 1)
        return self.train_chunk.lower(self.abstract_state, *inputs, 1, self.dropout_key).compile()

    def chunk_inputs(self, first_step: int, n: int) -> tuple[Batch, jax.Array]:
        """Batches (K, A, B / A, T) and learning rates (K,) of n steps, on their devices.

        Whatever n, K is ``train.chunk_steps``: what stands after the first n is not to be run. Of
        several processes each gathers its own rows.
        """
        train, steps = self.config.train, range(first_step, first_step + n)
        A, part = train.accumulate, train.batch_size // train.accumulate
        own = self.placement.own_rows(part)
        rows = (part * np.arange(A)[:, None] + own).reshape(-1)
        split, seed = self.splits["train"], self.config.seed
        drawn = get_batches(split, train.batch_size, seed, steps, rows=rows)
        shape = (train.chunk_steps, A, len(own), drawn.x.shape[-1])
        batches = Batch(*(np.resize(array, shape) for array in drawn))
        rates = self._rates(first_step + np.arange(train.chunk_steps))
        return self.placement.put_batch(batches, part), rates

    @functools.cached_property
    def _rates(self) -> Callable[[np.ndarray], jax.Array]:
        # One by one: in a vector, a step's rate could depend on its place in the chunk.
        schedule = optimizer.schedule(self.config.optim, self.config.train.steps)
        return jax.jit(functools.partial(jax.lax.map, schedule))

    @functools.cached_property
    def bigram_nats(self) -> dict[str, float]:
        """The baseline: the count bigram's loss on each split, nats per token."""
        return count_bigram_nats(self.splits, self.tokenizer.vocab_size)

    @property
    def dropout_key(self) -> jax.Array:
        """The run's; a step folds its number in."""
        return jax.random.fold_in(jax.random.key(self.config.seed), 1)

    @property
    def tokens_per_step(self) -> float:
        """Predictions of a training step; for items their mean."""
        split, batch_size = self.splits["train"], self.config.train.batch_size
        return batch_size * (split.window if split.anywhere else split.n_predicted / split.n_rows)


def build(
    config: Config,
    tok: tokenizers.Tokenizer | None = None,
    text: corpora.Corpus | None = None,
    say: corpora.Say = corpora.to_stderr,
    told: corpora.Told = None,
) -> Experiment:
    """Read the corpus and build everything that does not change while training.

    ``tok`` is a trained run's tokenizer, ``text`` the corpus where it has been read already, and
    ``say`` is told of a download, ``told`` of how far learning byte pairs and encoding are.

    Raises:
      UserError: the corpus cannot be had, or the settings do not fit it or the devices.
    """
    _require_mask(config.model)
    text = text or corpora.load(config.data, config.seed, say)
    tok = text.tokenizer(config.tokenizer, tok, told)
    how = fast_paths.resolve(config.model)
    model = models.build(how, tok.vocab_size, tok.start_id)
    window, neighbours = config.window(text.is_items), config.train.neighbours
    texts = text.splits if neighbours else text.encoded(tok, say, told)
    splits = dataset.build(texts, tok, model, text.is_items, window, neighbours)
    dataset.check_lengths(splits)
    return dataclasses.replace(assemble(config, model), corpus=text, tokenizer=tok, splits=splits)


def assemble(
    config: Config, model: nn.Module, devices: list[Any] | None = None, platform: str = ""
) -> Experiment:
    """What needs no text, on devices (all of them by default), for programs of a ``platform``.

    UserError: rows or parameters cannot be dealt out to them.
    """
    placement = Placement(make_mesh(config.mesh, devices), config.mesh.uneven)
    train, tx = config.train, optimizer.build(config.optim)
    check_divisible(train.batch_size, train.accumulate, placement.row_parts)
    on_cpu = (platform or placement.mesh.devices.flat[0].platform) == "cpu"
    evaluator = Evaluator(
        model,
        train.batch_size,
        train.eval_iters,
        placement,
        loss_eval.CALL_FLOPS if on_cpu else loss_eval.ACCELERATOR_CALL_FLOPS,
    )
    return Experiment(config, None, None, model, tx, {}, placement, evaluator)


def _require_mask(config: ModelConfig) -> None:
    """Refuse a block whose causal masks alone, block_size² bytes each, would fill the memory."""
    if config.kind not in ATTENTION_MODELS:
        return
    masks, free = (1 + config.n_layer) * config.block_size**2, devices.free_memory()
    if free and masks > free:
        raise UserError(
            f"model.block_size={config.block_size} needs causal masks of {masks / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB of memory are free: set a smaller model.block_size"
        )


def abstract_batch(rows: int, T: int) -> Batch:
    """The shapes of a batch (rows, T)."""
    x, w = (jax.ShapeDtypeStruct((rows, T), kind) for kind in (jnp.int32, jnp.float32))
    return Batch(x, x, w)


def saved_bytes(model: nn.Module, params: Any, rows: int, T: int) -> int:
    """What the forward pass of so many rows keeps for the backward pass, parameters left out."""

    def saved(params, batch, key):
        return jax.vjp(lambda params: nats_of(model, params, batch, key)[0], params)[1]

    # Whole ones, wherever they lie: what is saved has no place yet.
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    key = jax.eval_shape(lambda: jax.random.key(0))
    kept = jax.eval_shape(saved, params, abstract_batch(rows, T), key)
    return max(0, device_bytes(kept) - device_bytes(params))


def of_run(run: Run, workdir: Path) -> Experiment:
    """The experiment that a run was trained in, to measure it again; see ``Run.read_corpus``.

    Its rows are dealt out over the devices that are here, however many it was trained on.
    """
    config = dataclasses.replace(run.config, mesh=MeshConfig())
    return build(config, run.tokenizer, run.read_corpus(workdir))
