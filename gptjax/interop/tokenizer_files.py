"""A tokenizer in Hugging Face's files, written and read: ``tokenizer.json`` and what is beside it.

``write`` makes of each of our kinds a ``tokenizer.json`` with the same ids and texts:

- char: a table of characters, each cut off by itself. What is not in the vocabulary is refused
  there, too ("Missing [UNK] token"): no character stands for the unknown ones.
- word: a table of words, cut by the expression of ``data/plain_tokenizers.py``; id 0 the unknown.
- byte: GPT-2's alphabet of 256 visible characters for the bytes, without merges; id = byte.
- bpe: its own file.

``transformers.AutoTokenizer`` loads it with nothing of ours installed; ``GPT2Tokenizer`` would cut
it in its own way, and leave out what it lacks. ``read`` gives each of them back, and takes a
byte-level BPE of GPT-2's kind from anybody. But for what a BPE names among its added tokens, no
string within a text has a meaning of its own, on either side: "<unk>" is three pieces.
"""

import functools
import json
import re
import sys
from pathlib import Path
from typing import Any

from gptjax.data import bpe, tokenizers
from gptjax.data.bpe import BYTE_OF_CHAR, END_OF_TEXT
from gptjax.data.plain_tokenizers import LETTER, UNKNOWN, ByteTokenizer, Tokenizer
from gptjax.errors import UserError
from gptjax.runtime.atomic_files import parse_json, read_small, write_whole

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
VOCABULARY, MERGES, ADDED = "vocab.json", "merges.txt", "added_tokens.json"
MOST_BYTES = bpe.MOST_JSON  # of one file
_ANY = r"[\s\S]"  # one character, a new line too
_DECIDING = ("added_tokens", "normalizer", "pre_tokenizer", "decoder", "model")
_LETTERS = re.compile(r"(?:\\\\x\{[0-9A-F]+\}-?)+")  # as ``_piece`` writes them, in JSON


def write(folder: Path, tok: Tokenizer, block_size: int) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``; ``block_size``: the model's, tokens.

    UserError: a word vocabulary that holds the mark of the unknown words as a word.
    """
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # takes tokenizer.json as it is
        "model_max_length": block_size,
        # Without this line transformers 4 gives GPT-2 token_type_ids, and the model adds the
        # embedding of id 0 to every token's.
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,  # it takes spaces before marks away
    }
    document = _document(tok)
    for token in document["added_tokens"]:
        if token["id"] == tok.end_id:
            config |= {"bos_token": token["content"], "eos_token": token["content"]}
    for name, data in ((TOKENIZER, document), (CONFIG, config)):
        text = json.dumps(data, ensure_ascii=False, indent=2)
        write_whole(folder / name, (text + "\n").encode())


def read(folder: Path) -> Tokenizer:
    """The tokenizer of a folder: ``tokenizer.json``, else ``vocab.json`` and ``merges.txt``.

    UserError: neither is there, a file is too large or no JSON, or it is of another kind than what
    ``write`` makes and the byte-level BPE of GPT-2.
    """
    config = _fields(folder / CONFIG) if (folder / CONFIG).exists() else {}
    if config.get("add_prefix_space"):
        raise UserError(
            f"{folder / CONFIG} asks for a space before each text (add_prefix_space), which gptjax "
            "does not add: set it to false there, and begin a text with a space by hand"
        )
    if (folder / TOKENIZER).exists():
        return _understand(folder / TOKENIZER, _text(folder / TOKENIZER))
    if (folder / VOCABULARY).exists() and (folder / MERGES).exists():
        return _understand(folder / VOCABULARY, json.dumps(_of_merges(folder, config)))
    raise UserError(
        f"{str(folder)!r} has no {TOKENIZER}, and not both {VOCABULARY} and {MERGES}: save the "
        "tokenizer there, too (transformers: tokenizer.save_pretrained)"
    )


def _document(tok: Tokenizer) -> dict[str, Any]:
    """What ``tokenizer.json`` holds for a tokenizer."""
    if tok.kind == "bpe":
        return tok.to_json()["tokenizer_json"]
    if tok.kind == "byte":
        pre_tokenizer = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        }
        model = {
            "type": "BPE",
            "vocab": dict(sorted(BYTE_OF_CHAR.items(), key=lambda entry: entry[1])),
            "merges": [],
        }
        return _frame(model, pre_tokenizer, pre_tokenizer)
    table = {piece: id for id, piece in enumerate(tok.vocabulary)}
    if len(table) < tok.vocab_size:
        raise UserError(f"the vocabulary holds {UNKNOWN!r} as a word: {TOKENIZER} cannot have both")
    pre_tokenizer = {
        "type": "Split",
        "pattern": {"Regex": _ANY if tok.kind == "char" else _piece()},
        "behavior": "Isolated",
        "invert": False,
    }
    # "Fuse" joins the pieces without the spaces that stand between them by default.
    return _frame(
        {"type": "WordLevel", "vocab": table, "unk_token": UNKNOWN}, pre_tokenizer, {"type": "Fuse"}
    )


def _frame(model: dict, pre_tokenizer: dict, decoder: dict) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }


@functools.cache
def _piece() -> str:
    """The expression of words, with what this Python calls a letter written out.

    ``\\w`` is another set of characters in every library, and in every version of Unicode.
    """
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    runs = [match.span() for match in re.finditer(LETTER + "+", every)]
    letters = "".join(rf"\x{{{begin:X}}}-\x{{{end - 1:X}}}" for begin, end in runs)
    return rf"[{letters}]+(?:['\x{{2019}}][{letters}]+)*|{_ANY}"


def _understand(path: Path, text: str) -> Tokenizer:
    """Make the tokenizer that the text of a ``tokenizer.json`` describes."""
    data = _object(path, text)
    model = data.get("model")
    kind = model.get("type", "BPE") if isinstance(model, dict) else "none"
    if kind == "WordLevel" or (kind == "BPE" and model.get("vocab") == BYTE_OF_CHAR):
        tok = _ours(path, model.get("vocab"))
        if _essence(_document(tok)) == _essence(data):
            return tok
    if kind == "BPE":
        return bpe.read(text)
    raise UserError(
        f"{path}: a tokenizer of another kind ({kind!r:.40}): gptjax reads byte-level BPE as "
        "GPT-2's, and what python -m gptjax.convert --to_hf wrote, unchanged"
    )


def _ours(path: Path, vocab: Any) -> Tokenizer:
    """The tokenizer of ours that has a vocabulary: of bytes, of words or of characters."""
    if vocab == BYTE_OF_CHAR:
        return ByteTokenizer()
    ids = list(vocab.values()) if isinstance(vocab, dict) else [None]
    if any(type(id) is not int for id in ids) or sorted(ids) != list(range(len(ids))):
        raise UserError(f"{path}: the ids of its {len(ids)} tokens are not 0 to {len(ids) - 1}")
    pieces = sorted(vocab, key=vocab.__getitem__)
    if pieces[:1] == [UNKNOWN]:
        return tokenizers.from_json({"kind": "word", "vocabulary": pieces[1:]})
    return tokenizers.from_json({"kind": "char", "vocabulary": pieces})


def _essence(data: dict[str, Any]) -> str:
    """What of a ``tokenizer.json`` decides how a text is cut and put together again.

    The letters that a Python wrote out are left away: another version knows some more.
    """
    parts = [
        {key: field for key, field in part.items() if field} if isinstance(part, dict) else part
        for part in (data.get(name) or None for name in _DECIDING)
    ]
    try:
        return _LETTERS.sub("", json.dumps(parts, sort_keys=True))
    except RecursionError:
        return ""  # of nothing that was written here


def _of_merges(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The ``tokenizer.json`` of a GPT-2 that is told by its older files."""
    vocab = _fields(folder / VOCABULARY)
    # Lines end with a line feed only, and "# #" is a merge of GPT-2's, no comment.
    lines = _text(folder / MERGES).split("\n")
    lines = lines[lines[0].startswith("#version") :]
    while lines and not lines[-1].strip():
        lines.pop()
    merges = [line.rstrip("\r").split(" ") for line in lines]
    for number, merge in enumerate(merges):
        if len(merge) != 2 or "" in merge:
            raise UserError(
                f"{folder / MERGES}: merge number {number + 1}, {lines[number]!r:.60}, is not "
                "two tokens with a space between"
            )
    named = _fields(folder / ADDED) if (folder / ADDED).exists() else {}
    specials = [field for key, field in config.items() if key.endswith("_token")]
    for special in (END_OF_TEXT, *specials):
        content = special.get("content") if isinstance(special, dict) else special
        if isinstance(content, str) and content in vocab:
            named.setdefault(content, vocab[content])
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    byte_level["use_regex"] = True
    document = _frame({"type": "BPE", "vocab": vocab, "merges": merges}, byte_level, byte_level)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    document["added_tokens"] = [
        {"id": id, "content": content, **flags, "special": True} for content, id in named.items()
    ]
    return document


def _text(path: Path) -> str:
    try:
        return read_small(path, MOST_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 at byte {error.start}: fetch it again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _object(path: Path, text: str) -> dict[str, Any]:
    try:
        data = parse_json(text.encode())
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error!s:.80}): fetch it again") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} holds a {type(data).__name__}, not a JSON object")
    return data


def _fields(path: Path) -> dict[str, Any]:
    return _object(path, _text(path))
