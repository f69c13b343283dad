"""What may be asked of ``/v1/completions``, and of what an answer is made.

In: a JSON object: OpenAI's fields, and three of our own. Out: a ``CompletionRequest``. What is
unknown, or means something that these models do not do, is refused by name: an answer to another
question would look right.
"""

import dataclasses
import secrets
from collections.abc import Callable
from typing import Any, NamedTuple

from gptjax.config.schema import MOST_SEED
from gptjax.errors import did_you_mean
from gptjax.serving.guard import Refusal


@dataclasses.dataclass(frozen=True)
class Limits:
    """The most that one request may ask for."""

    tokens: int = 4096  # of a text that is made
    rows: int = 128  # texts: prompts times n


@dataclasses.dataclass(frozen=True)
class CompletionRequest:
    """A checked request. A prompt is a text or its tokens; ``logprobs`` None asks for none.

    The names are OpenAI's; ``top_k``, ``min_p`` and ``repetition_penalty`` those of ``sample``;
    ``return_token_ids`` is vLLM's.
    """

    model: str | None = None
    prompt: tuple[str | tuple[int, ...], ...] = ("",)
    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    n: int = 1
    stop: tuple[str, ...] = ()
    seed: int = 0
    logprobs: int | None = None
    echo: bool = False
    stream: bool = False
    include_usage: bool = False
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    return_token_ids: bool = False


LOGPROBS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


class Part(NamedTuple):
    """More of the text of choice ``index``, and why it ended if it did.

    ``logprobs``: OpenAI's four lists, of the tokens that became sure; ``token_ids`` those tokens.
    Each is None where none are asked.
    """

    index: int
    text: str
    logprobs: dict[str, list] | None
    finish_reason: str | None = None
    token_ids: list[int] | None = None

    def json(self) -> dict[str, Any]:
        """As OpenAI has it; with token ids only where they were asked for."""
        left_out = {"token_ids"} if self.token_ids is None else set()
        return {name: value for name, value in self._asdict().items() if name not in left_out}


class Usage(NamedTuple):
    """Tokens read, those of each prompt once, and made."""

    prompt_tokens: int
    completion_tokens: int

    def json(self) -> dict[str, int]:
        """As OpenAI has it, with their sum."""
        return self._asdict() | {"total_tokens": sum(self)}


class Whole:
    """An answer that is not streamed: the parts of each choice together."""

    def __init__(self, asked: CompletionRequest):
        lists = None if asked.logprobs is None else LOGPROBS

        def no_ids() -> list[int] | None:
            return [] if asked.return_token_ids else None

        self.choices: list[dict[str, Any]] = [
            Part(index, "", lists and {name: [] for name in lists}, None, no_ids()).json()
            for index in range(len(asked.prompt) * asked.n)
        ]

    def add(self, part: Part) -> None:
        """Take in the next part."""
        choice = self.choices[part.index]
        choice["text"] += part.text
        choice["finish_reason"] = part.finish_reason
        for name, values in (part.logprobs or {}).items():
            choice["logprobs"][name] += values
        if part.token_ids is not None:
            choice["token_ids"] += part.token_ids


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**53)


def _is_stop(value: Any) -> bool:
    texts = [value] if isinstance(value, str) else value
    is_list = isinstance(texts, list) and len(texts) <= 4
    return is_list and all(isinstance(text, str) and text for text in texts)


def _is_prompt(value: Any) -> bool:
    if isinstance(value, str):
        return True
    if not isinstance(value, list):
        return False
    kinds = (_is_text, _is_id, _is_ids)
    return any(all(map(kind, value)) for kind in kinds)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_id, value))


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


# name -> what it may be, and in words; the ranges of the sampler's numbers are the sampler's own.
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model": (_is_text, "the name of a model"),
    "prompt": (_is_prompt, "a text, a list of texts, a list of tokens, or a list of such lists"),
    "max_tokens": (_whole(0, 2**53), "a whole number, 0 or more"),
    "temperature": (_is_number, "a number"),
    "top_p": (_is_number, "a number"),
    "n": (_whole(1, 2**53), "a whole number, 1 or more"),
    "stop": (_is_stop, "a text that is not empty, or a list of up to four"),
    "seed": (_whole(0, MOST_SEED), "a whole number, at least 0 and below 2**32"),
    "logprobs": (_whole(0, 5), "a whole number, 0 to 5"),
    "echo": (_is_bool, "true or false"),
    "stream": (_is_bool, "true or false"),
    "stream_options": (lambda v: isinstance(v, dict), "an object"),
    "top_k": (_whole(1, 2**31 - 1), "a whole number, 1 or more (and below 2**31)"),
    "min_p": (_is_number, "a number"),
    "repetition_penalty": (_is_number, "a number"),
    "return_token_ids": (_is_bool, "true or false"),
}
# OpenAI's, but for one value that changes nothing: refused.
_NOT_HERE: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "suffix": ("",),
}


def parse(said: dict[str, Any], limits: Limits) -> CompletionRequest:
    """Check a request; Refusal (400) names the field. Without a seed it gets one by chance."""
    said = {name: value for name, value in said.items() if value is not None}
    n, best_of = said.get("n", 1), said.pop("best_of", None)
    said.pop("user", None)  # who asks changes no answer
    for name, nothing in _NOT_HERE.items():
        if (value := said.pop(name, nothing[0])) not in nothing or isinstance(value, bool):
            raise Refusal(400, f"{name} is not supported here: leave it out", name)
    for name, value in said.items():
        if name not in _FIELDS:
            near = did_you_mean(name, _FIELDS)
            raise Refusal(400, f"unknown field {name!r:.80}{near}", name)
        good, must = _FIELDS[name]
        if not good(value):
            raise Refusal(400, f"{name} must be {must}, not {value!r:.80}", name)
    if best_of not in (None, n):
        raise Refusal(
            400, f"best_of={best_of!r:.40} is not supported here: n says how many", "best_of"
        )
    include_usage = _include_usage(said.pop("stream_options", None), said.get("stream", False))
    if "prompt" in said:
        said["prompt"] = _prompts(said["prompt"])
    if isinstance(stop := said.get("stop", ()), str):
        stop = (stop,)
    said |= {"stop": tuple(stop), "include_usage": include_usage}
    asked = CompletionRequest(**{"seed": secrets.randbelow(MOST_SEED + 1)} | said)
    if asked.max_tokens > limits.tokens:
        line = f"max_tokens={asked.max_tokens:,} is more than this server's {limits.tokens:,}"
        raise Refusal(400, line, "max_tokens")
    if (rows := len(asked.prompt) * asked.n) > limits.rows:
        said_n = f"{len(asked.prompt):,} prompts x n={asked.n:,}"
        line = f"{said_n} are {rows:,} texts, and {limits.rows} are the most"
        raise Refusal(400, line, "n" if asked.n > 1 else "prompt")
    return asked


def _include_usage(options: dict[str, Any] | None, stream: bool) -> bool:
    if options is None:
        return False
    if not stream:
        raise Refusal(400, "stream_options goes with stream: true alone", "stream_options")
    found = False
    for name, value in options.items():
        if name == "include_usage" and isinstance(value, bool):
            found = value
        elif name != "include_obfuscation" or value is not False:
            at = f"stream_options.{name}"
            raise Refusal(400, f"{at}={value!r:.40} is not supported here", at)
    return found


def _prompts(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """One prompt or several, each a text or tokens; [] is one of no tokens."""
    if isinstance(value, str):
        return (value,)
    if all(map(_is_id, value)):
        return (tuple(value),)
    return tuple(one if isinstance(one, str) else tuple(one) for one in value)
