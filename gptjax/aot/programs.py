"""The programs of a run, compiled for devices that need not be here: training, evaluation, decode.

In: a config, a vocabulary's size and a ``Target``; no corpus. Out: of each program what it holds,
needs and moves on one device. They are the library's own functions, as trainer and commands call
them: a step is ``scan.train_chunk`` of one, decoding a token is ``decode._draw_tokens``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import models
from gptjax.aot import hlo
from gptjax.aot.targets import Target
from gptjax.config.schema import Config
from gptjax.data.batching import Batch
from gptjax.errors import UserError
from gptjax.evaluation import loss_eval
from gptjax.evaluation.flops import product_flops
from gptjax.generation import decode
from gptjax.generation.sampling import Chain, Temperature
from gptjax.runtime import fast_paths
from gptjax.runtime.mesh_rules import device_bytes
from gptjax.training import experiment
from gptjax.training.experiment import Experiment

GIB = 2**30
NAMES = ("train", "evaluation", "decode")
FLOAT, INT = jnp.float32, jnp.int32


@dataclasses.dataclass(frozen=True)
class Program:
    """A function as it would be called: ``held``, bytes of its arguments on a device, by name."""

    what: str
    traced: Any
    held: dict[str, int]

    @property
    def flops(self) -> float:
        """Of all devices together: every product that is made, those made again included."""
        return product_flops(self.traced.jaxpr.jaxpr)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of a program on one device.

    ``memory``: bytes by what they hold. ``missing``: by how many bytes it does not fit, where the
    compiler gave up; there is no ``traffic`` then, nor where it was only lowered, nor where this
    jaxlib cannot read the program of a newer libtpu.
    """

    what: str
    seconds: float
    flops: float
    memory: dict[str, int]
    traffic: hlo.Traffic | None
    missing: float = 0.0

    @property
    def total(self) -> int:
        """All bytes that it takes of a device."""
        return sum(self.memory.values())


def experiment_of(config: Config, vocab_size: int, target: Target) -> Experiment:
    """The experiment of a config on a target, without a corpus; UserError: it does not divide."""
    how = fast_paths.resolve(config.model, target.like)
    model = models.build(how, vocab_size)
    config = dataclasses.replace(config, model=how)
    return experiment.assemble(config, model, target.devices, target.like.platform)


def row_length(exp: Experiment) -> int:
    """Predictions of a training row of a stream."""
    return exp.config.window(items=False)


def program(exp: Experiment, what: str) -> Program:
    """One of ``NAMES``, traced; nothing is computed."""
    with exp.placement.shown():
        return {"train": _train, "evaluation": _evaluation, "decode": _decode}[what](exp)


def _train(exp: Experiment) -> Program:
    train, state, whole = exp.config.train, exp.abstract_state, exp.placement.whole
    part = (train.accumulate, train.batch_size // train.accumulate, row_length(exp))
    batches = _batches(exp, 1, *part)
    rates, n = _shaped((1,), FLOAT, whole), _shaped((), INT, whole)
    key = jax.eval_shape(lambda: exp.dropout_key).update(sharding=whole)
    traced = exp.train_chunk.trace(state, batches, rates, n, key)
    held = {"parameters": device_bytes(state.params), "optimizer": device_bytes(state.opt_state)}
    # While the steps of one chunk run, the batches of the next wait.
    held["batches"] = 2 * train.chunk_steps * device_bytes(batches)
    return Program("train", traced, held)


def _evaluation(exp: Experiment) -> Program:
    params, T = exp.abstract_params, row_length(exp)
    batches = _batches(exp, *exp.evaluator.call_shape(exp.model.lookback + T), T)
    traced = loss_eval.forward.trace(exp.model, loss_eval.row_sums, params, batches)
    held = {"parameters": device_bytes(params), "batches": device_bytes(batches)}
    return Program("evaluation", traced, held)


def _decode(exp: Experiment) -> Program:
    """Of one row, a token more; every device holds all of the parameters."""
    whole, params = exp.placement.whole, exp.abstract_params

    def everywhere(tree):
        return jax.tree.map(lambda leaf: leaf.update(sharding=whole), tree)

    model, params = _prepared(exp.model, params)
    params, keys = (
        everywhere(params),
        jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1)),
    )

    def start(params, key_B):
        return decode.start(model, params, [np.zeros(1, np.int32)], key_B)

    rows = everywhere(jax.eval_shape(start, params, keys))
    sampler = Chain((Temperature(_shaped((), FLOAT, whole)),))
    source = "window" if rows.cache is None else "cache"
    n = _shaped((), INT, whole)
    traced = decode._draw_tokens.trace(model, source, params, rows, sampler, n, None)
    held = {"parameters": device_bytes(params), "keys and values": device_bytes(rows.cache)}
    return Program("decode", traced, held)


def _prepared(model: Any, params: Any) -> tuple[Any, Any]:
    made = []

    def prepare(params):
        twin, laid_out = decode.prepare(model, params)
        made.append(twin)
        return laid_out

    params = jax.eval_shape(prepare, params)
    return made[0], params


def compile_for(program: Program, target: Target) -> Compiled:
    """Compile a program, or lower it where there is no compiler for its target."""
    lower = {} if target.compiles else {"lowering_platforms": (target.name.platform,)}
    begin = time.perf_counter()
    lowered = program.traced.lower(**lower)
    found = Compiled(program.what, 0.0, program.flops, dict(program.held), None)
    if not target.compiles:
        return dataclasses.replace(found, seconds=time.perf_counter() - begin)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        seconds = time.perf_counter() - begin
        return dataclasses.replace(found, seconds=seconds, **_too_large(found, error))
    return dataclasses.replace(
        found,
        seconds=time.perf_counter() - begin,
        memory=_memory(found, compiled.memory_analysis()),
        traffic=_traffic(compiled),
    )


def _traffic(compiled: Any) -> hlo.Traffic | None:
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError:  # so of TPU v6e with jax 0.10.2 and libtpu 0.0.52
        return None
    return hlo.traffic(text)


def _memory(found: Compiled, analysis: Any) -> dict[str, int]:
    temporary = analysis.temp_size_in_bytes
    gradients = min(temporary, found.memory["parameters"]) if found.what == "train" else 0
    given_back = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    rest = {"gradients": gradients} if gradients else {}
    rest["activations and the like"] = temporary - gradients + max(0, given_back)
    return found.memory | rest | {"program": analysis.generated_code_size_in_bytes}


def _too_large(found: Compiled, error: Exception) -> dict[str, Any]:
    """What XLA says when a program does not fit."""
    said = str(error)
    wanted = re.search(r"\(([\d.]+)G\) exceeds available \w+ \(([\d.]+)G\)", said)
    wanted = wanted or re.search(r"Used ([\d.]+)G of ([\d.]+)G", said)
    if "RESOURCE_EXHAUSTED" not in said or not wanted:
        raise error
    temporary, has = (float(number) * GIB for number in wanted.groups())
    memory = found.memory | {"gradients, activations and the like": int(temporary)}
    return {"memory": memory, "missing": sum(memory.values()) - has}


def _batches(exp: Experiment, *shape: int) -> Batch:
    place, (*lead, T) = exp.placement.of_batch(len(shape)), shape
    x = _shaped((*lead, exp.model.lookback + T), INT, place)
    return Batch(x, _shaped(shape, INT, place), _shaped(shape, FLOAT, place))


def _shaped(shape: tuple[int, ...], kind: Any, place: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, kind, sharding=place)


def compiled(
    config: Config,
    vocab_size: int,
    target: Target,
    names: tuple[str, ...] = NAMES,
    told: Callable[[str], Any] = lambda what: contextlib.nullcontext(),
) -> tuple[Experiment, dict[str, Compiled]]:
    """Compile programs of a config for a target; ``told`` gives a context around each."""
    if config.train.neighbours:
        raise UserError("rows of skip-gram are made of a corpus: aot is for models of a stream")
    exp, found = experiment_of(config, vocab_size, target), {}
    for name in names:
        with told(name):
            found[name] = compile_for(program(exp, name), target)
    return exp, found
