"""Where a text ends, and how much of an unfinished one is sure to stay.

In: the ids of a row as it grows. Out: text that no later token can change or cut off, the reason
why the row stopped, and the finished ``Sample``.
"""

import bisect
import dataclasses

import numpy as np

from gptjax.data.tokenizers import Tokenizer


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
        self._ids, self._log_probs = [ids[:0]], [np.zeros(0)]  # piece by piece
        self._n_told = 0  # how many pieces ``fresh`` has given
        self._told: list[str] = []  # the text that is sure
        self._held = ""  # what follows it, and may be the beginning of a stop string
        self._decode = tok.decoder()  # it holds back a character half made
        self.why = ""

    def look(self, ids: np.ndarray, log_probs: np.ndarray, last: bool) -> str:
        """Take in the tokens made since the last look; returns the text that became sure."""
        if self.why:
            return ""
        if len(ids) and ids[-1] == self.end_id:
            ids, log_probs, self.why = ids[:-1], log_probs[:-1], "end"
        self._ids.append(ids)
        self._log_probs.append(log_probs)
        self._held += self._decode(ids, last or self.why == "end")
        # Where each is complete, and where it began. The first to be complete counts: which one
        # that is does not depend on how much text there is at a look.
        places = [(stop, self._held.find(stop)) for stop in self._stop]
        if found := [(at + len(stop), at) for stop, at in places if at >= 0]:
            self._held, self.why = self._held[: min(found)[1]], "stop"
        self.why = self.why or ("length" if last else "")
        sure = len(self._held) if self.why else len(self._held) - self._begun()
        new, self._held = self._held[:sure], self._held[sure:]
        self._told.append(new)
        return new

    def fresh(self) -> np.ndarray:
        """The tokens since it was asked last, (T,)."""
        new, self._n_told = self._ids[self._n_told :], len(self._ids)
        return np.concatenate([self._ids[0][:0], *new])

    def _begun(self) -> int:
        """How many of the last characters a stop string may begin with."""
        begun = [n for s in self._stop for n in range(1, len(s)) if self._held.endswith(s[:n])]
        return max(begun, default=0)

    def sample(self) -> Sample:
        """The finished row."""
        text, ids = "".join(self._told) + self._held, np.concatenate(self._ids)
        if self.why == "stop":  # the fewest tokens that hold the text

            def holds_it(n):
                return self._tok.decode(ids[:n]).startswith(text)

            ids = ids[: bisect.bisect_left(range(len(ids)), True, key=holds_it)]
        log_probs = np.concatenate(self._log_probs)[: len(ids)]
        rounded = tuple(round(float(p), 6) for p in log_probs)
        return Sample(self._prompt, text, tuple(ids.tolist()), rounded, self.why)
