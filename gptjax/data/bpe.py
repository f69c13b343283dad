"""Byte pairs: tokens of several bytes, learnt from a text by joining what stands together most.

In: a text; or the tokenizer.json of one learnt elsewhere, GPT-2's for example, which is checked.
Out: a ``BPETokenizer``. The only file that knows ``tokenizers``, and only where a text is learnt
from or encoded: what its tokens stand for is a table of bytes. Source: Sennrich et al. 2016;
Radford et al. 2019 (bytes, and the pattern of words that no token goes over).
"""

import itertools
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gptjax.data.plain_tokenizers import BytesTokenizer, as_utf8
from gptjax.errors import UserError, is_utf8

END_OF_TEXT = "<|endoftext|>"
MOST_JSON, MOST_TOKENS = 2**25, 2**20  # characters of a tokenizer.json; a model has no more ids
LONGEST, LONGEST_READ = 128, 1024  # bytes of a token: as in GPT-2; a stranger's
TWICE = 2  # a pair that came only once is not learnt
_PART, _PARTS = 2**16, 16  # characters that are encoded at once, by how many threads at most
# Before white space after anything else a text can be cut: no token goes over that place.
_CUT, _LAST_CUT = re.compile(r"(?<=\S)[ \n]"), re.compile(r"(?s:.*)(?<=\S)(?=[ \n])")


def _byte_of_char() -> dict[str, int]:
    """GPT-2's way to write a byte as one visible character: a space is Ġ, a new line Ċ."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = sorted(set(range(256)) - set(visible))
    return {chr(b): b for b in visible} | {chr(256 + i): b for i, b in enumerate(others)}


BYTE_OF_CHAR = _byte_of_char()
_CHARS = set(BYTE_OF_CHAR)


@dataclass(frozen=True)
class BPETokenizer(BytesTokenizer):
    """Byte pairs; ``tokenizer_json`` is the text that ``read`` or ``train`` made, and no other."""

    tokenizer_json: str
    kind, unit, is_slow = "bpe", "token", True

    @cached_property
    def _saved(self) -> dict[str, Any]:
        return json.loads(self.tokenizer_json)

    @cached_property
    def _bytes_of_id(self) -> tuple[bytes, ...]:
        added = {token["content"]: token["id"] for token in self._saved["added_tokens"]}
        vocab = self._saved["model"]["vocab"]
        found = {i: bytes(map(BYTE_OF_CHAR.get, t)) for t, i in vocab.items() if t not in added}
        found |= {id: content.encode() for content, id in added.items()}
        return tuple(found[id] for id in range(len(found)))

    @cached_property
    def _library(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.tokenizer_json)

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        return tuple(map(self.token_text, range(self.vocab_size)))

    @property
    def vocab_size(self) -> int:
        return len(self._bytes_of_id)

    @property
    def start_id(self) -> int:
        return self.end_id

    @property
    def begin_id(self) -> int:
        """A new line: the end of a text stands in no stream, and was not learnt from one."""
        return self._saved["model"]["vocab"]["Ċ"]

    @cached_property
    def end_id(self) -> int:
        """The end of a text; a new line in a stranger's vocabulary that has no such token."""
        added = self._saved["added_tokens"]
        by_name = {token["content"]: token["id"] for token in added}
        special = [token["id"] for token in added if token["special"]]
        return by_name.get(END_OF_TEXT, next(iter(special), self.begin_id))

    @property
    def merges(self) -> list[tuple[str, str]]:
        """The pairs in the order in which they were learnt, written as tokens are shown."""
        pairs = (pair.split(" ") for pair in self._saved["model"]["merges"])
        return [tuple(_shown(bytes(map(BYTE_OF_CHAR.get, t))) for t in pair) for pair in pairs]

    def encode(self, text: str) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.int32), *self.encode_each(parts(text))])

    def encode_items(self, items: Sequence[str]) -> np.ndarray:
        end = np.array([self.end_id], np.int32)
        return np.concatenate(
            [end, *(ids for item in self.encode_each(items) for ids in (item, end))]
        )

    def encode_each(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
        """The ids of each of many texts, some of which are done at a time."""
        texts = iter(texts)
        while some := list(itertools.islice(texts, _PARTS)):
            for text in some:
                as_utf8(text)
            for one in self._library.encode_batch_fast(some, add_special_tokens=False):
                yield np.array(one.ids, np.int32)

    def _bytes(self, ids_T: np.ndarray) -> bytes:
        return b"".join(map(self._bytes_of_id.__getitem__, ids_T.tolist()))

    def token_text(self, id: int) -> str:
        """A space is shown as ␣, and half a character as its bytes."""
        return _shown(self._bytes_of_id[id])

    def as_shown(self, text: str) -> str:
        return _shown(text.encode("utf-8", "surrogatepass"))

    def is_word(self, id: int) -> bool:
        return self.token_text(id).lstrip("␣")[:1].isalnum()

    def close_up(self, text: str) -> str:
        return text

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "tokenizer_json": json.loads(self.tokenizer_json)}


def _shown(data: bytes) -> str:
    text = data.decode("utf-8", "backslashreplace").replace(" ", "␣")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def parts(text: str) -> Iterator[str]:
    """A text in pieces of some thousand characters, whose tokens are those of the whole."""
    begin = 0
    while begin < len(text):
        found = _CUT.search(text, begin + _PART)
        end = found.start() if found else len(text)
        yield text[begin:end]
        begin = end


def cut_again(texts: Iterable[str]) -> Iterator[str]:
    """Pieces of a text, cut elsewhere: where no token goes over a cut."""
    rest = ""
    for text in texts:
        rest += text
        if found := _LAST_CUT.match(rest):
            yield rest[: found.end()]
            rest = rest[found.end() :]
    yield rest


def train(texts: Iterable[str], vocab_size: int) -> BPETokenizer:
    """Learn at most ``vocab_size`` tokens, among them every byte and an end of text, the last.

    ``texts``: one text, cut as ``parts`` does; they are asked for from another thread. The same
    text gives the same tokens, however it is cut.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=TWICE,
        show_progress=False,
        initial_alphabet=sorted(BYTE_OF_CHAR),
        max_token_length=LONGEST,
    )
    _heard(lambda: made.train_from_iterator((text for text in texts if as_utf8(text)), trainer))
    made.add_special_tokens([END_OF_TEXT])
    return read(made.to_str())


def _heard(work: Callable[[], None]) -> None:
    """Do ``work``, which Python cannot interrupt, beside this thread: so Ctrl-C is heard."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="byte pairs", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
    if failed:
        raise failed[0]


def read(text: str) -> BPETokenizer:
    """The tokenizer of a tokenizer.json, whoever wrote it; UserError: none of GPT-2's kind.

    That is byte pairs over all bytes, cut by GPT-2's pattern, without any other rule: what would
    change a text, or lose a part of it, is refused.
    """
    if len(text) > MOST_JSON:
        raise _no(f"it has {len(text):,} characters, and {MOST_JSON:,} are the most")
    try:
        return of_json(json.loads(text))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise _no(
            "it is no JSON" if isinstance(error, ValueError) else "nested too deep"
        ) from error


def of_json(said: Any) -> BPETokenizer:
    """``read`` of what a tokenizer.json holds; all but what makes the tokens is left out."""
    try:
        checked = _checked(said)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _no(f"{type(error).__name__} {error!s:.60}") from error
    text = json.dumps(checked, ensure_ascii=False, separators=(",", ":"))
    if len(text) > MOST_JSON:
        raise _no(f"it has {len(text):,} characters, and {MOST_JSON:,} are the most")
    return BPETokenizer(text)


def _no(why: str) -> UserError:
    return UserError(
        f"this tokenizer.json is not one of byte pairs as GPT-2's, the only kind read here: {why}"
    )


def _checked(said: dict[str, Any]) -> dict[str, Any]:
    model, byte_level = said["model"], {"type": "ByteLevel", "trim_offsets": True}
    if model.get("type", "BPE") != "BPE":
        raise _no(f"its model is {model['type']!r:.60}")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(name):
            raise _no(f"its model has {name}={model[name]!r:.60}")
    if model.get("byte_fallback"):
        raise _no("its model has byte_fallback")
    _require_byte_level(said)
    added = [_added(token) for token in said.get("added_tokens") or []]
    added = sorted(added, key=lambda token: token["id"])
    ids = {token["content"]: token["id"] for token in added}
    if len(ids) < len(added) or any(model["vocab"].get(name, id) != id for name, id in ids.items()):
        raise _no("an added token has two ids")
    vocab = _vocab(model["vocab"], ids)
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    for pair in merges:
        left, right = pair.split(" ") if pair.count(" ") == 1 else (pair, "")
        if lacking := [token for token in (left, right, left + right) if token not in vocab]:
            raise _no(f"the merge {pair!r:.60} names {lacking[0]!r:.60}, which is no token")
    rules = {"add_prefix_space": False, **byte_level, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": rules,
        "post_processor": None,
        "decoder": rules,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }


def _require_byte_level(said: dict[str, Any]) -> None:
    """Refuse what would change a text before or after its tokens."""
    if said.get("normalizer"):
        raise _no(f"it has a normalizer, {said['normalizer']!r:.60}")
    # What a post_processor does, it does around a text: no token of ``encode``.
    for name in ("pre_tokenizer", "decoder"):
        rule = said.get(name) or {}
        if rule.get("type") != "ByteLevel":
            raise _no(f"its {name} is {rule.get('type')!r:.60}, not 'ByteLevel'")
    rule = said["pre_tokenizer"]
    if rule.get("add_prefix_space") is not False or not rule.get("use_regex", True):
        raise _no("its pre_tokenizer adds a space, or does not cut as GPT-2's")


def _added(token: dict[str, Any]) -> dict[str, Any]:
    """A token that stands in a text as it is, for itself, such as the end of a text."""
    content, id = token["content"], token["id"]
    if not isinstance(content, str) or type(id) is not int or not is_utf8(content):
        raise _no(f"the added token {content!r:.60} with id {id!r:.60} is none")
    if not 1 <= len(content.encode()) <= LONGEST_READ or re.search(r"\S\s", content):
        raise _no(f"the added token {content!r:.60} is empty, too long or goes over a space")
    if any(token.get(name) for name in ("single_word", "lstrip", "rstrip")):
        raise _no(f"the added token {content!r:.60} takes a part of the text around it")
    if set(content) <= _CHARS and not content.isascii():  # its decoder would read it as bytes
        raise _no(f"the added token {content!r:.60} is written as tokens of bytes are")
    rules = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id, "content": content, **rules, "special": bool(token.get("special"))}


def _vocab(vocab: dict[str, int], added: dict[str, int]) -> dict[str, int]:
    """The tokens in the order of their ids, which have no holes; added ones follow, or are some."""
    n = len(vocab)
    if not all(type(id) is int for id in vocab.values()):
        raise _no("a token's id is no whole number")
    later = {token: id for token, id in added.items() if token not in vocab}
    if n + len(later) > MOST_TOKENS:
        raise _no(f"it has {n + len(later):,} tokens, and {MOST_TOKENS:,} are the most")
    ids = [*sorted(vocab.values()), *later.values()]
    if ids != list(range(len(ids))):
        hole = next(i for i, id in enumerate(ids) if i != id)
        raise _no(f"its ids are not 0 to {len(ids) - 1:,}: that of id {hole:,} is missing or twice")
    if lacking := [char for char in BYTE_OF_CHAR if char not in vocab]:
        byte = BYTE_OF_CHAR[lacking[0]]
        raise _no(f"it has no token of the byte 0x{byte:02x}, so texts would lose it")
    for token in vocab:
        if token not in added and not (0 < len(token) <= LONGEST_READ and set(token) <= _CHARS):
            raise _no(f"the token {token!r:.60} is empty, too long, or not written in bytes")
    return dict(sorted(vocab.items(), key=lambda entry: entry[1]))
