"""GPT-2 as Hugging Face's files hold it, beside ours: one table of parameters for both ways.

In: our parameters by path, or their tensors by name. Out: the other. And the same of config.json,
where what one of the two cannot say is a refusal that names the value and the way out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gptjax.config.schema import SIZE, ModelConfig
from gptjax.errors import UserError
from gptjax.interop import fold

PREFIX = "transformer."  # of all names but lm_head's; files of OpenAI's own models leave it out
BUFFERS = (
    ".attn.bias",
    ".attn.masked_bias",
)  # causal masks that older files hold beside parameters
HEAD, TABLE = "lm_head.weight", "wte.weight"

# Theirs -> ours; gelu_new is written for gelu_tanh, and its other name is read.
ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
ACTIVATIONS |= {"gelu_new": "gelu_tanh"}
# What ours always does; the values that transformers takes where config.json has none.
FIXED = {
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}
DEFAULTS = {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024, "vocab_size": 50257}
DEFAULTS |= {"activation_function": "gelu_new", "tie_word_embeddings": True, "n_inner": None}
DEFAULTS |= {"resid_pdrop": 0.1, "attn_pdrop": 0.1, "embd_pdrop": 0.1}


class Row(NamedTuple):
    """One of their tensors, and the parameters of ours that it holds.

    ``shape`` is theirs, in letters: V vocabulary, T block_size, C n_embd, Q = 3 C, F = 4 C.
    ``layout``: same; transposed; or heads, where queries, keys and values stand side by side, in
    each the heads one after the other, and ours are three of (H, C, K) or, biases, (H, K).
    """

    theirs: str
    shape: str
    ours: str
    layout: str = "same"


# A kernel of ours is (in, out), as a ``Conv1D`` of theirs; ``nn.Linear``, lm_head alone, is not.
AROUND = (
    Row(TABLE, "VC", "token_embedding_table/embedding"),
    Row("wpe.weight", "TC", "position_embedding_table/embedding"),
    Row("ln_f.weight", "C", "ln_f/scale"),
    Row("ln_f.bias", "C", "ln_f/bias"),
)
UNTIED = Row(HEAD, "VC", "lm_head/kernel", "transposed")
BLOCK = (
    Row("ln_1.weight", "C", "ln1/scale"),
    Row("ln_1.bias", "C", "ln1/bias"),
    Row("attn.c_attn.weight", "CQ", "sa/heads/{}/kernel", "heads"),
    Row("attn.c_attn.bias", "Q", "sa/heads/{}/bias", "heads"),
    Row("attn.c_proj.weight", "CC", "sa/proj/kernel"),
    Row("attn.c_proj.bias", "C", "sa/proj/bias"),
    Row("ln_2.weight", "C", "ln2/scale"),
    Row("ln_2.bias", "C", "ln2/bias"),
    Row("mlp.c_fc.weight", "CF", "ffwd/fc/kernel"),
    Row("mlp.c_fc.bias", "F", "ffwd/fc/bias"),
    Row("mlp.c_proj.weight", "FC", "ffwd/proj/kernel"),
    Row("mlp.c_proj.bias", "C", "ffwd/proj/bias"),
)
HEADS = ("query", "key", "value")


class Tensor(NamedTuple):
    """A tensor that is made when it is asked for: of a model, one at a time is in memory."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]


class Family(NamedTuple):
    """A model that both can express: its config, and the rows of its vocabulary's table."""

    config: ModelConfig
    vocab_size: int
    notes: tuple[str, ...] = ()  # what of theirs has no counterpart here

    def rows(self) -> Iterator[tuple[str, tuple[int, ...], list[str], str]]:
        """The table of this model: their name, its shape, our paths, and how these are laid out."""
        c = self.config
        sizes = {"V": self.vocab_size, "T": c.block_size, "C": c.n_embd}
        sizes |= {"Q": 3 * c.n_embd, "F": 4 * c.n_embd}
        blocks = (
            row._replace(theirs=f"h.{i}.{row.theirs}", ours=f"blocks_{i}/{row.ours}")
            for i in range(c.n_layer)
            for row in BLOCK
        )
        for row in (*AROUND, *blocks, *([] if c.tie_lm_head else [UNTIED])):
            theirs = row.theirs if row is UNTIED else PREFIX + row.theirs
            ours = [row.ours.format(part) for part in HEADS[: 3 if row.layout == "heads" else 1]]
            yield theirs, tuple(sizes[letter] for letter in row.shape), ours, row.layout


def join(parts: Sequence[np.ndarray], layout: str) -> np.ndarray:
    """Our parameters of a row as their one tensor; ``split`` undoes it."""
    if layout == "heads":
        stacked = np.stack(parts)  # (3, H, C, K), or (3, H, K)
        if stacked.ndim == 4:
            stacked = np.moveaxis(stacked, 2, 0)
        return stacked.reshape(*stacked.shape[:-3], -1)
    return parts[0].T if layout == "transposed" else parts[0]


def split(tensor: np.ndarray, layout: str, n_head: int) -> list[np.ndarray]:
    """Their tensor of a row as our parameters."""
    if layout == "heads":
        apart = tensor.reshape(*tensor.shape[:-1], 3, n_head, -1)  # (C, 3, H, K), or (3, H, K)
        return list(np.moveaxis(apart, 0, 2) if apart.ndim == 4 else apart)
    return [tensor.T if layout == "transposed" else tensor]


def our_shape(shape: tuple[int, ...], layout: str, n_head: int) -> tuple[int, ...]:
    """Of their tensor's shape, that of each parameter of ours in it."""
    if layout == "heads":
        return (n_head, *shape[:-1], shape[-1] // 3 // n_head)
    return shape[::-1] if layout == "transposed" else shape


def tensors(family: Family, params: Mapping[str, np.ndarray]) -> Iterator[Tensor]:
    """A model's parameters, by path, as their tensors; see ``in_family``."""
    for name, shape, ours, layout in family.rows():
        parts = [params[path] for path in ours]
        yield Tensor(name, shape, lambda parts=parts, layout=layout: join(parts, layout))


def in_family(
    config: ModelConfig, vocab_size: int, params: Mapping[str, np.ndarray]
) -> tuple[Family, dict[str, np.ndarray]]:
    """A GPT of ours as one of GPT-2's family, with the same logits.

    Biases of queries, keys and values that it lacks are zeros; that of lm_head is folded in.
    """
    params, H, C = {k: np.asarray(v) for k, v in params.items()}, config.n_head, config.n_embd
    for i in range(config.n_layer):
        for part in HEADS:
            zero = np.zeros((H, C // H), np.float32)
            params.setdefault(f"blocks_{i}/sa/heads/{part}/bias", zero)
    if (c_V := params.pop("lm_head/bias", None)) is not None:
        g_C, b_C, W_CxV = (params[n] for n in ("ln_f/scale", "ln_f/bias", "lm_head/kernel"))
        params["ln_f/bias"], params["lm_head/kernel"] = fold.fold(g_C, b_C, W_CxV, c_V)
    return Family(config, vocab_size), params


def require_expressible(config: ModelConfig) -> None:
    """Refuse, with the reason, a model that GPT-2's architecture cannot express."""
    if config.kind != "gpt":
        raise UserError(
            f"model.kind={config.kind!r} is none that GPT-2's architecture can express: it has "
            "position embeddings, whole blocks of attention and feed-forward, and ln_f before "
            "lm_head, as model.kind='gpt' has"
        )


def read_config(said: Any) -> Family:
    """The model that a config.json describes; UserError: it is another, or out of bounds."""
    if not isinstance(said, dict) or said.get("model_type") != "gpt2":
        kind = said.get("model_type") if isinstance(said, dict) else said
        raise UserError(f"model_type={kind!r:.60} is not gpt2, the only one that is read")
    for name, must in FIXED.items():
        value = said.get(name, must)
        if type(value) not in (bool, int, float) or value != must:
            raise UserError(f"{name}={value!r:.60} has no counterpart here, only {must!r} has")
    asked = {name: said.get(name, default) for name, default in DEFAULTS.items()}
    activation = asked["activation_function"]
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UserError(f"activation_function={activation!r:.60} is none of {known}")
    V, tied, C = asked["vocab_size"], asked["tie_word_embeddings"], asked["n_embd"]
    if type(V) is not int or SIZE.must_be(V):
        raise UserError(f"vocab_size={V!r:.60} must be an integer, {SIZE.low} to {SIZE.high:,}")
    if type(tied) is not bool:
        raise UserError(f"tie_word_embeddings={tied!r:.60} must be true or false")
    model = ModelConfig(
        block_size=asked["n_positions"],
        n_layer=asked["n_layer"],
        n_head=asked["n_head"],
        n_embd=C,
        dropout=asked["resid_pdrop"],
        activation=ACTIVATIONS[activation],
        tie_lm_head=tied,
        scale_residual=True,
        qkv_bias=True,
        lm_head_bias=tied,  # a tied head has none, whatever this says
        compute_dtype="float32",  # as transformers computes it
    )
    if asked["n_inner"] not in (None, 4 * C):
        raise UserError(f"n_inner={asked['n_inner']!r:.60} is not 4 x n_embd={4 * C}, or null")
    notes = tuple(
        f"{name}={asked[name]!r:.40} has no counterpart: {what} (it concerns training alone)"
        for name, ours, what in (
            ("attn_pdrop", model.dropout, f"model.dropout={model.dropout} is resid_pdrop's"),
            ("embd_pdrop", 0.0, "embeddings are not dropped out"),
        )
        if asked[name] != ours
    )
    return Family(model, V, notes)


def write_config(family: Family, begin_id: int, end_id: int | None) -> dict[str, Any]:
    """The config.json of a model; ``end_id``: the token after which a text is over, if any."""
    c = family.config
    names = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": family.vocab_size,
        "n_positions": c.block_size,
        "n_layer": c.n_layer,
        "n_head": c.n_head,
        "n_embd": c.n_embd,
        "n_inner": None,
        "activation_function": names[c.activation],
        "attn_pdrop": c.dropout,
        "resid_pdrop": c.dropout,
        "embd_pdrop": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": c.tie_lm_head,
        **FIXED,
        "bos_token_id": begin_id,
        "eos_token_id": end_id,
        "dtype": "float32",
    }
