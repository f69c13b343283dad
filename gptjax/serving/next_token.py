"""What may come after a text, before and after the sampler's rules; and what of a text is copied.

In: a run and the tokens of a text; or a text and the corpus. Out: plain JSON values. V vocabulary,
T tokens of a context.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from gptjax.checkpoints.run import Run
from gptjax.data.corpora import Corpus
from gptjax.data.tokenizers import Tokenizer
from gptjax.errors import UserError
from gptjax.evaluation import memorization
from gptjax.evaluation.loss_eval import softmax
from gptjax.generation import decode, sampling
from gptjax.generation.sampling import Chain

MOST_COMPARED = 10_000  # characters


class Asked:
    """A run that is asked what comes next, text after text: its weights are laid out once.

    The numbers are those that ``generate`` draws with: the same model in the same precision.
    """

    def __init__(self, run: Run):
        run.require_next("say what comes next")
        self.tokenizer, self.vocab_size = run.tokenizer, run.model.vocab_size
        self._model, self._params = decode.prepare(run.model, run.params)

    def sampler(self, **rules: float) -> Chain:
        """``sampling.build``; what is not named has the number that changes nothing.

        So every question has the same rules, and one compiled program answers them all.
        """
        neutral = {"temperature": 1.0, "top_k": self.vocab_size, "top_p": 1.0, "min_p": 0.0}
        return sampling.build(**neutral | {"repetition_penalty": 1.0} | rules)

    def next_token(self, ids_T: np.ndarray, sampler: Chain, n: int) -> dict[str, Any]:
        """The n likeliest tokens after a context (T >= 1): p of the model, and p of the draw.

        "sampled" is p after the rules of ``sampler``: 0 for what they leave out. Entropies are in
        nats. UserError: logits that are not finite.
        """
        logits_V = decode.next_logits(self._model, self._params, ids_T)
        if not np.isfinite(logits_V).all():
            raise UserError(
                f"the logits after token {len(ids_T)} are not finite: the parameters are damaged, "
                "or training diverged; serve an earlier step with --checkpoint"
            )
        seen_V = np.zeros(len(logits_V), bool)
        seen_V[ids_T] = True
        p_V, sampled_V = softmax(logits_V), softmax(np.asarray(_rules(sampler, logits_V, seen_V)))
        best = np.argsort(-p_V, kind="stable")[:n].tolist()
        seen = ids_T[-self._model.block_size :]
        return {
            "seen": {"tokens": len(seen), "of": len(ids_T), "text": self.tokenizer.decode(seen)},
            "entropy_nats": entropy(p_V),
            "sampled_entropy_nats": entropy(sampled_V),
            "vocab_size": len(p_V),
            "kept": int((sampled_V > 0).sum()),
            "tokens": [
                {"id": i, "text": label(self.tokenizer, i), "p": p_V[i], "sampled": sampled_V[i]}
                for i in best
            ],
            "rest": {
                "tokens": len(p_V) - len(best),
                "p": max(0.0, 1 - p_V[best].sum()),
                "sampled": max(0.0, 1 - sampled_V[best].sum()),
            },
        }


@jax.jit
def _rules(sampler: Chain, logits_V: jax.Array, seen_V: jax.Array) -> jax.Array:
    return sampler(logits_V[None], seen_V[None])[0]


def entropy(p_V: np.ndarray) -> float:
    """-Σ p ln p, nats: 0 where one token is sure, ln V where all are alike."""
    p_V = p_V[p_V > 0]
    return max(0.0, -float(p_V @ np.log(p_V)))


def label(tok: Tokenizer, id: int) -> str:
    """The text of a token, white space as it is; of half a character what stands for it."""
    text = tok.decode([id])
    return tok.token_text(id) if not text or "\ufffd" in text else text


def copied(text: str, corpus: Corpus) -> dict[str, Any]:
    """How much of a text stands in what the run learnt from.

    Of a stream the longest passage of it that stands in train, and where it begins, characters;
    "held_out" is that of a text which the run never saw: as many characters, the first of val. Of
    items each line: "in train", "held out" (in val or test) or "new". UserError: the text is too
    long, or only tokens of the corpus are here.
    """
    corpus.require_text()
    if len(text) > MOST_COMPARED:
        raise UserError(
            f"text has {len(text):,} characters, too many to look for: {MOST_COMPARED:,} at most"
        )
    splits: Any = corpus.splits
    if corpus.is_items:
        lines = text.splitlines()
        sorted_items = memorization.sort_items(lines, splits)
        where = {item: name for name, items in sorted_items.items() for item in items}
        return {"kind": "items", "items": [{"item": i, "where": where[i]} for i in lines]}
    passage = memorization.longest(text, splits["train"])
    unseen = memorization.longest(splits["val"][: len(text)], splits["train"])
    sizes = {"characters": len(passage), "of": len(text), "held_out": len(unseen)}
    return {"kind": "passage", "passage": passage, "begin": text.find(passage), **sizes}


def tokens_of(tok: Tokenizer, ids_T: np.ndarray, begin: int, end: int) -> list[int]:
    """The places [first, past the last] of the tokens that hold the characters begin to end."""
    decode_more, last = tok.decoder(), len(ids_T) - 1
    sizes = [len(decode_more(np.array([id]), i == last)) for i, id in enumerate(ids_T)]
    ends = np.cumsum(sizes)
    # The bytes of a character begin where it does, and end, but for the last one, there too.
    first = min(np.searchsorted(ends, begin, "right"), np.searchsorted(ends - sizes, begin))
    return [int(first), int(np.searchsorted(ends, end)) + 1]
