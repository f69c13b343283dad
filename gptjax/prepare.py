"""Turn a text that is larger than memory into files of its tokens, which a run reads as it needs.

    python -m gptjax.prepare --path=corpus.txt --out=tokens/corpus
    python -m gptjax.prepare --path=corpus.txt --out=tokens/words --tokenizer=word --min_count=20
    python -m gptjax.prepare --path=corpus.txt --out=tokens/pairs --tokenizer=bpe --vocab_size=4096
    python -m gptjax.prepare --verify=tokens/corpus

In: a UTF-8 file, of which a few blocks at a time are in memory. Out: a folder for data.path, with
the tokens that the text itself would give a run. See data/token_files.py for what is in it.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np

from gptjax.cli import main as cli
from gptjax.config.schema import TOKENIZERS, TokenizerConfig
from gptjax.data import bpe, token_files, tokenizers
from gptjax.data.splits import train_characters
from gptjax.data.text_file import expand, stream_text
from gptjax.data.tokenizers import Tokenizer
from gptjax.errors import UserError
from gptjax.monitoring.console import Terminal
from gptjax.runtime import devices
from gptjax.runtime.pace import Busy, Told

MOST_WORKERS = 4  # processes beside the first: each takes 60 MB and more
WORTH_WORKERS = 2**24  # bytes of a text: a smaller one is done before they have started
LEARNT_FROM = 2**26  # bytes of a text that byte pairs are learnt from: more teach them little
PROBED = 2**20  # characters that say how many tokens there will be


def prepare(
    path: str, out: str, config: TokenizerConfig, told: Told, n_workers: int | None = None
) -> token_files.Prepared:
    """Write the tokens of a text file into a folder, unless it has them, and open that.

    The file is read twice, first for the vocabulary, with the help of ``n_workers`` processes;
    None: of as many as are of use. Byte pairs are learnt from a sample of the training split, parts
    evenly spread over it, at most ``LEARNT_FROM`` bytes.

    Raises:
      UserError: no text, or no vocabulary of it; a folder with other files; too little room on the
        disk, which is seen before anything is written.
      OSError: the disk is full or broken. Nothing is left of what was written.
    """
    folder, is_done = expand(out), token_files.has_contents(expand(out))
    first, again = hashlib.sha256(), hashlib.sha256()
    texts = _texts(path, config.kind, first, functools.partial(told, "reading the text"))
    opening, size = next(texts), os.path.getsize(expand(path))  # in this order: it can be read
    if n_workers is None:
        helps = size >= WORTH_WORKERS and config.kind != "bpe"  # which has threads of its own
        n_workers = min(MOST_WORKERS, devices.cpu_count()) if helps else 1
    texts = itertools.chain([opening], texts)
    if config.kind == "bpe":
        tok, characters, n_tokens = _learn(config, texts, size, told)
    else:
        tok, characters, n_tokens = _count(config, texts, size, n_workers)
    n_train, sha256 = train_characters(characters), first.hexdigest()
    dtype = token_files.DTYPES[tok.vocab_size > 2**16]
    asked = {"min_count": config.min_count, "vocab_size": config.vocab_size}
    if is_done:
        held = token_files.open_folder(out)
        same = (held.min_count, held.vocab_size) == tuple(asked.values())
        if same and (held.sha256, held.tokenizer) == (sha256, tok):
            return held
        raise UserError(f"{out!r} holds the tokens of another text or tokenizer: name another")
    said = {"name": expand(path).name, "sha256": sha256, "dtype": dtype}
    said |= {**asked, "tokenizer": tok.to_json()}
    with token_files.Writer(folder, said, n_tokens) as writer:
        texts = _texts(path, config.kind, again, functools.partial(told, "writing the tokens"))
        ids, n_bytes = functools.partial(_ids, tok, dtype), dict.fromkeys(token_files.SPLITS, 0)
        sized = ((split, len(part.encode()), part) for split, part in _parts(texts, n_train))
        beside = (((split, n), part) for split, n, part in sized)
        for (split, n), part in _in_order(n_workers, ids, beside):
            writer.write(split, part)
            n_bytes[split] += n
        if again.digest() != first.digest():
            raise UserError(f"{path!r} was changed while it was read: start again")
        sizes = {"train": n_train, "val": characters - n_train}
        writer.finish({split: (n, n_bytes[split]) for split, n in sizes.items()})
    return token_files.open_folder(out)


Made = tuple[Tokenizer, int, int]  # a text's tokenizer, its characters, about how many tokens


def _count(config: TokenizerConfig, texts: Iterable[str], size: int, n_workers: int) -> Made:
    """The tokenizer of a text's characters, words or bytes; ``size``: bytes of its file."""
    pieces: collections.Counter[str] = collections.Counter()
    characters, count = 0, functools.partial(tokenizers.count_pieces, config.kind)
    for n, found in _in_order(n_workers, count, ((len(text), text) for text in texts)):
        pieces.update(found)
        characters += n
    n_tokens = {"char": characters, "byte": size}.get(config.kind) or pieces.total()
    return tokenizers.of_pieces(config, pieces), characters, n_tokens


def _learn(config: TokenizerConfig, texts: Iterable[str], size: int, told: Told) -> Made:
    """Byte pairs of a sample of a text's training split, and the rest as of ``_count``."""
    sample, taken, read, characters = [], 0, 0, 0  # parts as bytes, each with where it begins
    for text in texts:
        part = text.encode()
        if taken <= read * min(1, LEARNT_FROM / size):
            sample.append((characters, part))
            taken += len(part)
        read, characters = read + len(part), characters + len(text)
    n_train = train_characters(characters)
    kept = [part.decode()[: n_train - begin] for begin, part in sample if begin < n_train]
    parts = itertools.chain.from_iterable(map(bpe.parts, kept))
    busy = functools.partial(told, "learning byte pairs")
    tok = tokenizers.learn(config, parts, sum(map(len, kept)), busy)
    some = kept[0][:PROBED]
    return tok, characters, int(1.1 * characters * len(tok.encode(some)) / len(some))


def _texts(path: str, kind: str, digest: Any, told: Busy) -> Iterator[str]:
    """A text in pieces, of which ``digest`` takes the sum and ``told`` hears."""

    def read() -> Iterator[str]:
        for text, share in stream_text(path, at_space=kind in ("word", "bpe")):
            digest.update(text.encode())
            told(share, 1)
            yield text

    return bpe.cut_again(read()) if kind == "bpe" else read()


def _parts(texts: Iterable[str], left: int) -> Iterator[tuple[str, str]]:
    """Pieces of a text, each with its split; ``left``: characters of train."""
    for text in texts:
        for split, part in (("train", text[:left]), ("val", text[left:])):
            if part:
                yield split, part
        left = max(0, left - len(text))


def _ids(tok: Tokenizer, dtype: str, text: str) -> np.ndarray:
    return tok.encode(text).astype(dtype)


def _in_order(
    n_workers: int, work: Callable[[str], Any], texts: Iterable[tuple[Any, str]]
) -> Iterator[tuple[Any, Any]]:
    """``work`` on each text by so many processes: the results in order, beside what texts had.

    Few texts are taken ahead of the results, so that no more of them are in memory. UserError where
    the system ends a process.
    """
    if n_workers < 2:
        yield from ((beside, work(text)) for beside, text in texts)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would copy locks that threads hold
    pool, ahead = ProcessPoolExecutor(n_workers, spawn, _start, (work,)), collections.deque()
    try:
        for beside, text in texts:
            ahead.append((beside, pool.submit(_work, text)))
            if len(ahead) > 2 * n_workers:
                beside, future = ahead.popleft()
                yield beside, future.result()
        yield from ((beside, future.result()) for beside, future in ahead)
    except BrokenProcessPool as error:
        why = "a worker was ended from outside, as for want of memory"
        raise UserError(f"{why}: start again, on a machine with more free memory") from error
    finally:
        pool.shutdown(cancel_futures=True)


_doing: Callable[[str], Any]  # of a worker process: what it does with every text


def _start(work: Callable[[str], Any]) -> None:
    """A worker's beginning."""
    global _doing
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first process's to obey
    _doing = work


def _work(text: str) -> Any:
    return _doing(text)


def main(args: Any) -> int:
    """Write the tokens of a text, or look whether what was written is still the same."""
    if bool(args.verify) == bool(args.path) or bool(args.path) != bool(args.out):
        raise UserError("give --path (a text) and --out (a folder), or --verify (such a folder)")
    with Terminal() as terminal:
        if args.verify:
            told = functools.partial(terminal.busy, "verifying")
            found = token_files.verify(args.verify, told)
        else:
            config = TokenizerConfig(args.tokenizer, args.min_count, args.vocab_size)
            found = prepare(args.path, args.out, config, terminal.busy)
        kind, V = found.tokenizer.kind, found.tokenizer.vocab_size
        sizes = ", ".join(f"{split} {len(t.tokens):,}" for split, t in found.splits.items())
        state = "undamaged" if args.verify else "complete"
        files = f"{len(found.shards)} shards of {found.dtype}, {state}"
        if (
            kind == "bpe"
            and args.path
            and (size := os.path.getsize(expand(args.path))) > LEARNT_FROM
        ):
            part = f"{LEARNT_FROM / size:.1%} of the text, parts evenly spread over it"
            terminal.note(f"the byte pairs were learnt from {part}")
        terminal.note(f"{found.name}: {kind}, vocabulary {V:,}; {sizes}; {files}")
        if args.out:
            fields = f"--config.data.path={args.out} --config.tokenizer.kind={kind}"
            if found.min_count > 1:
                fields += f" --config.tokenizer.min_count={found.min_count}"
            if found.vocab_size:
                fields += f" --config.tokenizer.vocab_size={found.vocab_size}"
            terminal.note(f"to learn from it: python -m gptjax.train --config=gpt {fields}")
    return 0


FLAGS = [
    cli.Flag("path", "", "a UTF-8 text file of any size"),
    cli.Flag("out", "", "the folder to write; new, empty, or one that holds these tokens already"),
    cli.Flag("tokenizer", "char", "what one token is", choices=TOKENIZERS),
    cli.Flag("min_count", 1, "word only: rarer words become the unknown token"),
    cli.Flag("vocab_size", 0, "bpe only: tokens at most; 0 is the config's default"),
    cli.Flag("verify", "", "instead: a folder, each byte of which is compared with its sums"),
]

if __name__ == "__main__":
    cli.run(main, about=__doc__, flags=FLAGS)
