"""The door texts come in by: a known corpus by name, or any UTF-8 text file by path.

In: a `DataConfig` and a seed. Out: a `Corpus`: its splits as text, where it came from, its sha256.
texts.py reads and finds the files; what is here cuts them.
"""

from __future__ import annotations

import difflib
import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from gptjax.data import corpora as texts
from gptjax.errors import UserError

KINDS = ("auto", "stream", "items")
SPLITS = ("distinct", "makemore")


@dataclass(frozen=True)
class DataConfig:
    """Which text to learn from, and how it is cut."""

    name: Annotated[str, f"a known corpus: {', '.join(texts.KNOWN)}"] = "shakespeare"
    path: Annotated[str, "a UTF-8 text file of your own; wins over name"] = ""
    kind: Annotated[
        str, "stream (one text), items (one a line), or auto: the corpus's own; a path's is stream"
    ] = "auto"
    split: Annotated[
        str, "of items: distinct (each line once), or makemore (its shuffle, repeated lines kept)"
    ] = "distinct"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"data.kind={self.kind!r:.80} is none of {', '.join(KINDS)}")
        if self.split not in SPLITS:
            raise UserError(f"data.split={self.split!r:.80} is none of {', '.join(SPLITS)}")
        if not isinstance(self.path, str):
            raise UserError(f"data.path={self.path!r:.80} must be the path of a text file, a str")
        if not self.path and self.name not in names():
            nearest = difflib.get_close_matches(str(self.name), names(), n=1, cutoff=0.0)
            raise UserError(
                f"data.name={self.name!r:.80} is none of {', '.join(names())}; did you mean "
                f"{nearest[0]!r}? A file of your own goes to data.path"
            )


@dataclass(frozen=True)
class Corpus:
    """A text, cut into splits, with its provenance."""

    name: str
    kind: str  # "stream" or "items"
    source: str
    sha256: str  # of the whole text, as read and normalised, in UTF-8
    splits: Mapping[str, str]  # stream: train, val; items: train, val, test, each item + "\n"
    n_items: Mapping[str, int] | None = None  # per split
    n_duplicates: int = 0  # items that stood there already, dropped

    @property
    def text(self) -> str:
        """The text of all splits: what a vocabulary is made of."""
        return "".join(self.splits.values())

    def facts(self) -> dict[str, Any]:
        """What a run prints and records about its data, as plain JSON types."""
        facts: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind,
            "source": self.source,
            "sha256": self.sha256,
            "characters": sum(map(len, self.splits.values())),
            "characters_per_split": {split: len(text) for split, text in self.splits.items()},
        }
        if self.n_items is not None:
            facts |= {"items_per_split": dict(self.n_items), "duplicates": self.n_duplicates}
        return facts


def names() -> tuple[str, ...]:
    """The corpora that `data.name` may name."""
    return tuple(texts.KNOWN)


def load(config: DataConfig, seed: int) -> Corpus:
    """Reads the text that a config names, fetching it if need be, and splits it.

    Args:
      config: a known name, or the path of a UTF-8 text file.
      seed: shuffles the items before they are split; a stream does not depend on it.

    Raises:
      UserError: no such file or corpus, not a text, too little of it, or a download that failed.
    """
    if config.path:
        text = texts.read_text(config.path)
        name, source, kind = Path(config.path).name, f"file {config.path}", "stream"
    else:
        text, source = texts.known_text(config.name)
        name, kind = config.name, texts.KNOWN[config.name].kind
    kind = kind if config.kind == "auto" else config.kind
    sha256 = hashlib.sha256(text.encode("utf-8")).hexdigest()
    if kind == "stream":
        return Corpus(name, kind, source, sha256, split_stream(text))
    split = {"distinct": split_items, "makemore": split_as_makemore}[config.split]
    parts, n_duplicates = split(text, seed)
    splits = {split: "".join(f"{item}\n" for item in part) for split, part in parts.items()}
    n_items = {split: len(part) for split, part in parts.items()}
    return Corpus(name, kind, source, sha256, splits, n_items, n_duplicates)


def split_stream(text: str) -> dict[str, str]:
    """Cuts a text at int(0.9 n): train before, val behind (the notes, page 3)."""
    if len(text) < 2:
        raise UserError(f"the text has {len(text)} character: 2 are the least that can be split")
    n = int(0.9 * len(text))
    return {"train": text[:n], "val": text[n:]}


def split_items(text: str, seed: int) -> tuple[dict[str, list[str]], int]:
    """Deals the distinct lines out, 80/10/10, so that no item stands in two splits.

    Args:
      text: one item a line; blank lines and white space at a line's end do not count.
      seed: of the shuffle, at least 0.

    Returns:
      The items of train, val and test, at least one in each; and how many repeated lines fell away.

    Raises:
      UserError: fewer than three distinct items.
    """
    lines, items = _lines(text, seed)
    # Sorting raw bits is a shuffle that no later numpy may change; Generator's own may.
    order = np.argsort(np.random.Philox(seed).random_raw(len(items)), kind="stable")
    shuffled = [items[i] for i in order]
    n_held = max(1, len(items) // 10)
    cut = len(items) - 2 * n_held
    splits = {
        "train": shuffled[:cut],
        "val": shuffled[cut : cut + n_held],
        "test": shuffled[cut + n_held :],
    }
    return splits, len(lines) - len(items)


def split_as_makemore(text: str, seed: int) -> tuple[dict[str, list[str]], int]:
    """Deals all lines out, repeated ones too, so that a name may stand in two splits.

    Args, returns and raises: as ``split_items``; nothing falls away. With seed 42 the splits of
    names.txt are those of makemore's part 2, to stand beside its published losses.

    Source: karpathy/makemore, part 2: ``random.shuffle``, then 80/10/10.
    """
    lines, _ = _lines(text, seed)
    random.Random(seed).shuffle(lines)
    n = len(lines)
    a = min(int(0.8 * n), n - 2)
    b = min(max(int(0.9 * n), a + 1), n - 1)
    return {"train": lines[:a], "val": lines[a:b], "test": lines[b:]}, 0


def _lines(text: str, seed: int) -> tuple[list[str], list[str]]:
    """The lines that are not blank, and the distinct ones of them."""
    lines = [line for line in map(str.rstrip, text.split("\n")) if line]
    items = list(dict.fromkeys(lines))
    if len(items) < 3:
        raise UserError(
            f"the text has {len(items)} distinct items (lines that are not blank), and train, val "
            "and test need one each: give at least 3, or use data.kind='stream'"
        )
    if seed < 0:
        raise UserError(f"seed={seed} must be at least 0")
    return lines, items


def check_length(split: str, n_tokens: int, block_size: int) -> None:
    """Refuses a split that holds no single window of block_size tokens and the one to predict.

    Raises:
      UserError: n_tokens < block_size + 1.
    """
    if n_tokens < block_size + 1:
        smaller = f", or set model.block_size to at most {n_tokens - 1}" if n_tokens > 1 else ""
        raise UserError(
            f"the {split} split has {n_tokens} tokens, and model.block_size={block_size} needs "
            f"{block_size + 1}: give more text{smaller}"
        )
