"""Where a text ends, and how much of an unfinished one is sure to stay.

In: the ids of a row as it grows. Out: text that no later token can change or cut off, the reason
why the row stopped, and the finished ``Sample``.
"""

import dataclasses

import numpy as np

from gptjax.data.tokenizers import Tokenizer

# A character of several bytes shows as U+FFFD at the end of a text until its last byte is made.
HALF = "\ufffd"


@dataclasses.dataclass(frozen=True)
class Sample:
    """One continuation: its text without the prompt, the tokens made, and their ln P (nats).

    ``why`` it stopped: "length", "end" (an item's end token, not in the text) or "stop" (a stop
    string, cut off with what followed it).
    """

    prompt: str
    text: str
    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    why: str


class RowText:
    """One row as its text grows; ``prompt_ids`` stand before the tokens that are made.

    ``why`` it stopped is "" while it has not; ``end_id`` ends it, None but for items.
    """

    def __init__(
        self, tok: Tokenizer, prompt: str, ids: np.ndarray, stop: tuple[str, ...], items: bool
    ):
        self._tok, self._prompt, self._stop, self.prompt_ids = tok, prompt, stop, ids
        self.end_id = tok.end_id if items else None
        self._told, self._text, self._ids, self._log_probs = 0, "", ids[:0], np.zeros(0)
        self.why = ""

    def look(self, ids: np.ndarray, log_probs: np.ndarray, last: bool) -> str:
        """Take in the row so far; returns the text that became sure since the last look."""
        if self.why:
            return ""
        made, log_probs = ids[len(self.prompt_ids) :], log_probs[len(self.prompt_ids) :]
        if len(made) and made[-1] == self.end_id:
            made, self.why = made[:-1], "end"
        text = self._tok.decode(made)
        # A character half made is no U+FFFD yet that a stop string could name.
        whole = text if last or self.why else text.removesuffix(HALF)
        # Where each is complete, and where it began. The first to be complete counts: which one
        # that is does not depend on how much text there is at a look.
        found = [(at + len(stop), at) for stop in self._stop if (at := whole.find(stop)) >= 0]
        if found:
            text, self.why = text[: min(found)[1]], "stop"
            shorter = (made[:n] for n in range(len(made) + 1))
            made = next(ids for ids in shorter if self._tok.decode(ids).startswith(text))
        self.why = self.why or ("length" if last else "")
        self._text, self._ids, self._log_probs = text, made, log_probs[: len(made)]
        sure = len(text) if self.why else self._sure(text)
        new, self._told = text[self._told : sure], max(self._told, sure)
        return new

    def _sure(self, text: str) -> int:
        """How much of an unfinished text no later token can change or cut off."""
        whole = text.removesuffix(HALF)
        # A stop string may have begun: its first n characters are the last ones so far.
        begun = [n for stop in self._stop for n in range(1, len(stop)) if whole.endswith(stop[:n])]
        return len(whole) - max(begun, default=0)

    def sample(self) -> Sample:
        """The finished row."""
        log_probs = tuple(round(float(p), 6) for p in self._log_probs)
        return Sample(self._prompt, self._text, tuple(self._ids.tolist()), log_probs, self.why)
