"""A user's mistake as an exception, the nearest known name, and text that a terminal may show.

``UserError`` is raised where a value enters, before anything is compiled; a command prints its one
line on stderr and exits with code 2 (see ``cli/main.py``).
"""

import difflib
from collections.abc import Callable, Iterable


class UserError(ValueError):
    """A mistake of the user's: one line that says what is wrong, the numbers and the way out."""


def did_you_mean(name: str, known: Iterable[str], show: Callable[[str], str] = str) -> str:
    """The end of a sentence that names the known name nearest to ``name``, "" if none is near.

    The last parts of dotted paths are compared, dashes and case aside: four letters of five have to
    agree, or all but for their order. ``show``: how a name is written in the sentence.
    """
    wanted = last_part(name)
    known_by: dict[str, list[str]] = {}
    for other in known:
        known_by.setdefault(last_part(other), []).append(other)
    near = difflib.get_close_matches(wanted, known_by, 1, 0.8)
    near = near or [last for last in known_by if sorted(last) == sorted(wanted)]
    if not wanted or not near:
        return ""
    # Of equal last parts, the path that is most alike.
    nearest = difflib.get_close_matches(name, known_by[near[0]], 1, 0)[0]
    return f" (did you mean {show(nearest)}?)"


def last_part(name: str) -> str:
    """What is compared of ``--config.model.N-layer``: n_layer."""
    name = name.casefold().lstrip("-").replace("-", "_")
    return name.rpartition(".")[2] or name


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can express a text: what the system gives for bytes that are not, it can't."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def harmless(text: str) -> str:
    """Escape what could move a cursor or turn the writing round; keep joiners and wide spaces."""
    kept = "\n\xa0\u3000\u200c\u200d"
    return "".join(c if c.isprintable() or c in kept else repr(c)[1:-1] for c in text.expandtabs(4))
