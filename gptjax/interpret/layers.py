"""How healthy a model is inside: what flows through its layers, and what one step changes.

In: a model, its parameters and one batch. Out: of each place in the model the activations and their
gradients, of each matrix its gradient and its update, as means, spreads and histograms. Nothing of
it touches a training. Source: makemore part 3, whose pictures show the same numbers.

B batch, T time, V vocabulary.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gptjax.checkpoints import pytree, store
from gptjax.checkpoints.run import Run
from gptjax.config.schema import OptimConfig
from gptjax.data import dataset
from gptjax.data.batching import Batch, get_batch, whole_split
from gptjax.data.dataset import Split
from gptjax.errors import UserError
from gptjax.interpret.places import Place, Watched, places, plain
from gptjax.training import optimizer
from gptjax.training.train_step import TrainState, init_state, nats_of
from gptjax.training.tuning import ALL, Tuning

BINS = 41  # of a histogram: odd, so that zero lies within one
FAR = 4.0  # spreads from the mean: what lies beyond counts in the outermost bins
SATURATED = 0.97  # |tanh| above it: its slope, 1 - tanh², is below 0.06
TOKENS, FLOPS = 512, 2e10  # of the batch, at most: half a second of two CPU cores
SEED = 1337  # of the batch's rows


class Histogram(NamedTuple):
    """How often values fall into each of ``BINS`` equal bins from ``low`` to ``high``."""

    low: float
    high: float
    counts: np.ndarray


class Spread(NamedTuple):
    """A crowd of values: mean, standard deviation, histogram."""

    mean: float
    std: float
    histogram: Histogram


class Flow(NamedTuple):
    """What one batch shows at a place.

    ``gradient``: of the mean loss, nats per token, by each value. ``saturated``: after tanh, the
    share of values above ``SATURATED``. ``zero``: after relu, the share of values that are 0; the
    histogram leaves them out. ``dead``: after relu or gelu, how many of ``units`` were above 0 for
    no token. ``norm``: of the residual stream, the mean length of a token's vector.
    """

    place: Place
    values: Spread
    gradient: Spread
    units: int
    saturated: float | None = None
    zero: float | None = None
    dead: int | None = None
    norm: float | None = None


class Matrix(NamedTuple):
    """A matrix (or table) of parameters: its values, their gradients, and what a step would change.

    Means and standard deviations over all its numbers. ``update_std``: of what the optimizer adds;
    None where no optimizer's memory is known, or the matrix is frozen.
    """

    name: str
    shape: tuple[int, ...]
    mean: float
    std: float
    grad_mean: float
    grad_std: float
    update_std: float | None

    @property
    def grad_to_data(self) -> float:
        """The gradient's spread over that of the values."""
        return self.grad_std / self.std if self.std else math.inf

    @property
    def update_to_data(self) -> float | None:
        """log10 of the update's spread over that of the values; about -3 is healthy."""
        if self.update_std is None or not self.std or not self.update_std:
            return None
        return math.log10(self.update_std / self.std)


class Layers(NamedTuple):
    """All that ``measure`` sees; ``nats``: the mean loss of the batch, nats per token.

    ``learning_rate``: of the step that would come next; None where ``no_updates`` says why there is
    none.
    """

    nats: float
    flows: list[Flow]
    matrices: list[Matrix]
    learning_rate: float | None = None
    no_updates: str = ""


def draw(run: Run, split: Split) -> Batch:
    """The batch to look at: a few rows of a split, drawn as evaluations draw them, always the same.

    About ``TOKENS`` predictions (B, T); fewer of a model for which they would take long.
    """
    # Of each token, forward and back, a parameter is used in about three products.
    most = max(2, min(TOKENS, int(FLOPS / (6 * run.n_parameters))))
    batch = get_batch(split, max(1, most // split.window), SEED, 0, "eval_train")
    T = split.window if split.lookback else min(split.window, most)
    return Batch(batch.x[:, : split.lookback + T], batch.y[:, :T], batch.w[:, :T])


def of_text(run: Run, text: str) -> Batch | None:
    """The same of a text, where the corpus is not there; None if it has nothing to predict."""
    ids = run.tokenizer.encode(text)
    if len(ids) < 2:
        return None
    window = min(run.model.block_size if not run.model.slides else TOKENS, len(ids) - 1)
    split = dataset.cut_stream(ids, window, run.model.lookback)
    drawn = next(whole_split(split, min(split.n_rows, max(1, TOKENS // window)), 1))
    return Batch(*(array[0] for array in drawn))


def at_checkpoint(run: Run, workdir: Path | None, batch: Batch) -> Layers:
    """``measure`` of a run's checkpoint, with the memory that its optimizer had at that step."""
    config, rate = run.config, 0.0
    tuning = Tuning(config.train.trainable, config.model)
    try:
        if workdir is None or run.data is None:
            raise UserError(
                "this model was not trained here, and nothing is known of its optimizer"
            )
        state = _state(run, workdir, tuning)
        rate = float(_schedule(config.optim, config.train.steps)(run.step))
        known = state.params, batch, state.opt_state, config.optim, rate, tuning
        return measure(run.model, *known)._replace(learning_rate=rate)
    except UserError as error:
        return measure(run.model, run.params, batch)._replace(no_updates=str(error))


@functools.lru_cache(maxsize=2)
def _schedule(optim: OptimConfig, steps: int) -> Callable:
    # Compiled as one: outside of jit each of its small operations would be, one by one.
    return jax.jit(optimizer.schedule(optim, steps))


def _state(run: Run, workdir: Path, tuning: Tuning) -> TrainState:
    tx = optimizer.build(run.config.optim)
    # Of given parameters the shapes are found without a trace of the model.
    like = jax.eval_shape(functools.partial(init_state, run.model, tx, 0, tuning), run.params)
    parts = {"params": like.params, "rest": like.replace(params=None)}
    tree = store.restore(workdir, run.step, parts).tree
    return tree["rest"].replace(params=tree["params"])


def measure(
    model: nn.Module,
    params: Any,
    batch: Batch,
    opt_state: Any = None,
    optim: OptimConfig | None = None,
    learning_rate: float = 0.0,
    tuning: Tuning = ALL,
) -> Layers:
    """Look into a model on one batch (B, T), dropout off.

    ``params``: as a state of training has them. ``opt_state``: the memory that ``optim`` has of
    those that learn; None: no update is known. Compiled once for all parameters of a shape.
    """
    model = plain(model)
    at = tuple(places(model))
    found = _program()(model, at, tuning, params, batch)
    nats, seen, by_value, grads = jax.device_get(found)
    flows = [_flow(*one, batch.w) for one in zip(at, seen, by_value, strict=True)]
    trained = jax.device_get(tuning.split(params)[0])
    updates = {}
    if optim is not None and opt_state is not None:
        updates = pytree.flat(update_of(optim, opt_state, grads, trained, learning_rate))
    grads = pytree.flat(grads)
    matrices = [
        _matrix(name, values, grads[name], updates.get(name))
        for name, values in pytree.flat(trained).items()
        if values.ndim > 1
    ]
    return Layers(float(nats), flows, matrices)


@functools.cache
def _program():
    # It runs a few times: on a CPU, to optimise it would take longer than all of them.
    quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(_look_inside, static_argnums=(0, 1, 2), compiler_options=quick)


def _look_inside(model, at, tuning, params, batch):
    """(mean loss, values at each place, the gradients by them, those by what learns)."""
    trained, frozen = tuning.split(params)
    inner = tuning.beside(model, frozen)

    def loss(trained, nudges):
        watched = Watched(inner, at, nudges)
        nats, count = nats_of(watched, trained, batch, jax.random.key(0))
        return nats / count, watched.seen

    shapes = jax.eval_shape(loss, trained, [0.0] * len(at))[1]
    zeros = [jnp.zeros(s.shape, s.dtype) for s in shapes]
    looked = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(trained, zeros)
    (nats, seen), (grads, by_value) = looked
    return nats, seen, by_value, grads


def update_of(
    optim: OptimConfig, opt_state: Any, grads: Any, trained: Any, learning_rate: float
) -> Any:
    """What ``optimizer.build(optim)`` adds to the parameters that learn: a tree like them.

    The rule treats each number alike, so all that decay are laid end to end, and all others: it is
    compiled for two long arrays, in a tenth of the time that it takes for each of the matrices.
    """
    leaves, structure = jax.tree.flatten(trained)
    decays = jax.tree.leaves(optimizer.decay_mask(trained))
    # Names that decay_mask tells apart, and the numbers of the leaves that go there.
    ends = {"kernel": [n for n, yes in enumerate(decays) if yes]}
    ends["bias"] = [n for n, yes in enumerate(decays) if not yes]
    ends = {name: numbers for name, numbers in ends.items() if numbers}

    def laid(tree):
        flat = [np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(tree)]
        return {name: np.concatenate([flat[n] for n in ns]) for name, ns in ends.items()}

    def is_like(tree):
        return jax.tree.structure(tree) == structure

    memory = jax.tree.map(lambda t: laid(t) if is_like(t) else t, opt_state, is_leaf=is_like)
    rate = jnp.float32(learning_rate)
    changed = jax.device_get(_update(optim, memory, laid(grads), laid(trained), rate))
    back = list(leaves)
    for name, numbers in ends.items():
        cuts = np.cumsum([leaves[n].size for n in numbers])[:-1]
        for n, part in zip(numbers, np.split(changed[name], cuts), strict=True):
            back[n] = part.reshape(leaves[n].shape)
    return jax.tree.unflatten(structure, back)


@functools.partial(jax.jit, static_argnums=0)
def _update(optim, opt_state, grads, params, rate):
    return optimizer.build(optim).update(grads, opt_state, params, learning_rate=rate)[0]


def histogram(values: np.ndarray) -> Histogram:
    """Of numbers (N,), N >= 1, up to ``FAR`` spreads from their mean."""
    mean, far = float(values.mean(dtype=np.float64)), FAR * float(values.std(dtype=np.float64))
    low, high = max(float(values.min()), mean - far), min(float(values.max()), mean + far)
    width = (high - low) or 1.0
    at = np.clip((values - low) * (BINS / width), 0, BINS - 1).astype(np.int32)
    return Histogram(low, high, np.bincount(at, minlength=BINS))


def spread(values: np.ndarray, without_zeros: bool = False) -> Spread:
    """Mean, standard deviation and histogram of numbers (N,), N >= 1.

    ``without_zeros``: the histogram is of the others, where there are any.
    """
    values = np.asarray(values, np.float32).reshape(-1)
    mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    drawn = values[values != 0] if without_zeros and values.any() else values
    return Spread(mean, std, histogram(drawn))


def _flow(place: Place, values: np.ndarray, gradient: np.ndarray, w: np.ndarray) -> Flow:
    units = values.shape[-1]
    counts = np.asarray(w).reshape(-1) > 0  # a place that was filled up says nothing
    values, gradient = (a.reshape(-1, units)[counts] for a in (values, gradient))
    is_relu = place.kind == "relu"
    seen = Flow(place, spread(values, is_relu), spread(gradient, is_relu), units)
    if place.kind == "tanh":
        seen = seen._replace(saturated=float((np.abs(values) > SATURATED).mean()))
    if is_relu:
        seen = seen._replace(zero=float((values == 0).mean()))
    if place.kind in ("relu", "gelu"):
        seen = seen._replace(dead=int((values.max(axis=0) <= 0).sum()))
    if place.kind == "stream":
        lengths = np.linalg.norm(values.astype(np.float64), axis=1)
        seen = seen._replace(norm=float(lengths.mean()))
    return seen


def _matrix(name: str, values: np.ndarray, grad: np.ndarray, update: np.ndarray | None) -> Matrix:
    sizes = [f(a, dtype=np.float64) for a in (values, grad) for f in (np.mean, np.std)]
    changed = None if update is None else float(np.std(update, dtype=np.float64))
    return Matrix(name, values.shape, *map(float, sizes), changed)
