"""What a config stands for, built: the corpus cut into rows, the model, the compiled functions.

In: a ``Config``. Out: an ``Experiment``, which changes nothing: trainer and commands run it.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from gptjax import models
from gptjax.checkpoints import start as beginnings
from gptjax.checkpoints.run import Run
from gptjax.checkpoints.start import Start
from gptjax.config.schema import ATTENTION_MODELS, Config, MeshConfig, ModelConfig
from gptjax.data import corpora, dataset, tokenizers
from gptjax.data.batching import Batch, get_batches
from gptjax.errors import UserError
from gptjax.evaluation import loss_eval
from gptjax.evaluation.count_models import count_bigram_nats, fit_ngram
from gptjax.evaluation.loss_eval import Evaluator
from gptjax.runtime import devices, fast_paths
from gptjax.runtime.mesh_rules import Placement, check_divisible, device_bytes, make_mesh
from gptjax.runtime.pace import Told
from gptjax.training import optimizer, scan
from gptjax.training.train_step import StepMetrics, TrainState, init_state, nats_of
from gptjax.training.tuning import ALL, Tuning


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
    start: Start | None = None  # the run whose parameters it begins with

    def init_state(self) -> TrainState:
        """The state at step 0, made on its devices.

        UserError: the run to begin with is not there any more, or is another one now.
        """
        places = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
        # It runs once: on a CPU, optimising it would take a second more, for the same bits.
        quick = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
        init = functools.partial(jax.jit, out_shardings=places, compiler_options=quick)
        if self.start:
            params = self.placement.put(self.start.params(self.config.model.block_size))
            return init(lambda params: self._init(params=params))(params)
        state = init(self._init)()
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
        init = functools.partial(init_state, self.model, self.tx, self.config.seed, self.tuning)
        return jax.jit(init)

    @functools.cached_property
    def tuning(self) -> Tuning:
        """Which of the parameters learn."""
        return Tuning(self.config.train.trainable, self.config.model)

    def merged(self, params: Any) -> Any:
        """A state's parameters as the model takes them: LoRA's products added in."""
        return self._merge(params) if self.config.model.lora_rank else params

    @functools.cached_property
    def abstract_params(self) -> Any:
        """Shapes, dtypes and places of what the model takes."""
        like = jax.eval_shape(self.tuning.merge, self.abstract_state.params)
        places = self.placement.of_tree(like)
        return jax.tree.map(lambda leaf, place: leaf.update(sharding=place), like, places)

    @functools.cached_property
    def _merge(self) -> Callable[[Any], Any]:
        places = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_params)
        return jax.jit(self.tuning.merge, out_shardings=places)

    def memory_needs(self) -> dict[str, int]:
        """Bytes that training takes of each device, by what they hold; nothing is computed."""
        state, train = self.abstract_state, self.config.train
        rows = max(1, train.batch_size // train.accumulate // self.placement.row_parts)
        split = self.splits["train"]
        shape = (rows, split.window, split.lookback)
        params, optimizer = device_bytes(state.params), device_bytes(state.opt_state)
        gradients = device_bytes(self.tuning.split(state.params)[0])
        needs = {"parameters": params, "gradients": gradients, "optimizer": optimizer}
        chunk = train.chunk_steps * train.accumulate * device_bytes(abstract_batch(*shape))
        needs[f"batches of {train.chunk_steps:,} steps"] = 2 * chunk  # while one runs, the next
        return needs | {
            f"activations of {rows:,} rows": saved_bytes(
                self.model, state.params, *shape, self.tuning
            )
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
        chunk = functools.partial(scan.train_chunk, self.model, self.tx, limit, tuning=self.tuning)
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
        shape = (train.chunk_steps, A, len(own))
        batches = Batch(*(np.resize(array, (*shape, array.shape[-1])) for array in drawn))
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
    told: Told | None = None,
    start: Start | None = None,
) -> Experiment:
    """Read the corpus and build everything that does not change while training.

    ``tok`` is a trained run's tokenizer, ``text`` the corpus where it has been read already, and
    ``start`` the run with whose parameters it begins. ``say`` is told of a download, ``told`` of
    how far learning byte pairs and encoding are.

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
    try:
        splits = dataset.build(texts, tok, model, text.is_items, window, neighbours)
    except UserError as error:
        if not start:
            raise
        raise UserError(f"{error} (the tokenizer is that of {start.folder})") from error
    dataset.check_lengths(splits)
    of_text = {"corpus": text, "tokenizer": tok, "splits": splits}
    return dataclasses.replace(assemble(config, model), start=start, **of_text)


def build_to_train(
    config: Config,
    workdir: str | Path,
    explicit: Collection[str] = (),
    say: corpora.Say = corpora.to_stderr,
    told: Told | None = None,
) -> Experiment:
    """``build`` of a run in ``workdir``, with the sizes and tokenizer of what it begins with.

    ``explicit``: the fields that were set by hand. UserError: they do not fit that run, or the text
    does not fit its tokenizer.
    """
    config, tok, begun = beginnings.find(config, workdir, explicit)
    return build(config, tok=tok, say=say, told=told, start=begun)


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


def abstract_batch(rows: int, T: int, lookback: int = 0) -> Batch:
    """The shapes of a batch of so many rows."""
    x = jax.ShapeDtypeStruct((rows, lookback + T), jnp.int32)
    return Batch(x, *(jax.ShapeDtypeStruct((rows, T), kind) for kind in (jnp.int32, jnp.float32)))


def saved_bytes(
    model: nn.Module, params: Any, rows: int, T: int, lookback: int = 0, tuning: Tuning = ALL
) -> int:
    """What the forward pass of so many rows keeps for the backward pass, parameters left out."""

    def saved(params, batch, key):
        trained, frozen = tuning.split(params)
        beside = tuning.beside(model, frozen)
        return jax.vjp(lambda trained: nats_of(beside, trained, batch, key)[0], trained)[1]

    # Whole ones, wherever they lie: what is saved has no place yet.
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    key = jax.eval_shape(lambda: jax.random.key(0))
    kept = jax.eval_shape(saved, params, abstract_batch(rows, T, lookback), key)
    return max(0, device_bytes(kept) - device_bytes(params))


def of_run(run: Run, workdir: Path) -> Experiment:
    """The experiment that a run was trained in, to measure it again; see ``Run.read_corpus``.

    Its rows are dealt out over the devices that are here, however many it was trained on.
    """
    config = dataclasses.replace(run.config, mesh=MeshConfig())
    return build(config, run.tokenizer, run.read_corpus(workdir))
