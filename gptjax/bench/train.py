"""How fast a training step is, on a made-up text, and beside it the same training in PyTorch.

In: configs, and in which dtypes. Out: ms per step of interleaved repeats, tokens/s, FLOP/s, compile
seconds and memory of each contender; and how the cost of a step grows with a model's sizes.
"""

from __future__ import annotations

import dataclasses
import functools
import random
import string
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import jax
import numpy as np

from gptjax.bench import peaks, startup, turns
from gptjax.bench.turns import Told, no_one
from gptjax.config.schema import Config, ModelConfig, OptimConfig, TrainConfig
from gptjax.data.batching import Batch, get_batches
from gptjax.data.corpora import Corpus
from gptjax.errors import UserError
from gptjax.evaluation.flops import training_flops_per_token
from gptjax.runtime.pace import Pace
from gptjax.training import experiment

# What is compared of ours: fields of ``ModelConfig``, by the dtype of the products.
MODES = {"float32": {"compute_dtype": "float32"}, "bfloat16": {"compute_dtype": "bfloat16"}}
PLAIN = {"attention": "plain"}  # the products that are counted, whichever are made
SAME_LOSS = 1e-4  # nats by which ours and PyTorch's may differ on one batch
MOST_STEPS = 2**17  # of one measurement, which takes about a second
CHARACTERS = string.ascii_letters + string.digits + "\n ."  # 65, as many as tinyshakespeare's
N_CHARACTERS, N_NAMES, N_CONTEXTS = 1_000_000, 32_000, 100_000


class Work(NamedTuple):
    """What is trained; ``steps`` are those of the whole run, where that is what one waits for."""

    config: Config
    steps: int = 0

    def __str__(self) -> str:
        c, batch = self.config.model, f"batch {self.config.train.batch_size}"
        if c.kind == "mlp":
            return f"names MLP {c.block_size}x{c.n_embd}/{c.n_hidden}, {batch}"
        if c.kind == "bigram":
            return f"table bigram, rows of {c.block_size}, {batch}"
        dropout = f", dropout {c.dropout}" if c.dropout else ""
        return f"{c.n_layer}/{c.n_head}/{c.n_embd}, block {c.block_size}, {batch}{dropout}"


def gpt(sizes: str, block_size: int, batch_size: int, dropout: float = 0.0) -> Work:
    """A GPT of n_layer/n_head/n_embd, trained at a constant rate."""
    n_layer, n_head, n_embd = map(int, sizes.split("/"))
    model = ModelConfig("gpt", block_size, n_layer, n_head, n_embd, dropout=dropout)
    optim, train = OptimConfig(schedule="constant"), TrainConfig(batch_size=batch_size)
    return Work(Config(model=model, train=train, optim=optim))


# configs/mlp_names.py:makemore and configs/bigram.py, the latter with the notes' batch.
MLP = Config(
    model=ModelConfig("mlp", block_size=3, n_embd=10, n_layer=1),
    train=TrainConfig(batch_size=32, window=1, chunk_steps=1000),
    optim=OptimConfig(name="sgd", learning_rate=0.1, schedule="constant", clip_norm=0.0),
)
BIGRAM = Config(model=ModelConfig("bigram", block_size=8), train=TrainConfig(batch_size=32))
WORKS = (
    gpt("4/4/128", block_size=64, batch_size=12),
    gpt("6/6/384", block_size=256, batch_size=8),
    gpt("6/6/384", block_size=256, batch_size=8, dropout=0.2),
    gpt("3/4/32", block_size=8, batch_size=32),
    gpt("4/4/128", block_size=1024, batch_size=2),
    gpt("4/4/128", block_size=2048, batch_size=1),
    Work(BIGRAM, steps=10_000),
    Work(MLP, steps=200_000),
)
# How one size grows while the others, and the tokens of a step, stay.
COST_TOKENS, COST_BASE = 2048, {"block_size": 64, "n_embd": 128, "n_layer": 4}
COSTS = {
    "block_size": (64, 128, 256, 512, 1024, 2048),
    "n_embd": (64, 128, 256, 512, 768),
    "n_layer": (2, 4, 8, 16, 24),
}


@functools.cache
def made_up(items: bool) -> Corpus:
    """A stream of 65 random characters, or random names, as many as the known corpora have."""
    draw, letters = random.Random(0), string.ascii_lowercase
    text = "".join(draw.choices(CHARACTERS, k=N_CHARACTERS))
    if items:
        names = (draw.choices(letters, k=draw.randint(2, 10)) for _ in range(N_NAMES))
        text = "".join(f"{''.join(name)}\n" for name in names)
    kind = "items" if items else "stream"
    return Corpus("made up", kind, "random", "", {"train": text, "val": text})


def having(config: Config, overrides: Mapping[str, Any]) -> Config:
    """The config with fields of its model set, where it is a GPT and has a choice."""
    if config.model.kind != "gpt":
        return config
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **overrides))


def modes(config: Config) -> dict[str, Config]:
    """The config in each of ``MODES`` that the device is quick in, by dtype, float32 first."""
    found = {dtype: having(config, MODES[dtype]) for dtype in peaks.dtypes()}
    return {d: c for d, c in found.items() if d == "float32" or c != found["float32"]}


class Ours:
    """The trainer's own compiled chunk of steps, run as it does, on a made-up text."""

    def __init__(self, config: Config):
        self.exp = experiment.build(config, text=made_up(config.model.kind == "mlp"))
        self.state, self.done = self.exp.init_state(), 0
        self.first_params = jax.device_get(self.state.params)  # the state is donated
        begin = time.perf_counter()
        self.chunk = self.exp.compile_ahead()
        self.compile_seconds = time.perf_counter() - begin

    @property
    def memory_bytes(self) -> int:
        """What XLA sets aside for a chunk on each device: its arguments, results and the rest."""
        m = self.chunk.memory_analysis()
        whole = m.argument_size_in_bytes + m.output_size_in_bytes + m.temp_size_in_bytes
        return whole - m.alias_size_in_bytes  # a donated argument's place is a result's

    def run(self, n: int) -> float:
        """Seconds of n steps; the batches of the next chunk are drawn while the device works."""
        begin, most, end = time.perf_counter(), self.exp.config.train.chunk_steps, self.done + n
        k = min(most, n)
        inputs = self.exp.chunk_inputs(self.done, k)
        while k:
            self.state, seen = self.chunk(self.state, *inputs, k, self.exp.dropout_key)
            self.done += k
            if k := min(most, end - self.done):
                inputs = self.exp.chunk_inputs(self.done, k)
            jax.device_get(seen)
        jax.block_until_ready(self.state)
        return time.perf_counter() - begin

    def batch(self, rows: int, step: int = 0) -> Batch:
        """Rows of the training text, (B, T)."""
        drawn = get_batches(self.exp.splits["train"], rows, self.exp.config.seed, [step])
        return Batch(*(array[0] for array in drawn))

    def loss(self, batch: Batch) -> float:
        """Mean nats of a batch (B, T) before the first step, dropout off."""
        batches = Batch(*(array[None] for array in batch))
        with jax.default_matmul_precision("highest"):
            nats, count = self.exp.evaluator.batch_sums(self.first_params, batches)
        return (nats / count).item()


class Process:
    """A whole program that trains on a file, from its start to its end, in a process of its own."""

    compile_seconds = memory_bytes = None

    def __init__(self, argv: list[str]):
        """``argv``: in which {0} stands for the file's path, {1} for that of a new folder."""
        self.argv, self.cache = argv, tempfile.TemporaryDirectory()

    def run(self, n: int) -> float:
        """Seconds of the program, which knows its n steps."""
        with tempfile.TemporaryDirectory() as folder:
            text, new = Path(folder) / "text.txt", Path(folder) / "run"
            text.write_text(made_up(False).text, encoding="utf-8")
            argv = [word.format(str(text), new) for word in self.argv]
            return startup.seconds_of(argv, GPTJAX_CACHE_DIR=self.cache.name)


def contenders(work: Work, with_peers: bool, told: Told, note: Callable) -> dict[str, Any]:
    """Loops by name, whose last word is the dtype: ours, then PyTorch's from the same parameters.

    UserError: the losses of both differ. Where ``torch.compile`` fails, ``note`` is told.
    """
    if work.config.model.kind == "bigram":
        return _processes(work, with_peers)
    ours = {}
    for dtype, config in modes(work.config).items():
        told(f"compiling gptjax {dtype}", 0, 1)
        ours[f"gptjax {dtype}"] = Ours(config)
    return ours | (_twins(work, ours["gptjax float32"], told, note) if with_peers else {})


def _twins(work: Work, ours: Ours, told: Told, note: Callable) -> dict[str, Any]:
    from gptjax.bench import twin

    exp, found = ours.exp, {}
    batch, params = ours.batch(work.config.train.batch_size), ours.first_params
    if work.config.model.kind == "mlp":
        found["PyTorch eager float32"] = loop = twin.MLPLoop(
            work.config, params, *contexts(exp.model, ours.batch(N_CONTEXTS, 1))
        )
        _require_equal(work, ours.loss(batch), loop.loss(*contexts(exp.model, batch)))
        return found
    what = (work.config, params, exp.splits["train"].tokens, exp.tokenizer.vocab_size)
    for name, make in twin.gpt_loops(peaks.dtypes(), *what):
        told(f"preparing {name}", 0, 1)
        try:
            loop = make()
        except Exception as error:  # of any kind: no compiler, no support for this Python
            if not name.startswith("PyTorch compiled"):
                raise
            note(f"  {name} cannot be measured here: {str(error).strip().splitlines()[0]:.200}")
            continue
        if not found:
            _require_equal(work, ours.loss(batch), loop.loss(batch.x, batch.y))
        found[name] = loop
    return found


def _processes(work: Work, with_peers: bool) -> dict[str, Process]:
    B, T = work.config.train.batch_size, work.config.model.block_size
    ours = ["-m", "gptjax.train", "--config=bigram", "--config.data.path={0}", "--workdir={1}"]
    ours += [f"--config.model.block_size={T}", f"--config.train.batch_size={B}"]
    ours += [f"--config.train.steps={work.steps}", "--config.train.eval_every=0"]
    call = f"twin.notes_bigram({{0!r}}, {work.steps}, {B}, {T})"
    theirs = ["-c", f"from gptjax.bench import twin; {call}"]
    found = {"gptjax float32": Process(ours)}
    return found | ({"PyTorch eager float32": Process(theirs)} if with_peers else {})


def contexts(model: Any, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """makemore's examples of a batch (B, T): contexts (N, block_size) and what follows, (N,)."""
    n = model.block_size
    before = n - 1 - (batch.x.shape[1] - batch.y.shape[1])  # what the batch does not show
    padded = np.pad(batch.x, ((0, 0), (before, 0)), constant_values=model.start_id)
    rows, places = np.nonzero(batch.w)
    return padded[rows[:, None], places[:, None] + np.arange(n)], batch.y[rows, places]


def _require_equal(work: Work, ours: float, theirs: float) -> None:
    if not abs(ours - theirs) <= SAME_LOSS:
        raise UserError(
            f"{work}: the first loss is {ours:.5f} nats here and {theirs:.5f} in PyTorch, more "
            f"than {SAME_LOSS} apart: these are not the same model, so their speeds say nothing"
        )


def enough_steps(run: Callable[[int], float]) -> int:
    """How many steps take about a second, found by running ever more."""
    pace = Pace(1, MOST_STEPS)
    run(1)  # the first is slow
    while True:
        n = pace.n
        pace.took(n, run(n))
        if pace.n < 2 * n:
            return 2 * pace.n if pace.n > 1 else 1


def measure(
    work: Work,
    repeats: int,
    with_peers: bool = False,
    peak_of: Mapping[str, float | None] | None = None,
    told: Told = no_one,
    note: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """A line for each contender, ours first: ms per step and what follows from it.

    ``peak_of``: FLOP/s by dtype. ``times_as_fast``: our speed over each peer's.
    """
    loops, calls = contenders(work, with_peers, told, note), {}
    for who, loop in loops.items():
        told(f"warming up {who}", 0, 1)
        n = work.steps if isinstance(loop, Process) else enough_steps(loop.run)
        calls[who] = lambda loop=loop, n=n: loop.run(n) / n
    seconds = turns.interleave(calls, repeats, told)
    tokens, flops = _tokens_and_flops(work.config)
    lines = []
    for who, taken in seconds.items():
        ms, dtype, loop = turns.spread(taken, 1e-3), who.rpartition(" ")[2], loops[who]
        speed = 1000 * tokens / ms["median"]
        peak, flops_per_second = (peak_of or {}).get(dtype), flops * speed or None
        line = {
            "work": str(work),
            "who": who,
            "dtype": dtype,
            "ms_per_step": ms,
            "tokens_per_second": speed,
            "flops_per_second": flops_per_second,
            "share_of_peak": flops_per_second / peak if peak and flops else None,
            "compile_seconds": loop.compile_seconds,
            "memory_bytes": loop.memory_bytes,
        }
        if work.steps:  # scaled from the steps that were measured, unless whole programs were
            line |= {"steps": work.steps, "seconds": work.steps * ms["median"] / 1000}
        peers = [other for other in seconds if "gptjax" in who and "PyTorch" in other]
        times = {peer: turns.times_as_fast(seconds[peer], taken) for peer in peers}
        lines.append(line | {"times_as_fast": times})
    return lines


def _tokens_and_flops(config: Config) -> tuple[float, float]:
    """Tokens of a step, and FLOPs of training on one: the model's, however they are done."""
    exp = experiment.build(having(config, PLAIN), text=made_up(config.model.kind == "mlp"))
    return exp.tokens_per_step, training_flops_per_token(exp.model)


def cost(name: str, dtype: str, repeats: int, told: Told = no_one) -> dict[str, Any]:
    """How the cost of a step grows with one size, a name of ``COSTS``: a fitted power of it.

    Tokens per step stay the same, so a step's ms grow as a token's do.
    """
    loops, calls, rows = {}, {}, []
    for size in COSTS[name]:
        told(f"preparing {size}", 0, 1)
        c = COST_BASE | {name: size}
        batch_size = max(1, COST_TOKENS // c["block_size"])
        work = gpt(f"{c['n_layer']}/4/{c['n_embd']}", c["block_size"], batch_size)
        loops[size] = loop = Ours(modes(work.config)[dtype])
        n = enough_steps(loop.run)
        calls[str(size)] = lambda loop=loop, n=n: loop.run(n) / n
    found = turns.interleave(calls, repeats, told)
    for (size, loop), taken in zip(loops.items(), found.values(), strict=True):
        row = {"size": size, "ms_per_step": turns.spread(taken, 1e-3)}
        row["tokens_per_second"] = loop.exp.tokens_per_step / median(taken)
        rows.append(row | {"memory_bytes": loop.memory_bytes})
    logs = np.log([(row["size"], row["ms_per_step"]["median"]) for row in rows]).T
    power = float(np.polyfit(*logs, 1)[0])
    return {"grows": name, "dtype": dtype, "exponent": power, "rows": rows}
