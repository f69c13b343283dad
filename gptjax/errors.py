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

    Case does not count; names, perhaps dotted paths, are compared whole first, then by their last
    parts. ``show``: how a name is written in the sentence.
    """
    whole = {other.casefold(): other for other in known}
    last = {_last_part(folded): other for folded, other in reversed(whole.items())}
    name = name.casefold()
    if close := difflib.get_close_matches(name, whole, 1, 0.8):
        return f" (did you mean {show(whole[close[0]])}?)"
    if close := difflib.get_close_matches(_last_part(name), last, 1):
        return f" (did you mean {show(last[close[0]])}?)"
    return ""


def _last_part(name: str) -> str:
    return name.rpartition(".")[2].lstrip("-")


def harmless(text: str) -> str:
    """Escape what could move a cursor or turn the writing round; keep joiners and wide spaces."""
    kept = "\n\xa0\u3000\u200c\u200d"
    return "".join(c if c.isprintable() or c in kept else repr(c)[1:-1] for c in text.expandtabs(4))
