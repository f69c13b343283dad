"""The answers of ``/v1/completions``, part by part; an answer that is not streamed is their sum.

In: a run and a checked request. Out: ``Part``s of its texts, and at last a ``Usage``; in between
None, when a turn is over without one. To be run in the worker's thread.
"""

import bisect
from collections.abc import Iterator

import numpy as np

from gptjax.checkpoints.run import Run
from gptjax.data.tokenizers import Tokenizer
from gptjax.generation import generate
from gptjax.generation.generate import Piece
from gptjax.serving import scoring
from gptjax.serving.completion_request import CompletionRequest, Part, Usage

GROUP_ROWS = 8  # are made together: their caches are in memory at the same time
LOOK_EVERY = 32  # tokens of a turn, where nobody waits to read them
REASONS = {"length": "length", "stop": "stop", "end": "stop"}


def parts(run: Run, asked: CompletionRequest) -> Iterator[Part | Usage | None]:
    """Answer a request: choice number p * n + s is sample s of prompt p.

    UserError, before the first part: a prompt or setting that the run cannot take.
    """
    settings = run.settings(
        max(asked.max_tokens, 1),
        temperature=float(asked.temperature),
        top_k=asked.top_k,
        top_p=None if asked.top_p == 1 else asked.top_p,
        min_p=asked.min_p,
        repetition_penalty=asked.repetition_penalty,
        stop=asked.stop,
    )
    prompts = [p if isinstance(p, str) else np.array(p, np.int32) for p in asked.prompt]
    read = [generate.prompt_ids(run.tokenizer, p, run.items) for p in prompts]
    hidden = [int(run.items or not len(p)) for p in prompts]  # what stands before a beginning
    of_row = [p for p in range(len(prompts)) for _ in range(asked.n)]
    rows = [_Row(run, asked, i, read[p], hidden[p]) for i, p in enumerate(of_row)]
    key_R = generate.row_keys(asked.seed, len(prompts), asked.n)
    made = 0
    for first in range(0, len(rows), GROUP_ROWS):
        group = rows[first : first + GROUP_ROWS]
        for row in group if asked.echo else []:
            yield from row.prompt()
        if not asked.max_tokens:
            yield from (Part(row.index, "", None, "length") for row in group)
            continue
        # As many rows as a power of two, each with its program: the last ones are not shown.
        full = [i % len(group) for i in range(1 << (len(group) - 1).bit_length())]
        texts = [prompts[of_row[first + i]] for i in full]
        every = generate.STREAM_TOKENS if asked.stream else LOOK_EVERY
        keys = key_R[first + np.array(full)]
        stream = generate.stream(run.model, run.params, run.tokenizer, texts, keys, settings, every)
        for piece in stream:
            if piece.row < len(group):
                yield from group[piece.row].more(piece)
                made += len(piece.sample.ids) if piece.sample else 0
    yield Usage(sum(map(len, read)) - sum(hidden), made)


class _Row:
    """One choice as it grows; ``read`` are the tokens before it, of which the first are hidden."""

    def __init__(
        self, run: Run, asked: CompletionRequest, index: int, read: np.ndarray, hidden: int
    ):
        self.index, self._run, self._asked = index, run, asked
        self._n_read, self._prompt = len(read), run.tokenizer.decode(read[hidden:])
        known = hidden if asked.echo and asked.logprobs is not None else self._n_read
        self._ids: list[int] = read[:known].tolist()
        self._starts = [0] * known  # where each token begins in the text; of what echo shows
        self._whole, self._decode = 0, run.tokenizer.decoder()
        self._grow(read[known:])
        self._whole, self._decode = len(self._prompt), run.tokenizer.decoder()
        self._sure = self._whole  # characters that stay
        self._shown = hidden if asked.echo else self._n_read  # tokens whose ln P were given

    def prompt(self) -> Iterator[Part | None]:
        """What echo shows."""
        yield from self._part(self._prompt, self._n_read)

    def more(self, piece: Piece) -> Iterator[Part | None]:
        """A piece of what is made, as a part."""
        sample, n = piece.sample, self._n_read
        if self._asked.logprobs is not None or self._asked.return_token_ids:
            self._sure += len(piece.text)
            self._grow(piece.ids)
            n = n + len(sample.ids) if sample else self._n_sure()
        yield from self._part(piece.text, n, sample and REASONS[sample.why])

    def _grow(self, ids: np.ndarray) -> None:
        """Take in tokens that follow, and where they begin in the text."""
        for id in ids:
            self._ids.append(int(id))
            self._starts.append(self._whole)
            self._whole += len(self._decode(np.array([id]), False))

    def _n_sure(self) -> int:
        """How many tokens begin before the end of what is sure: no stop string cuts them off."""
        return max(self._shown, bisect.bisect_left(self._starts, self._sure, self._n_read))

    def _part(self, text: str, n: int, why: str | None = None) -> Iterator[Part | None]:
        """Text, and the first ``n`` tokens and their ln P as far as they were not shown."""
        begin, self._shown = self._shown, max(n, self._shown)
        ids = self._ids[begin:n] if self._asked.return_token_ids else None
        if (most := self._asked.logprobs) is None:
            yield Part(self.index, text, None, why, ids)
            return
        found: list[scoring.Score | None] = [None] if begin == 0 < n else []  # nothing is before it
        if (first := begin + len(found)) < n:
            for some in scoring.scores(self._run, np.array(self._ids[:n]), first, n):
                found += some
                yield None
        shown = slice(begin, n)
        yield Part(self.index, text, self._logprobs(shown, found, most), why, ids)

    def _logprobs(self, shown: slice, found: list[scoring.Score | None], most: int) -> dict:
        name = [token_name(self._run.tokenizer, id) for id in self._ids[shown]]
        likeliest: list[dict[str, float] | None] = []
        for token, score in zip(name, found, strict=True):
            likeliest.append(score and {})
            for id, log_prob in score.likeliest[:most] if score else []:
                # Of tokens that look alike the likelier one.
                likeliest[-1].setdefault(token_name(self._run.tokenizer, id), log_prob)
            if score:
                likeliest[-1].setdefault(token, score.log_prob)
        return {
            "tokens": name,
            "token_logprobs": [score and score.log_prob for score in found],
            "top_logprobs": likeliest,
            "text_offset": self._starts[shown],
        }


def token_name(tok: Tokenizer, id: int) -> str:
    """A token as OpenAI's API names it: its text, or the bytes of which it is no whole text."""
    data = tok.token_bytes(id)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
