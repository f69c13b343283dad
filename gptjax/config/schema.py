"""Every setting of a run: its type, default, meaning and bounds.

In: values from a config file, flags or a checkpoint. Out: frozen dataclasses that refuse, as they
are made, what is out of bounds. What may be chosen is listed here as data, the engine not imported.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple, dataclass_transform

from gptjax.errors import UserError, did_you_mean, is_utf8

CORPORA = ("shakespeare", "tinyshakespeare", "names", "indian_names")  # data/corpora.py
IN_PARTS = ("shakespeare",)  # corpora of several works, of which data.part takes some
TOKENIZERS = ("char", "word", "byte", "bpe")  # data/tokenizers.py
FEWEST_PAIRS, BPE_VOCABULARY = 257, 1024  # tokens: every byte and an end; where none is asked for
RUNGS = ("head", "multihead", "ffwd")  # models/rungs.py
MODELS = ("bigram", "bigram_embed", "ngram", "mlp", *RUNGS, "gpt")  # models/
SLIDING_MODELS = ("bigram", "ngram", "mlp")  # they read rows of any length
ATTENTION_MODELS = (*RUNGS, "gpt")  # they hold a causal mask, block_size x block_size
ACTIVATIONS = ("relu", "gelu", "gelu_tanh")  # models/gpt.py
DTYPES = ("auto", "float32", "bfloat16")  # models/precision.py
ATTENTIONS = ("auto", "plain", "blocks", "fused")  # models/gpt.py, gpt_fast.py
OPTIMIZERS = ("adamw", "sgd")  # training/optimizer.py
WINDOWS = ("exact", "refill")  # generation/decode.py
SCHEDULES = ("cosine", "constant", "step")
MOST_NEW_TOKENS, MOST_SEED, MOST_FLOAT = 2**24, 2**32 - 1, 1e38  # which a float32 can hold


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers a field may have; ``above`` and ``below`` take the ends themselves out."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def must_be(self, value: Any) -> str:
        """What ``value`` fails to be, "" when it is allowed; NaN and infinities never are."""
        low_holds = value > self.low if self.above else value >= self.low
        high_holds = value < self.high if self.below else value <= self.high
        if low_holds and high_holds:
            return ""
        low = f"{'above' if self.above else 'at least'} {self.low:,}"
        return f"{low} and {'below' if self.below else 'at most'} {self.high:,}"


SIZE, SIZE_OR_0 = Range(1, 2**20), Range(0, 2**20)  # a config may come from a stranger
COUNT, COUNT_1 = Range(0, 2**31 - 1), Range(1, 2**31 - 1)  # an int32 can hold it
TOKENS, SEED = Range(0, MOST_NEW_TOKENS), Range(0, MOST_SEED)
FLOAT, ABOVE_0 = Range(0, MOST_FLOAT), Range(0, MOST_FLOAT, above=True)
TO_1, BELOW_1 = Range(0, 1), Range(0, 1, below=True)


def field(default: Any, meaning: str, bounds: Range | tuple[str, ...] | None = None) -> Any:
    """A setting with its meaning, and its bounds or words; without, a number has its type's."""
    bounds = bounds or {int: COUNT, float: FLOAT}.get(type(default))
    return dataclasses.field(default=default, metadata={"meaning": meaning, "bounds": bounds})


@dataclass_transform(frozen_default=True)
class Part:
    """A part of the config, a frozen dataclass that checks itself; ``group`` begins its paths."""

    group: ClassVar[str]

    def __init_subclass__(cls, group: str = ""):
        cls.group = group
        dataclasses.dataclass(frozen=True)(cls)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            name, kind, value = field.name, field.type, getattr(self, field.name)
            # A float may be written as an int; but bool is an int too, and n_layer=True a mistake.
            fits = isinstance(value, (int, float) if kind is float else kind)
            if not fits or (isinstance(value, bool) and kind is not bool):
                raise self.mistake(name, f" is {type(value).__name__}, must be {kind.__name__}")
            self.check(name, field.metadata.get("bounds"))

    def check(self, name: str, bounds: Range | tuple[str, ...] | None, more: str = "") -> None:
        """Refuse a value outside its bounds, or that is none of its words."""
        value = getattr(self, name)
        if isinstance(bounds, Range) and (must := bounds.must_be(value)):
            raise self.mistake(name, f" must be {must}")
        if isinstance(bounds, tuple) and value not in bounds:
            near = did_you_mean(value, bounds, repr)
            raise self.mistake(name, f" must be one of {', '.join(bounds)}{near}{more}")

    def mistake(self, name: str, what: str) -> UserError:
        """A wrong value: "model.n_layer=0" and what is wrong with it."""
        return UserError(f"{self.group}{name}={getattr(self, name)!r:.80}{what}")


class DataConfig(Part, group="data."):
    """Which text to learn from, and how it is cut."""

    name: str = field("shakespeare", f"a known corpus: {', '.join(CORPORA)}")
    path: str = field(
        "",
        "a UTF-8 text file of your own, or what prepare made of one, of gs:// or s3:// too; wins "
        "over name",
    )
    kind: str = field(
        "auto",
        "stream (one text), items (one a line), or auto: the corpus's own; a path's is stream",
        ("auto", "stream", "items"),
    )
    split: str = field(
        "distinct",
        "of items: distinct (each line once), or makemore (its shuffle, repeated lines kept)",
        ("distinct", "makemore"),
    )
    part: str = field(
        "",
        "of shakespeare: its works by number (1-22) or words of their titles (romeo), commas "
        "between; empty takes all",
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.path:
            self.check("name", CORPORA, "; a file of your own goes to data.path")
        if self.part and (self.path or self.name not in IN_PARTS):
            of = f"data.path={self.path!r:.80}" if self.path else f"data.name={self.name!r}"
            raise self.mistake("part", f" names works of {', '.join(IN_PARTS)}, not of {of}")


class TokenizerConfig(Part, group="tokenizer."):
    """How a text is cut into tokens."""

    kind: str = field(
        "char", "what one token is: char, word, byte, or bpe (byte pairs, learnt)", TOKENIZERS
    )
    min_count: int = field(
        1, "word only: rarer words become the unknown token (occurrences)", COUNT_1
    )
    vocab_size: int = field(
        0, f"bpe only: tokens at most, bytes among them; 0 is {BPE_VOCABULARY:,}", SIZE_OR_0
    )

    def __post_init__(self):
        super().__post_init__()
        if self.min_count > 1 and self.kind != "word":
            raise self.mistake("min_count", " must be 1 unless tokenizer.kind='word'")
        if self.vocab_size and self.kind != "bpe":
            counted = f"tokenizer.kind={self.kind!r} counts its own"
            raise self.mistake("vocab_size", f" must be 0 unless tokenizer.kind='bpe': {counted}")
        if 0 < self.vocab_size < FEWEST_PAIRS:
            raise self.mistake(
                "vocab_size", f" must be at least {FEWEST_PAIRS}: every byte, and an end of text"
            )


class ModelConfig(Part, group="model."):
    """Which model, and its sizes under the notes' names."""

    kind: str = field(
        "gpt",
        "bigram (table), bigram_embed (+ positions), ngram (counted), mlp, gpt, or a rung of "
        f"the ladder: {', '.join(RUNGS)}",
        MODELS,
    )
    block_size: int = field(64, "tokens of context (and of one training row of a stream)", SIZE)
    n_layer: int = field(4, "blocks of the gpt, tanh layers of the mlp", Range(1, 1000))
    n_head: int = field(4, "attention heads; n_embd must be a multiple", SIZE)
    n_embd: int = field(128, "channels of an embedding", SIZE)
    n_hidden: int = field(200, "width of a layer of the mlp", SIZE)
    dropout: float = field(0.0, "fraction of values zeroed while training, 0 to below 1", BELOW_1)
    activation: str = field(
        "relu", "of the feed-forward: relu (the notes), gelu, or GPT-2's gelu_tanh", ACTIVATIONS
    )
    add_count: float = field(1.0, "ngram: count given to every continuation, above 0", ABOVE_0)
    tie_lm_head: bool = field(False, "lm_head shares the token embedding table")
    scale_residual: bool = field(False, "start residual projections 1/sqrt(2 n_layer) smaller")
    qkv_bias: bool = field(False, "gpt: queries, keys and values have a bias, as GPT-2's do")
    lm_head_bias: bool = field(True, "gpt: lm_head has a bias (one tied to the table never has)")
    compute_dtype: str = field(
        "auto",
        "gpt: what products read (their sums are float32); auto: bfloat16 where that is quicker",
        DTYPES,
    )
    storage_dtype: str = field(
        "auto",
        "gpt: what stands between products; auto: float32, on an accelerator the compute_dtype",
        DTYPES,
    )
    attention: str = field(
        "auto",
        "gpt: plain (the notes' lines), blocks (of rows, exact), fused (the device's kernel)",
        ATTENTIONS,
    )
    remat: bool = field(False, "gpt: compute values again in the backward pass, to save memory")
    scan_layers: bool = field(False, "gpt: compile one block for all layers, to compile sooner")
    pad_vocab: int = field(1, "gpt: the last product's width, rounded up to a multiple", SIZE)
    lora_rank: int = field(
        0, "LoRA's: train so thin products beside frozen kernels; 0 is off", SIZE_OR_0
    )
    lora_targets: str = field(
        "query,value", "which kernels have one, named as in train.trainable: query, sa/proj, fc"
    )
    lora_alpha: float = field(16.0, "a product counts lora_alpha / lora_rank times", ABOVE_0)

    def __post_init__(self):
        super().__post_init__()
        fast = ("remat", "scan_layers", "pad_vocab")  # models/fast/gpt_fast.py
        how = ("compute_dtype", "storage_dtype", "attention", *fast)
        of_gpt = (*how, "qkv_bias", "lm_head_bias")
        changed = [name for name in of_gpt if getattr(self, name) != getattr(type(self), name)]
        for name in changed if self.kind != "gpt" else ():
            raise self.mistake(name, f" is for model.kind='gpt', and not for {self.kind!r}")
        for name in set(changed) & set(fast) if self.attention == "plain" else ():
            raise self.mistake(name, " needs model.attention=blocks or fused")
        if self.lora_rank and not self.lora_targets.strip(", "):
            raise self.mistake("lora_targets", " names no kernel: query,value, or lora_rank=0")
        if self.attention == "fused" and self.dropout:
            raise self.mistake(
                "attention",
                f" cannot drop out attention weights, and model.dropout={self.dropout}: set "
                "model.attention=blocks, or model.dropout=0",
            )
        if self.kind in ("multihead", "ffwd", "gpt") and self.n_embd % self.n_head:
            nearest = self.n_head * max(1, round(self.n_embd / self.n_head))
            what = f" is not divisible by model.n_head={self.n_head}: try n_embd={nearest}"
            raise self.mistake("n_embd", what)


class TrainConfig(Part, group="train."):
    """How long to learn, from how much at a time, and how often to look up."""

    steps: int = field(2000, "updates of the parameters; 0 evaluates the fresh model", COUNT)
    batch_size: int = field(16, "rows of a step, over all devices and parts", SIZE)
    accumulate: int = field(1, "parts a batch is done in, to save memory; same result", COUNT_1)
    window: int = field(0, "predictions of a row; 0: model.block_size, or a whole item", SIZE_OR_0)
    neighbours: int = field(
        0, "skip-gram: predict words up to this far on both sides; 0: next", SIZE_OR_0
    )
    eval_every: int = field(250, "steps between evaluations; 0 means only at the end")
    eval_iters: int = field(20, "random batches of each estimate of the loss", SIZE)
    chunk_steps: int = field(100, "most steps of one compiled loop", SIZE)
    skip_nonfinite: int = field(0, "bad steps to pass over; 0 stops at the first")
    tensorboard: bool = field(True, "write TensorBoard's files too, where tensorboardX is there")
    report: bool = field(True, "write report.html at the end, if it takes a second or two")
    init_from: str = field(
        "",
        "begin with the parameters, tokenizer and sizes of the run in this folder (or gs://, "
        "s3://); --init_from is short for it",
    )
    trainable: str = field(
        "",
        "train only these, commas between (lm_head, blocks_5, blocks_*/ffwd, ln_*), and freeze the "
        "rest; empty trains all, of LoRA its products",
    )


class OptimConfig(Part, group="optim."):
    """How fast to learn. The decay is PyTorch's 0.01, not optax's 0.0001."""

    name: str = field("adamw", "adamw, or sgd (makemore's; no betas, no decay)", OPTIMIZERS)
    learning_rate: float = field(1e-3, "the highest of the schedule", ABOVE_0)
    schedule: str = field(
        "cosine", "after warm-up: cosine, constant or step (at half time)", SCHEDULES
    )
    warmup_steps: int = field(0, "steps of linear rise from 0")
    final_fraction: float = field(0.1, "of learning_rate, at the end (of a step: after it)", TO_1)
    beta1: float = field(0.9, "memory of the mean of gradients", BELOW_1)
    beta2: float = field(0.99, "memory of the mean of their squares", BELOW_1)
    eps: float = field(1e-8, "added to the root of the squares", ABOVE_0)
    weight_decay: float = field(0.01, "pull of kernels and embeddings to 0, times the rate")
    clip_norm: float = field(1.0, "largest norm of all gradients together; 0 is off")


class MeshConfig(Part, group="mesh."):
    """How a run is spread over devices; whatever it is, the same is computed."""

    data: int = field(
        -1, "devices, or groups of them, among which rows are dealt out; -1: all", Range(-1, 2**20)
    )
    fsdp: int = field(1, "devices that share rows and parameters", SIZE)
    tensor: int = field(1, "devices that share heads and hidden units", SIZE)
    uneven: str = field(
        "refuse",
        "parameters that cannot be cut equally: refuse, or whole (on each device)",
        ("refuse", "whole"),
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.data:
            raise self.mistake("data", " must be 1 or more, or -1 for what the others leave")


class CheckpointConfig(Part, group="checkpoint."):
    """When a run is saved, and how much of its past is kept."""

    every_steps: int = field(0, "save every so many steps; 0 saves at each evaluation only")
    every_minutes: float = field(5.0, "also save after so many minutes; 0 is never")
    keep_last: int = field(2, "checkpoints kept beside the best; 2 leaves a spare one", COUNT_1)
    keep_every: int = field(0, "also save, and keep for good, every so many steps; 0 keeps none so")
    on_full_disk: str = field(
        "stop", "when one can't be written: stop, or continue without it", ("stop", "continue")
    )


class SampleConfig(Part, group="sample."):
    """The sample a run shows at each evaluation."""

    prompt: str = field("", "what it continues; empty begins as the corpus does")
    max_new_tokens: int = field(200, "length of the sample, tokens; 0 shows none", TOKENS)
    temperature: float = field(0.8, "logits are divided by it; 0 takes the likeliest token")


class Config(Part):
    """Everything that makes a run the run it is; the work folder is not part of it."""

    name: str = field("run", "what the run is called; names the default work folder")
    why: str = field("", "why this size was chosen, shown in the header")
    seed: int = field(
        1337, "of the weights, the batches, the dropout and the shuffle of items", SEED
    )
    data: DataConfig = DataConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    optim: OptimConfig = OptimConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    sample: SampleConfig = SampleConfig()
    expected: dict = dataclasses.field(
        default_factory=dict,
        metadata={"meaning": "corpus name -> (low, high): the band of final_val_nats"},
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.name or self.name.strip(".") == "" or set(self.name) & set("/\\\0"):
            what = "the name of a folder, without / or \\: --workdir puts the run elsewhere"
            raise self.mistake("name", f" must be {what}")
        if not is_utf8(self.name + self.why):
            raise self.mistake("name", " (or why) is not UTF-8: give it in plain characters")
        for corpus, band in self.expected.items():
            two = isinstance(band, (tuple, list)) and len(band) == 2
            if not two or not all(type(x) in (int, float) for x in band) or not band[0] <= band[1]:
                raise UserError(f"expected.{corpus} must be (low, high) nats, not {band!r}")
        window, block_size = self.train.window, self.model.block_size
        if self.model.kind not in SLIDING_MODELS and window > block_size:
            raise UserError(
                f"train.window={window} is longer than model.block_size={block_size}, all that "
                f"model.kind={self.model.kind!r} can read: shorten it, or 0 takes the block"
            )

    @property
    def title(self) -> str:
        """What a run says first of itself."""
        return self.name + (f" ({self.why})" if self.why else "")

    @property
    def predicts_next(self) -> bool:
        """Whether a run learns what comes next in a text, and not which words are neighbours."""
        return not self.train.neighbours

    def window(self, items: bool) -> int:
        """Predictions of a row, of a bigram table too; 0: an item as far as the model can."""
        return self.train.window or (0 if items else self.model.block_size)


class Field(NamedTuple):
    """One settable value: its dotted path, type, value and meaning."""

    path: str
    type: type
    value: Any
    meaning: str


def fields(config: Part, prefix: str = "") -> Iterator[Field]:
    """Every field of a config, depth first, in the order of the classes."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Part):
            yield from fields(value, f"{prefix}{field.name}.")
        else:
            yield Field(prefix + field.name, field.type, value, field.metadata["meaning"])


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain dicts, ready for JSON; ``parse.from_dict`` undoes it."""
    return dataclasses.asdict(config)


def differences(ours: Config, theirs: Config, ignore: tuple[str, ...] = ()) -> list[str]:
    """Each difference as ``path: theirs -> ours``; ``ignore``: paths or first parts of them."""
    return [
        f"{a.path}: {b.value!r} -> {a.value!r}"
        for a, b in zip(fields(ours), fields(theirs), strict=True)
        if a.value != b.value and a.path not in ignore and a.path.split(".")[0] not in ignore
    ]
