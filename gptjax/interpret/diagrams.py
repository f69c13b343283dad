"""The notes' diagrams of a model: what each box computes, of which shape, with which parameters.

In: a config, its model and parameters. Out: ``Diagram``s, from the whole model to one attention;
a box names its parameters and the line of ``gptjax/models`` that does it. Source: page 10.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from importlib import resources
from typing import Any

from gptjax.config.schema import ATTENTION_MODELS, Config
from gptjax.monitoring.param_table import ParamRow, model_rows

Shape = tuple[tuple[str, int], ...]  # an axis by its letter, and how long it is

# What one box does, as it stands in the file: (file, how its line begins).
_LINES = {
    "tok_emb": ("gpt.py", "tok_emb = self.token_embedding_table(x_BxT)"),
    "pos_emb": ("gpt.py", "pos_emb = self.position_embedding_table(positions)"),
    "x": ("gpt.py", "return tok_emb + pos_emb"),
    "blocks": ("gpt.py", "x_BxTxC = block(x_BxTxC, train)"),
    "ln_f": ("gpt.py", "x = self.ln_f(x_BxTxC)"),
    "lm_head": ("gpt.py", "logits = self.lm_head(x)"),
    "lm_head, tied": ("gpt.py", "logits = self.precision.matmul(x, self.token_embedding_table"),
    "loss": ("loss.py", "def token_nats("),
    "ln1": ("gpt.py", "x_BxTxC = x_BxTxC + self.sa(self.ln1(x_BxTxC), train)"),
    "ln2": ("gpt.py", "x_BxTxC = x_BxTxC + self.ffwd(self.ln2(x_BxTxC), train)"),
    "sa": ("gpt.py", "return self.mix(self.heads(x_BxTxC, train), train)"),
    "fc": ("gpt.py", "x = ACTIVATIONS[self.activation](self.fc("),
    "ffwd.proj": ("gpt.py", "x = nn.Dropout(self.dropout)(self.proj(x)"),
    "key": ("gpt.py", "k = self.key(x_BxTxC)"),
    "query": ("gpt.py", "q = self.query(x_BxTxC)"),
    "value": ("gpt.py", "v = self.value(x_BxTxC)"),
    "scores": ("gpt.py", "wei_BxTxS = self.precision.matmul(q, k.swapaxes(-2, -1))"),
    "mask": ("gpt.py", "wei_BxTxS = jnp.where(self.tril[:T, :T], wei_BxTxS, -jnp.inf)"),
    "softmax": ("gpt.py", "wei_BxTxS = nn.softmax("),
    "gather": ("gpt.py", "return self.precision.matmul(wei_BxTxS, v)"),
    "sa.proj": ("gpt.py", "out = self.proj(out_BxTxHxK.reshape(B * T, H * K))"),
    "rung tok_emb": ("rungs.py", "tok_emb = nn.Embed("),
    "rung pos_emb": ("rungs.py", "pos_emb = nn.Embed("),
    "rung x": ("rungs.py", "x = tok_emb(x_BxT) + pos_emb("),
    "rung sa": ("rungs.py", "x = sa(x, train)"),
    "rung ffwd": ("rungs.py", "x = FeedForward("),
    "rung lm_head": ("rungs.py", "return nn.Dense(self.vocab_size"),
    "bigram": ("bigram.py", "return nn.Embed(V, V,"),
    "embed tok_emb": ("bigram.py", "tok_emb = nn.Embed("),
    "embed pos_emb": ("bigram.py", "pos_emb = nn.Embed("),
    "embed x": ("bigram.py", "x = tok_emb(x_BxT) + pos_emb("),
    "embed lm_head": ("bigram.py", "return nn.Dense(self.vocab_size"),
    "context": ("ngram.py", "def contexts("),
    "ngram": ("ngram.py", "return table(contexts("),
    "window": ("mlp.py", "padded = jnp.pad(x_BxT,"),
    "mlp emb": ("mlp.py", "emb = nn.Embed(V, C,"),
    "concat": ("mlp.py", "h = jnp.concatenate("),
    "hidden": ("mlp.py", "h = nn.tanh(nn.Dense("),
    "mlp lm_head": ("mlp.py", "return nn.Dense(V,"),
}


@dataclasses.dataclass(frozen=True)
class Box:
    """A step of a model: its name and formula as the code has them, what comes out of it.

    ``params``: path, shape and number of one of its ``times`` copies. ``file``, ``line``, ``code``:
    where it is done. ``opens``: the diagram that shows what is in it.
    """

    name: str
    formula: str
    shape: Shape
    params: tuple[ParamRow, ...] = ()
    times: int = 1
    file: str = ""
    line: int = 0
    code: str = ""
    opens: str = ""

    @property
    def count(self) -> int:
        """How many parameters it holds, in all its copies."""
        return self.times * sum(n for *_, n in self.params)


@dataclasses.dataclass(frozen=True)
class Diagram:
    """Boxes from top to bottom, those of a row side by side.

    ``skips``: (from, to) rows between which a residual path goes past the rows in between.
    """

    name: str  # model, block or attention
    rows: tuple[tuple[Box, ...], ...]
    skips: tuple[tuple[int, int], ...] = ()

    @property
    def count(self) -> int:
        """The parameters of all its boxes."""
        return sum(box.count for row in self.rows for box in row)


@functools.cache
def line_of(what: str) -> tuple[str, int, str]:
    """File, number and text of the line of ``gptjax/models`` that does ``what``.

    Raises:
      LookupError: no line, or more than one, begins as ``_LINES`` says.
    """
    name, begins = _LINES[what]
    lines = (resources.files("gptjax.models") / name).read_text("utf-8").splitlines()
    found = [i for i, line in enumerate(lines, 1) if line.strip().startswith(begins)]
    # Of equal lines of a file the first: the notes' own comes before what is built from it.
    if not found:
        raise LookupError(f"gptjax/models/{name} has no line {begins!r}")
    return f"gptjax/models/{name}", found[0], lines[found[0] - 1].strip()


class _Maker:
    """Makes the boxes of one model: it knows the sizes of the axes and the parameters."""

    def __init__(self, config: Config, model: Any, params: Any):
        self.rows = model_rows(params)
        self.model, self.kind = model, config.model.kind
        sizes = {"B": config.train.batch_size, "V": model.vocab_size}
        sizes["T"] = config.train.window or model.block_size
        c = config.model
        if c.kind not in ("bigram", "ngram"):
            sizes["C"] = c.n_embd
        if c.kind in ATTENTION_MODELS:
            n_head = 1 if c.kind == "head" else c.n_head
            sizes |= {"H": n_head, "K": c.n_embd // n_head, "F": 4 * c.n_embd}
        if c.kind == "mlp":
            sizes |= {"n·C": c.block_size * c.n_embd, "F": c.n_hidden}
        self.sizes = sizes

    def owned(self, *prefixes: str) -> tuple[ParamRow, ...]:
        """The parameters below these paths."""
        return tuple(row for row in self.rows if row[0].startswith(prefixes))

    def box(
        self,
        name: str,
        formula: str,
        axes: Sequence[str],
        what: str = "",
        params: tuple[ParamRow, ...] = (),
        **more: Any,
    ) -> Box:
        """A box that gives an array with these ``axes``, done where ``_LINES`` says of ``what``."""
        where = line_of(what) if what else ("", 0, "")
        shape = tuple((axis, self.sizes[axis]) for axis in axes)
        return Box(name, formula, shape, params, more.pop("times", 1), *where, **more)

    def ends(self) -> tuple[tuple[Box, ...], tuple[Box, ...]]:
        """The first row and the last: tokens in; their loss, or the next token, out."""
        said = "cross_entropy(logits, targets)"
        return (self.box("idx", "", "BT"),), (self.box("loss", said, "BT", "loss"),)


def diagrams(config: Config, model: Any, params: Any) -> list[Diagram]:
    """The diagrams of a model, the whole one first: its counts add up to those of the model."""
    make = _Maker(config, model, params)
    kind = config.model.kind
    if kind == "gpt":
        return [_gpt(make), _block(make), _attention(make, "blocks_0/sa/", "x = ln1(x)")]
    if kind in ATTENTION_MODELS:
        return [_rung(make), _attention(make, "sa/", "x = tok_emb + pos_emb")]
    whole = {"mlp": _mlp, "bigram_embed": _bigram_embed, "ngram": _table, "bigram": _table}
    return [whole[kind](make)]


def _gpt(make: _Maker) -> Diagram:
    model, (first, last) = make.model, make.ends()
    tok, pos = "token_embedding_table", "position_embedding_table"
    head = make.owned("lm_head/")
    tied = model.tie_lm_head
    return Diagram(
        "model",
        (
            first,
            (
                make.box("tok_emb", tok, "BTC", "tok_emb", make.owned(tok)),
                make.box("pos_emb", pos, "TC", "pos_emb", make.owned(pos)),
            ),
            (make.box("x", "tok_emb + pos_emb", "BTC", "x"),),
            (
                make.box(
                    "Block",
                    "x = block(x)",
                    "BTC",
                    "blocks",
                    make.owned("blocks_0/"),
                    times=model.n_layer,
                    opens="block",
                ),
            ),
            (make.box("ln_f", "LayerNorm(x)", "BTC", "ln_f", make.owned("ln_f/")),),
            (
                make.box(
                    "lm_head",
                    f"x @ {tok}ᵀ" if tied else "Linear(x)",
                    "BTV",
                    "lm_head, tied" if tied else "lm_head",
                    head,
                ),
            ),
            last,
        ),
    )


def _block(make: _Maker) -> Diagram:
    of, model = "blocks_0/", make.model
    return Diagram(
        "block",
        (
            (make.box("x", "", "BTC"),),
            (make.box("ln1", "LayerNorm(x)", "BTC", "ln1", make.owned(of + "ln1/")),),
            (
                make.box(
                    "sa",
                    "MultiHeadAttention",
                    "BTC",
                    "sa",
                    make.owned(of + "sa/"),
                    opens="attention",
                ),
            ),
            (make.box("+", "x + sa(ln1(x))", "BTC", "ln1"),),
            (make.box("ln2", "LayerNorm(x)", "BTC", "ln2", make.owned(of + "ln2/")),),
            *_feed_forward(make, of + "ffwd/", model.activation),
            (make.box("+", "x + ffwd(ln2(x))", "BTC", "ln2"),),
        ),
        ((0, 3), (3, 7)),
    )


def _feed_forward(make: _Maker, of: str, activation: str) -> tuple[tuple[Box, ...], ...]:
    """Its two layers, a row each."""
    said = f"{activation}(Linear(x))"
    return (
        (make.box("ffwd.fc", said, "BTF", "fc", make.owned(of + "fc/")),),
        (make.box("ffwd.proj", "Linear(x)", "BTC", "ffwd.proj", make.owned(of + "proj/")),),
    )


def _attention(make: _Maker, of: str, x: str) -> Diagram:
    single = make.kind == "head"
    heads = of if single else of + "heads/"
    many, square = ("BTK", "BTT") if single else ("BHTK", "BHTT")
    rows = [
        (make.box("x", x, "BTC"),),
        tuple(
            make.box(name, f"{name[0]} = Linear(x)", many, name, make.owned(f"{heads}{name}/"))
            for name in ("query", "key", "value")
        ),
        (make.box("wei", "q @ kᵀ / √K", square, "scores"),),
        (make.box("mask", "wei[tril == 0] = −∞", square, "mask"),),
        (make.box("softmax", "softmax(wei)", square, "softmax"),),
        (make.box("out", "wei @ v", many, "gather"),),
    ]
    if not single:
        proj = make.owned(of + "proj/")
        rows.append((make.box("proj", "Linear(concat(heads))", "BTC", "sa.proj", proj),))
    return Diagram("attention", tuple(rows), ((1, 5),))


def _embedded(make: _Maker, prefix: str) -> tuple[tuple[Box, ...], ...]:
    """The rows of tok_emb + pos_emb of a small model, whose lines begin with ``prefix``."""
    tok, pos = "token_embedding_table", "position_embedding_table"
    return (
        (
            make.box("tok_emb", tok, "BTC", f"{prefix} tok_emb", make.owned(tok)),
            make.box("pos_emb", pos, "TC", f"{prefix} pos_emb", make.owned(pos)),
        ),
        (make.box("x", "tok_emb + pos_emb", "BTC", f"{prefix} x"),),
    )


def _rung(make: _Maker) -> Diagram:
    first, last = make.ends()
    model, name = make.model, "Head" if make.kind == "head" else "MultiHeadAttention"
    sa = make.box("sa", name, "BTC", "rung sa", make.owned("sa/"), opens="attention")
    ffwd = _feed_forward(make, "ffwd/", model.activation) if make.kind == "ffwd" else ()
    head = make.box("lm_head", "Linear(x)", "BTV", "rung lm_head", make.owned("lm_head/"))
    return Diagram("model", (first, *_embedded(make, "rung"), (sa,), *ffwd, (head,), last))


def _bigram_embed(make: _Maker) -> Diagram:
    first, last = make.ends()
    head = make.box("lm_head", "Linear(x)", "BTV", "embed lm_head", make.owned("lm_head/"))
    return Diagram("model", (first, *_embedded(make, "embed"), (head,), last))


def _table(make: _Maker) -> Diagram:
    first, last = make.ends()
    name, n, rows = "token_embedding_table", make.model.block_size, [first]
    if make.kind == "ngram":
        said = ", ".join(f"idx[t - {i}]" if i else "idx[t]" for i in range(n)[::-1])
        rows.append((make.box("context", said, "BT", "context"),))
    what, said = (
        ("ngram", f"{name}[context]") if make.kind == "ngram" else ("bigram", f"{name}[idx]")
    )
    rows.append((make.box("logits", said, "BTV", what, make.owned(name)),))
    return Diagram("model", (*rows, last))


def _mlp(make: _Maker) -> Diagram:
    first, last = make.ends()
    model, tok = make.model, "token_embedding_table"
    n = model.block_size
    hidden = (
        make.box(f"hidden_{i}", "tanh(Linear(h))", "BTF", "hidden", make.owned(f"hidden_{i}/"))
        for i in range(model.n_layer)
    )
    concat = make.box("h", f"concat(emb[t - {n - 1} … t])", ("B", "T", "n·C"), "concat")
    head = make.box("lm_head", "Linear(h)", "BTV", "mlp lm_head", make.owned("lm_head/"))
    return Diagram(
        "model",
        (
            first,
            (make.box("padded", f"pad(idx, {n - 1})", "BT", "window"),),
            (make.box("emb", tok, "BTC", "mlp emb", make.owned(tok)),),
            (concat,),
            *((box,) for box in hidden),
            (head,),
            last,
        ),
    )
